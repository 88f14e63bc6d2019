"""What the README and the pages of docs/ show is true: their Python runs, commands exist, files are there."""

import re
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from steadydepth.cli import app
from steadydepth.files.video_write import write_video
from steadydepth.training.checkpoint import save_model

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCKS = PYTHON.findall(README)
# That of docs/export.md is held to the model in tests/exporters/test_exported_state.py, that of docs/serving.md to a
# server in tests/serving/test_serving_page.py.
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in ("export.md", "serving.md"))
ON_PAGES = {
    page.relative_to(ROOT / "docs").as_posix(): blocks
    for page in PAGES
    if (blocks := PYTHON.findall(page.read_text(encoding="utf-8")))
}


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


@pytest.mark.parametrize("page", ON_PAGES)
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys, model, moving_clip):
    """In a folder with a run and the user's own image and video; each line that it prints has a finite number."""
    monkeypatch.chdir(tmp_path)
    save_model(model, tmp_path / "runs" / "mine")
    cv2.imwrite(str(tmp_path / "room.png"), moving_clip.frames[0])
    write_video(tmp_path / "clip.mp4", list(moving_clip.frames), 15.0)
    names: dict = {}
    for block in ON_PAGES[page]:
        exec(compile(block, page, "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert lines
    for line in lines:
        assert re.search(r"\d", line), line
        assert not re.search(r"\b(nan|inf)\b", line), line
    if page == "predict.md":
        assert names["result"].depth.shape == moving_clip.frames.shape[1:3]
        assert (tmp_path / "depth" / "clip.mkv").is_file()


def test_every_command_of_the_readme_exists():
    commands = re.findall(r"^ *steadydepth +((?:[a-z][a-z-]* ?)+)", README, re.MULTILINE)
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


def test_every_page_is_in_the_site_and_its_links_lead_somewhere():
    """What Sphinx would warn of, without a build: pages in no table of contents, and links to nothing."""
    docs = ROOT / "docs"
    listed = re.findall(
        r"^([\w/]+)$",
        "\n".join(re.findall(r"```{toctree}\n(.*?)```", (docs / "index.md").read_text(encoding="utf-8"), re.DOTALL)),
        re.MULTILINE,
    )
    pages = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")}
    assert sorted(listed) == sorted(page for page in pages if page != "index" and not page.startswith("api/"))
    for page in docs.rglob("*.md"):
        links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")) if "://" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == []
