import os
from pathlib import Path

import pytest

from steadydepth.files.linked_folders import link_folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clip" / "rgb").mkdir(parents=True)
    (tmp_path / "clip" / "rgb" / "0000.png").write_bytes(b"one")
    return tmp_path / "clip"


@pytest.fixture
def without_symbolic_links(monkeypatch):
    """As on Windows without the right to make them."""

    def refuse(self, target, target_is_directory=False):
        raise OSError(22, "A required privilege is not held by the client", None, 1314)

    monkeypatch.setattr(Path, "symlink_to", refuse)


@pytest.fixture
def without_hard_links(monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize(
    "lacking", [(), ("without_symbolic_links",), ("without_symbolic_links", "without_hard_links")], ids=len
)
def test_a_folder_stands_in_a_second_place_and_takes_that_of_one_before(folder, lacking, request):
    at = folder.parent / "linked"
    for _ in range(2):
        for fixture in lacking:
            request.getfixturevalue(fixture)
        link_folder(folder, at)
        assert (at / "rgb" / "0000.png").read_bytes() == b"one"
        (folder / "rgb" / "0001.png").write_bytes(b"two")
    assert sorted(path.name for path in (at / "rgb").iterdir()) == ["0000.png", "0001.png"]
    is_shared = (folder / "rgb" / "0000.png").samefile(at / "rgb" / "0000.png")
    assert is_shared == (len(lacking) < 2)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_copy_that_breaks_off_is_not_taken_for_a_folder(
    folder, without_symbolic_links, without_hard_links, monkeypatch
):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        link_folder(folder, folder.parent / "linked")
    assert [path.name for path in folder.parent.iterdir()] == ["clip"]
