"""The page of `steadydepth app`, as a Space of the hub runs it."""

import os

from steadydepth.gradio_app import make_app
from steadydepth.models.zoo import DEFAULT

demo = make_app(os.environ.get("MODEL", DEFAULT))

if __name__ == "__main__":
    demo.launch()
