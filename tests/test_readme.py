"""What the README shows is true: its Python runs, its commands exist, its files are there."""

import re
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from steadydepth.cli import app
from steadydepth.files.video_write import write_video
from steadydepth.training.checkpoint import save_model

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_is_python_to_run():
    assert BLOCKS
    assert len(BLOCKS[0].strip().splitlines()) <= 12


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_of_the_readme_runs(block, tmp_path, monkeypatch, model, moving_clip):
    """In a folder with what the demo leaves and the user's own image and video."""
    monkeypatch.chdir(tmp_path)
    save_model(model, tmp_path / "runs" / "demo" / "steady")
    cv2.imwrite(str(tmp_path / "room.png"), moving_clip.frames[0])
    write_video(tmp_path / "room.mp4", list(moving_clip.frames), 15.0)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["result"].depth.shape == moving_clip.frames.shape[1:3]
    assert names["nearest"] > 0


def test_every_command_of_the_readme_exists():
    commands = re.findall(r"^ *steadydepth +((?:[a-z]+ ?)+)", README, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        words = command.split()
        known = [words[0], words[1]] if words[0] == "data" else [words[0]]
        result = CliRunner().invoke(app, [*known, "--help"])
        assert result.exit_code == 0, known


def test_every_local_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
