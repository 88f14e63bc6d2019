import io
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from steadydepth.errors import InputError
from steadydepth.jobs.limits import JobLimits
from steadydepth.jobs.unpack import below_wrapping, unpack

IMAGE = os.urandom(300)  # as no packer makes smaller


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path, members):
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def files_of(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("pack", "name"), [(zipped, "a.zip"), (tarred, "a.tgz"), (tarred, "a.tar")])
def test_images_videos_and_meta_come_out_and_clutter_does_not(tmp_path, pack, name):
    members = {
        "clips/one/rgb/0000.png": IMAGE,
        "clips/one/meta.json": b'{"fps": 5}',
        "./two.mp4": b"video",
        "clips/one/notes.txt": b"mine",
        "clips/index.json": b"{}",
        "__MACOSX/clips/._one.png": b"mac",
        "clips/.hidden.png": b"dot",
        "clips/Thumbs.db": b"win",
    }
    unpack(pack(tmp_path / name, members), name, tmp_path / "out", JobLimits())
    kept = ("clips/one/rgb/0000.png", "clips/one/meta.json", "./two.mp4")
    assert files_of(tmp_path / "out") == {key.removeprefix("./"): members[key] for key in kept}


def test_an_archive_fills_neither_the_folder_nor_the_disk(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"clip/rgb/0000.png": bytes(600_000), "clip/rgb/0001.png": bytes(600_000)})
    with pytest.raises(InputError, match="more than 1 MiB, for which uploads have no room"):
        unpack(archive, "a.zip", tmp_path / "one", JobLimits(stored_bytes=1 << 20))
    with pytest.raises(InputError, match="more than 0 MiB, for which the server's disk has no room"):
        unpack(archive, "a.zip", tmp_path / "two", JobLimits(free_bytes=1 << 60))


CLIMBING = ("../x.png", "a/../../x.png", "/x.png", "a\\..\\x.png", "C:\\x.png", "c:x.png", "a/c:/x.png", "x\0y.png")


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize(("pack", "archive"), [(zipped, "a.zip"), (tarred, "a.tar")])
def test_nothing_is_written_outside(tmp_path, pack, archive, name):
    inner = tmp_path / "deep" / "er"
    inner.mkdir(parents=True)
    try:
        path = pack(inner / archive, {name: IMAGE})
        unpack(path, archive, inner / "out", JobLimits())
    except (InputError, ValueError):
        pass  # ValueError: not even the packer takes it
    outside = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".png"}
    # A name that is cut short, or read as another system reads it, stays inside.
    assert all(path.is_relative_to(inner / "out") for path in outside)
    if ".." in name or name.startswith("/"):
        assert not outside


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_device_refuses_the_archive(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("rgb/0000.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="link, a device or sparse"):
        unpack(tmp_path / "a.tar", "a.tar", tmp_path / "out", JobLimits())


def test_a_link_in_a_zip_refuses_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("rgb/0000.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="link or a device"):
        unpack(tmp_path / "a.zip", "a.zip", tmp_path / "out", JobLimits())


@pytest.mark.parametrize(("pack", "name"), [(zipped, "a.zip"), (tarred, "a.tgz")])
def test_a_bomb_is_refused_before_it_is_large(tmp_path, pack, name):
    path = pack(tmp_path / name, {f"rgb/{number:04d}.png": bytes(1 << 22) for number in range(8)})
    assert path.stat().st_size < 1 << 17
    with pytest.raises(InputError, match="unpacks to more than"):
        unpack(path, name, tmp_path / "out", JobLimits())
    assert sum(map(len, files_of(tmp_path / "out").values())) <= JobLimits().ratio * path.stat().st_size + (1 << 20)


def test_a_size_that_is_a_lie_is_not_believed(tmp_path):
    path = zipped(tmp_path / "a.zip", {"0000.png": bytes(1 << 22)})
    real, data = (1 << 22).to_bytes(4, "little"), path.read_bytes()
    assert data.count(real) == 2  # of the file and of the directory
    path.write_bytes(data.replace(real, (100).to_bytes(4, "little")))
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(path, "a.zip", tmp_path / "out", JobLimits())
    assert sum(map(len, files_of(tmp_path / "out").values())) <= 100


def test_too_many_files_are_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {f"{number}.png": IMAGE for number in range(4)})
    unpack(path, "a.zip", tmp_path / "four", JobLimits(files=4))
    with pytest.raises(InputError, match="more than 3 files"):
        unpack(path, "a.zip", tmp_path / "out", JobLimits(files=3))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0000.png", IMAGE)
        archive.writestr("0000.png", IMAGE[::-1])
    with pytest.raises(InputError, match="there twice"):
        unpack(tmp_path / "a.zip", "a.zip", tmp_path / "out", JobLimits())


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar"])
def test_a_damaged_archive_is_named(tmp_path, name):
    pack = zipped if name.endswith("zip") else tarred
    data = pack(tmp_path / name, {f"{number}.png": os.urandom(3000) for number in range(3)}).read_bytes()
    for number, damaged in enumerate((data[: len(data) // 2], b"", os.urandom(2000), data[:200] + data[240:])):
        path = tmp_path / f"{number}{name}"
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=name):
            unpack(path, name, tmp_path / f"out{number}", JobLimits())


@pytest.mark.parametrize("seed", range(8))
def test_a_tar_that_is_damaged_between_its_files_is_no_shorter_one(tmp_path, seed):
    """tarfile takes a header that it cannot read for the end, and would leave out what follows."""
    generator = np.random.default_rng(seed)
    files = {f"{number}.png": generator.bytes(700) for number in range(3)}
    data = tarred(tmp_path / "a.tar", files).read_bytes()
    start = int(generator.integers(512, 2000))
    path = tmp_path / "damaged.tar"
    path.write_bytes(data[:start] + data[start + 40 :])
    with pytest.raises(InputError, match=r"a\.tar: cannot be unpacked"):
        unpack(path, "a.tar", tmp_path / "out", JobLimits())


def test_an_archive_without_images_says_so(tmp_path):
    with pytest.raises(InputError, match="holds no image and no video"):
        unpack(zipped(tmp_path / "a.zip", {"notes.txt": b""}), "a.zip", tmp_path / "out", JobLimits())


def test_folders_around_the_sequences_are_passed(tmp_path):
    (tmp_path / "a/b/one/rgb").mkdir(parents=True)
    assert below_wrapping(tmp_path) == tmp_path / "a/b"
    (tmp_path / "a/two").mkdir()
    assert below_wrapping(tmp_path) == tmp_path / "a"
    assert below_wrapping(tmp_path / "a/b/one") == tmp_path / "a/b/one"
