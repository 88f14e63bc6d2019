"""The example Space: what it shows, and that its settings name what is there."""

import re
import runpy
from pathlib import Path

import yaml

from steadydepth import gradio_app

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / "integrations" / "space"


def test_the_app_is_the_page_of_a_model_by_its_name(monkeypatch):
    monkeypatch.setattr(gradio_app, "make_app", lambda model: f"page of {model}")
    monkeypatch.delenv("MODEL", raising=False)
    assert runpy.run_path(str(HOME / "app.py"))["demo"] == "page of steadydepth-small"
    monkeypatch.setenv("MODEL", "me/mine")
    assert runpy.run_path(str(HOME / "app.py"))["demo"] == "page of me/mine"


def test_its_settings_name_what_is_there():
    settings = yaml.safe_load((HOME / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (HOME / settings["app_file"]).is_file()
    assert settings["sdk"] == "gradio"
    (extra,) = re.findall(
        r"^steadydepth\[(\w+)\]$", (HOME / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
