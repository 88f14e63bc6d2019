import os
import shutil
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from steadydepth.files import atomic_writes
from steadydepth.files.atomic_writes import (
    check_file,
    check_folder,
    check_name,
    hidden_folder,
    new_file,
    new_folder,
)
from steadydepth.files.tensors import write_tensors
from steadydepth.files.writing import writing_in
from steadydepth.types import InputError


class Interrupted(Exception):
    pass


def write_and_stop(writing):
    """Begin to write into a file or a folder, and be interrupted."""
    with writing as part:
        (part / "one" if part.is_dir() else part).write_text("half", encoding="utf-8")
        raise Interrupted


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../up", "a/b", "a\\b", ".hidden", "c:d", "C:", "x" * 256, "nul\0"]
)
def test_a_name_that_is_more_than_a_name_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"is no name for something inside|a name of 256 bytes"):
        check_name(name, tmp_path)


@pytest.mark.parametrize("name", ["kitchen_01", "a b", "0001.take-2", "küche", "console", "x" * 255, "caf\udce9"])
def test_a_plain_name_is_taken(name, tmp_path):
    assert check_name(name, tmp_path) == name


@pytest.mark.parametrize("name", ["10:33:20", "what?", "con", "COM1.take", "nul", "dots...", "end ", "line\n"])
def test_what_windows_refuses_in_a_name_is_refused_there_alone(name, tmp_path):
    if sys.platform == "win32":
        with pytest.raises(InputError, match="Windows takes no such name"):
            check_name(name, tmp_path)
    else:
        assert check_name(name, tmp_path) == name


@pytest.mark.parametrize("letter", ["x", "é", "日"])
def test_a_temporary_name_is_cut_between_letters(letter, tmp_path):
    final = tmp_path / f"a{letter * 80}.txt"
    with new_file(final) as part:
        part.write_text("new", encoding="utf-8")
        assert part.name.startswith(f".a{letter * 30}")
    assert final.read_text(encoding="utf-8") == "new"


def test_a_folder_that_could_not_be_removed_is_removed_by_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda path, ignore_errors: None)  # Windows, with a file open in it
        with hidden_folder(tmp_path, "a") as left:
            pass
    assert left.is_dir()
    with hidden_folder(tmp_path, "a") as folder:
        assert folder.is_dir()
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere an open file can be replaced")
def test_a_file_that_somebody_has_open_for_a_moment_is_replaced(tmp_path, monkeypatch):
    final = tmp_path / "x.txt"
    final.write_text("old", encoding="utf-8")
    with final.open() as held:
        with pytest.raises(PermissionError) as refused, new_file(final) as part:
            part.write_text("newer", encoding="utf-8")
        assert refused.value.filename2 == str(final)
        assert list(tmp_path.iterdir()) == [final]
        monkeypatch.setattr(atomic_writes.time, "sleep", lambda seconds: held.close())
        with new_file(final) as part:
            part.write_text("new", encoding="utf-8")
    assert final.read_text(encoding="utf-8") == "new"


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    final = tmp_path / "deep" / "x.txt"
    for text in ("old", "new"):
        with new_file(final) as part:
            part.write_text(text, encoding="utf-8")
            assert part.suffix == ".txt"
            assert not final.exists() or final.read_text(encoding="utf-8") == "old"
    assert final.read_text(encoding="utf-8") == "new"
    assert list(final.parent.iterdir()) == [final]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    final, had_name, sync = tmp_path / "x.txt", [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: had_name.append(final.exists()) or sync(file))
    with new_file(final) as part:
        part.write_text("new", encoding="utf-8")
    assert had_name == [False]
    assert final.read_text(encoding="utf-8") == "new"


def fail_as_torch_does(cause):
    """torch.save raises an error of its own while the one of the disk passes."""
    try:
        raise cause
    finally:
        raise RuntimeError("unexpected pos 64 vs 0")


def fail(error):
    raise error


@pytest.mark.parametrize("kind", [fail, fail_as_torch_does])
@pytest.mark.parametrize("cause", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_is_explained(tmp_path, kind, cause):
    with (
        pytest.raises(InputError, match=r"cannot be written: .*No space left on device.* make room"),
        writing_in(tmp_path),
    ):
        kind(cause)


@pytest.mark.parametrize("kind", [fail, fail_as_torch_does])
def test_other_errors_than_those_of_a_disk_pass(tmp_path, kind):
    with pytest.raises((RuntimeError, KeyError)) as raised, writing_in(tmp_path):
        kind(KeyError("weights"))
    assert not isinstance(raised.value, InputError)


def test_an_interrupted_file_leaves_the_old_one_and_no_rest(tmp_path):
    final = tmp_path / "x.txt"
    final.write_text("old", encoding="utf-8")
    with pytest.raises(Interrupted):
        write_and_stop(new_file(final))
    assert final.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_tensors_can_be_read_by_whoever_may_read_new_files(tmp_path):
    write_tensors(tmp_path / "some.safetensors", {"turned": torch.arange(6.0).reshape(2, 3).T})
    torch.testing.assert_close(
        load_file(tmp_path / "some.safetensors")["turned"], torch.tensor([[0, 3], [1, 4], [2, 5.0]])
    )
    (tmp_path / "plain").touch()
    assert (tmp_path / "some.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(Interrupted):
        write_and_stop(new_folder(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "a") as part:
        (part / "one").write_text("1", encoding="utf-8")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "one").read_text(encoding="utf-8") == "1"


def test_a_folder_that_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    begun = []
    with pytest.raises(InputError, match="exists and is never overwritten"), new_folder(tmp_path / "a") as part:
        begun.append(part)
    assert begun == []  # no work that would be lost
    with pytest.raises(InputError, match="exists and is never overwritten"), new_folder(tmp_path / "b"):
        (tmp_path / "b").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "below")
    (tmp_path / "taken").write_text("", encoding="utf-8")
    for wanted in ("taken", "taken/below/it"):
        with pytest.raises(InputError, match=r"taken is a file, and .* is to be a folder"):
            check_folder(tmp_path / wanted)


def test_a_folder_where_a_file_is_to_be_is_named(tmp_path):
    check_file(tmp_path / "new" / "found.json")
    with pytest.raises(InputError, match="is a folder, and a file is to be written"):
        check_file(tmp_path)
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="taken is a file"):
        check_file(tmp_path / "taken" / "found.json")
