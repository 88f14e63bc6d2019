"""A page to try a model on: drop a video, and see its depth as it is and as a filter leaves it, beside each other."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steadydepth.errors import InputError, import_extra
from steadydepth.files.prefetch import read_ahead
from steadydepth.files.video_write import write_video
from steadydepth.inference.depth_cache import CachedDepth, cache_depth
from steadydepth.inference.filters import NAMES, choose_filter
from steadydepth.inference.frame_sources import open_source
from steadydepth.inference.predictor import AnyModel, Predictor, as_predictor
from steadydepth.models.zoo import DEFAULT
from steadydepth.ops.depth_view import DepthView
from steadydepth.ops.resize import shrink_image
from steadydepth.serving.address import check_address, refused_address, shown_address

LOG = logging.getLogger(__name__)


def compare_filter(
    predictor: Predictor,
    video: Path | str,
    out: Path,
    *,
    filter: str = "learned",
    view: DepthView | None = None,
    max_side: int = 640,
) -> Path:
    """Write a video of the frames, their depth, and the same filtered, from left to right in one range of colours.

    Args:
        predictor: the model.
        video: a file, or a folder of images.
        out: the video to write; the sound of a video is kept.
        filter: one of `filters.NAMES`.
        view: range and colours; the range is that of the depth without the filter.
        max_side: longer side in pixels of each of the three.

    Returns: `out`.

    Raises:
        InputError: the video cannot be read, or there is no such filter.
    """
    view, source = view or DepthView(), open_source(Path(video))
    view.check(predictor.claims)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

        def predicted(name: str) -> CachedDepth:
            kept = Path(folder) / name
            kept.mkdir(exist_ok=True)
            return cache_depth(predictor, source, kept, filter=choose_filter(name), report=lambda *_: None)

        raw, filtered = predicted("none"), predicted(filter)

        def images() -> Any:
            depths = zip(raw.frames(), filtered.depth.read(), raw.ranges(view), strict=False)
            for (image, before), after, shown in depths:
                panels = (image, *(view.paint(depth, shown, predictor.claims) for depth in (before, after)))
                yield np.hstack([shrink_image(panel, max_side) for panel in panels])

        write_video(out, read_ahead(images()), raw.fps, like=source.video)
    return out


def make_app(model: AnyModel = DEFAULT, *, device: str | None = None) -> Any:
    """The page as a `gradio.Blocks`, to launch or to put into an app of one's own.

    Args:
        model: a name, a module or what `load` returns.
        device: of a model that is named, such as cpu or cuda:1; None takes an accelerator where there is one.

    Raises:
        InputError: the extra `app` is not installed, or there is no such model or device.
    """
    gradio, predictor = import_extra("gradio", "app", "the app needs Gradio"), as_predictor(model, device=device)

    def run(video: str | None, filter: str, colours: str, look_ahead: float) -> Iterator[str]:
        if not video:
            raise gradio.Error("Drop a video first.", print_exception=False)
        # Gradio has taken its copy, which it deletes itself, when it asks for what comes after the video.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                view = DepthView(colours, look_ahead=int(look_ahead) or None)
                yield str(compare_filter(predictor, video, Path(folder) / "depth.mp4", filter=filter, view=view))
            except InputError as error:
                raise gradio.Error(str(error), print_exception=False) from error

    with gradio.Blocks(title="steadydepth", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"# steadydepth\nDepth of a video, raw and filtered. The model claims {predictor.claims}.")
        with gradio.Row():
            with gradio.Column(scale=1):
                video = gradio.Video(label="Video", sources=["upload"])
                filter = gradio.Dropdown([name for name in NAMES if name != "none"], value="learned", label="Filter")
                shown = gradio.Dropdown(
                    ["turbo", "grey", "viridis", "magma", "inferno", "cividis"], value="turbo", label="Colours"
                )
                look_ahead = gradio.Slider(
                    0, 100, value=0, step=5, label="Colour range of so many frames before and after (0: all)"
                )
                start = gradio.Button("Predict", variant="primary")
            with gradio.Column(scale=3):
                result = gradio.Video(label="Frame | raw | filtered", autoplay=True, loop=True, interactive=False)
        start.click(run, [video, filter, shown, look_ahead], result, api_name="predict")
    return page


def app(model: AnyModel = DEFAULT, *, device: str | None = None, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page of `make_app` until Ctrl-C.

    Args:
        model: a name, a module or what `load` returns.
        device: of a model that is named, such as cpu or cuda:1; None takes an accelerator where there is one.
        host: address to listen on; another than 127.0.0.1 lets other machines in, without a password.
        port: of that address; 0 takes a free one.

    Raises:
        InputError: the extra `app` is not installed, there is no such model or device, or the address cannot be
            listened on.
    """
    port = check_address(host, port)  # before a model is loaded
    page = make_app(model, device=device)
    LOG.info("open http://%s", shown_address(host, port))
    try:
        page.launch(server_name=host, server_port=port, quiet=True, footer_links=[])
    except OSError as error:
        raise refused_address(host, port, error) from error
