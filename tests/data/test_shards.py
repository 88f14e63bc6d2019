import http.server
import io
import json
import os
import shutil
import sys
import tarfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import PureWindowsPath

import cv2
import numpy as np
import pytest
import torch
from clip_samples import open_samples

from steadydepth.data.checks import check_data
from steadydepth.data.clips import clip_motion, fit_clip
from steadydepth.data.loader_workers import load_items
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.data.shards.read import INDEX, MEMBERS, ROW
from steadydepth.data.shards.store import read_range, url_of
from steadydepth.data.shards.write import pack
from steadydepth.errors import InputError, SomeFailedError
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.video_write import write_video
from steadydepth.ops.optical_flow import consistent, dis_flow
from steadydepth.types import Clip

ARRAYS = ("frames", "depth", "valid", "objects", "flow", "flow_valid", "K", "cam_to_world")


@pytest.fixture(scope="module")
def packed(world, tmp_path_factory):
    """The world in shards of about two frames each, with DIS flow."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert pack(world, out, shard_size=30_000, flow=True) == 2
    return out


@pytest.fixture
def copied(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "shards")


@pytest.mark.parametrize("codec", ["zstd", "png"])
def test_a_pack_gives_the_clips_of_its_folder_bit_for_bit(world, tmp_path, codec):
    source = shutil.copytree(world, tmp_path / "source")
    bare = source / "fixed_000003"
    (bare / "depth" / "0002.png").unlink()
    (bare / "valid").mkdir()
    cv2.imwrite(str(bare / "valid" / "0001.png"), np.tri(48, 64, dtype=np.uint8))
    pack(source, tmp_path / "shards", shard_size=30_000, codec=codec)
    assert len(list((tmp_path / "shards").glob("*.tar"))) > 2
    assert [path.name for path in find_sequences(tmp_path / "shards")] == ["fixed_000003", "moving_000004"]
    for path in find_sequences(source):
        theirs, ours = open_sequence(path), open_sequence(tmp_path / "shards" / path.name)
        assert (ours.fps, ours.fixed_camera, ours.source) == (theirs.fps, theirs.fixed_camera, theirs.source)
        assert sorted(ours.labels["depth"]) == sorted(theirs.labels["depth"])
        for span in ((0, 5), (1, 4)):
            one, other = theirs.read(*span), ours.read(*span)
            for name in ARRAYS:
                np.testing.assert_array_equal(getattr(other, name), getattr(one, name), err_msg=name)
    assert check_data(tmp_path / "shards") == []


def test_a_pack_is_plain_tar_with_the_names_of_webdataset(packed):
    with tarfile.open(packed / "00000.tar") as tar:
        names = tar.getnames()
        first = tar.extractfile(names[0]).read()
    assert names[:2] == ["fixed_000003/0000.rgb.zstd", "fixed_000003/0000.depth.zstd"]
    rows = np.load(packed / MEMBERS)
    assert rows.dtype == ROW
    assert rows[0]["crc32"] == zlib.crc32(first)
    keys = []
    for path in sorted(packed.glob("*.tar")):
        with tarfile.open(path) as tar:
            keys += [name.split(".")[0] for name in tar.getnames()]
    assert keys == sorted(keys)
    assert len(set(keys)) == 10


def test_packed_at_the_training_size_samples_are_the_same(world, tmp_path):
    pack(world, tmp_path / "shards", size=(40, 56))
    for path in find_sequences(world):
        whole = fit_clip(open_sequence(path).read(), 40, 56)
        small = open_sequence(tmp_path / "shards" / path.name).read()
        for name in ("frames", "depth", "valid", "objects", "flow_valid", "K"):
            np.testing.assert_array_equal(getattr(small, name), getattr(whole, name), err_msg=name)
        # Flow is kept in steps of 1/64 px.
        assert np.abs(small.flow - whole.flow).max() <= 1 / 128 + 1e-4


def test_samples_of_shards_are_those_of_the_folder_whoever_reads_them(world, packed):
    plain = list(map(open_samples(world, range(14)).__getitem__, range(14)))
    packs = open_samples(packed, range(14))
    for number in range(14):
        for name in ("frames", "depth", "valid", "motion", "visible"):
            assert torch.equal(packs[number][name], plain[number][name]), (number, name)
    resumed = list(load_items(open_samples(packed, range(6, 14)), batch=2, workers=1))
    frames = torch.cat([items["frames"] for items in resumed])
    assert torch.equal(frames, torch.stack([one["frames"] for one in plain[6:]]))


@pytest.mark.parametrize("system", [sys.platform, "win32"])  # of which the second one seeks
def test_threads_that_read_one_shard_get_the_bytes_that_they_asked_for(tmp_path, monkeypatch, system):
    content = np.random.default_rng(0).bytes(100_000) + b"\x1a\r\n" * 100
    (tmp_path / "00000.tar").write_bytes(content)
    monkeypatch.setattr(sys, "platform", system)

    def read(start):
        return read_range(tmp_path / "00000.tar", start, 2000) == content[start:][:2000]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(0, len(content), 7)))


def test_a_path_of_windows_is_a_url_where_it_was_made_from_one():
    assert url_of(PureWindowsPath("s3://bucket/data")) == "s3://bucket/data"
    assert url_of(PureWindowsPath("C:/bucket/data")) is None


def test_kept_flow_is_that_of_dis_and_is_taken_in_its_place(packed, monkeypatch):
    clip = open_sequence(packed / "moving_000004").read(1, 4)
    for i in range(2):
        back = dis_flow(clip.frames[i + 1], clip.frames[i])
        visible = consistent(back, dis_flow(clip.frames[i], clip.frames[i + 1]))
        np.testing.assert_array_equal(clip.visible[i], visible)
        assert np.abs(clip.motion[i] - back)[visible].max() <= 1 / 128
    monkeypatch.setattr("steadydepth.data.clips.backward_from_frames", None)
    motion, visible = clip_motion(clip, "dis")
    assert motion is clip.motion
    assert visible is clip.visible
    item = open_samples(packed, range(1), motion="dis")[0]
    assert item["motion"].shape == (2, 40, 56, 2)


def _alter(path, at, data):
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def test_what_was_altered_or_cut_short_is_named_and_the_rest_is_read(copied):
    rows = np.load(copied / MEMBERS)
    row = rows[(rows["shard"] == 0) & (rows["kind"] == 1)][0]
    _alter(copied / "00000.tar", int(row["offset"]) + 20, b"\0\1")
    last = sorted(copied.glob("*.tar"))[-1]
    last.write_bytes(last.read_bytes()[: int(rows[-1]["offset"]) + 5])
    (copied / "00001.tar").unlink()
    n_missing = int((rows["shard"] == 1).sum())
    faults = check_data(copied)
    assert len(faults) == 2 + n_missing
    text = "\n".join(faults)
    assert f"{copied / '00000.tar'}: fixed_000003/0000.depth: altered since it was packed" in text
    assert f"{last}: moving_000004/0004" in text
    assert "the shard is cut short; copy it again" in text
    assert text.count("00001.tar: ") == n_missing
    with pytest.raises(InputError, match=r"00000\.tar: fixed_000003/0000\.depth: altered"):
        open_sequence(copied / "fixed_000003").read(0, 1)


def _edit_index(root, change):
    index = json.loads((root / INDEX).read_text(encoding="utf-8"))
    change(index)
    (root / INDEX).write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["shards"][0].update(name="../secret"), "no name for something inside"),
        (lambda index: index["sequences"][0].update(name="../up"), "no name for something inside"),
        (lambda index: index["sequences"][0].update(n_rows=10**6), "more rows than members.npy has"),
        (lambda index: index["shards"][0].update(size=100), "beyond the end of a shard"),
        (lambda index: index["sequences"][0].update(height=10**9), "of which there are 1 to"),
        (lambda index: index["sequences"][0].update(first_row=1), "are not its frames in order"),
        (lambda index: index["shards"][0].update(size=10**30), "shards.0.size"),
        (lambda index: index.update(members_crc32=1), "cut short, altered or of another packing"),
        (lambda index: index.pop("shards"), "no index of shards (shards: Field required)"),
        (lambda index: index["sequences"][0].update(cuts=[3, 3]), "cuts that are no frames"),
        (lambda index: index["sequences"][0].update(cuts=[5]), "cuts that are no frames"),
        (lambda index: index.update(version=3), "no index of shards (version"),
    ],
)
def test_an_index_that_does_not_hold_together_is_refused(copied, change, message):
    _edit_index(copied, change)
    with pytest.raises(InputError) as error:
        find_sequences(copied)
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [None, (10**15,), (10**12,)])
def test_a_table_of_members_that_is_none_or_promises_more_than_there_is_is_refused(copied, shape):
    table = io.BytesIO() if shape else io.BytesIO(b"no table")
    if shape:
        header = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(table, header)
    (copied / MEMBERS).write_bytes(table.getvalue())
    _edit_index(copied, lambda index: index.update(members_crc32=zlib.crc32(table.getvalue())))
    with pytest.raises(InputError, match=r"index\.json: members\.npy beside it: cannot be read as a table of members"):
        find_sequences(copied)


def _replace_first_member(root, data):
    """Put `data` in place of the first member, index and checksum following, as somebody with intent would."""
    rows = np.load(root / MEMBERS)
    assert rows[0]["offset"] + len(data) <= rows[1]["offset"]
    _alter(root / "00000.tar", int(rows[0]["offset"]), data)
    rows[0]["size"], rows[0]["crc32"] = len(data), zlib.crc32(data)
    np.save(root / MEMBERS, rows)
    _edit_index(root, lambda index: index.update(members_crc32=zlib.crc32((root / MEMBERS).read_bytes())))


def test_bombs_and_impostors_are_refused_before_they_unpack(copied):
    import zstandard

    from steadydepth.files.packed_images import _HEADER, _SIGNATURE

    bomb = zstandard.compress(bytes(2**26))
    cases = [
        (_HEADER.pack(_SIGNATURE, 1, 3, False, 48, 64) + bomb, "unpacks to 67108864 bytes where its header says 9216"),
        (_HEADER.pack(_SIGNATURE, 1, 3, False, 60000, 60000) + bomb, "says that it is 60000 x 60000 pixels"),
        (_HEADER.pack(_SIGNATURE, 1, 3, False, 48, 64) + b"not zstd at all", "cannot be unpacked"),
        (_SIGNATURE, "no header of such an image"),
        (b"PK\3\4 a zip by its first bytes", "no image of a kind that is read"),
    ]
    for data, message in cases:
        _replace_first_member(copied, data)
        with pytest.raises(InputError, match=r"00000\.tar: fixed_000003/0000\.rgb") as error:
            open_sequence(copied / "fixed_000003").read(0, 1)
        assert message in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no file that is open")
def test_a_pack_that_takes_the_place_of_another_is_read_anew(tmp_path):
    for level in (10, 200):
        frames = np.full((2, 16, 24, 3), level, np.uint8)
        clip = Clip("a", frames, 10.0)
        source = write_sequence(tmp_path / f"{level}", clip, depth_scale_m=None, source=None, licence=None)
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        pack(source.parent, tmp_path / "shards", codec="png")
        np.testing.assert_array_equal(open_sequence(tmp_path / "shards/a").read().frames, frames)


@pytest.mark.parametrize("max_side", [1, 0, -5])
def test_a_longer_side_of_no_image_is_refused(world, tmp_path, max_side):
    with pytest.raises(InputError, match=f"max_side {max_side}: must be at least 2 pixels"):
        pack(world, tmp_path / "shards", max_side=max_side)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_a_failed_packing_leaves_nothing(world, packed, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="never overwritten"):
        pack(world, packed)
    broken = shutil.copytree(world, tmp_path / "broken")
    for name in ("moving_000004", "fixed_000003"):
        frame = broken / name / "rgb" / "0003.png"
        frame.write_bytes(frame.read_bytes()[:300])
    with pytest.raises(InputError, match=r"moving_000004.rgb.0003\.png: truncated"):
        pack(broken, tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
    with pytest.raises(InputError, match="unknown codec; there are zstd, png"):
        pack(world, tmp_path / "shards", codec="gif")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(
        InputError, match=r"^--codec zstd needs Zstandard: pip install 'steadydepth\[shards\]', or take"
    ):
        pack(world, tmp_path / "shards")


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, and whole files without; says nothing."""

    def do_GET(self):
        path = self.server.root / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        data, code = path.read_bytes(), 200
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            data, code = data[int(first) : int(last) + 1], 206
            self.server.ranges.append(asked)
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_shards_behind_http_and_in_an_object_store_are_read_by_range(packed):
    pytest.importorskip("aiohttp")
    import fsspec

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ranges)
    server.root, server.ranges = packed, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store = fsspec.filesystem("memory")
    for file in packed.iterdir():
        store.pipe_file(f"/bucket/{file.name}", file.read_bytes())
    try:
        here = open_sequence(packed / "moving_000004").read(1, 4)
        for url in (f"http://127.0.0.1:{server.server_port}", "memory://bucket"):
            root = type(packed)(url)
            there = open_sequence(find_sequences(root)[1]).read(1, 4)
            for name in (*ARRAYS, "motion", "visible"):
                np.testing.assert_array_equal(getattr(there, name), getattr(here, name), err_msg=name)
            item = open_samples(root, range(3))[2]
            assert torch.equal(item["frames"], open_samples(packed, range(3))[2]["frames"])
        assert server.ranges
        with pytest.raises(InputError, match=r"memory://empty has no index\.json"):
            find_sequences(type(packed)("memory://empty"))
    finally:
        server.shutdown()
        server.server_close()


def test_a_sequence_that_breaks_off_leaves_nothing_in_the_shards_of_the_others(world, tmp_path):
    """Its first frames were written already, over the end of a shard: they are taken away again."""
    names = sorted(path.name for path in world.iterdir())
    for bad in names:
        data = shutil.copytree(world, tmp_path / bad / "data")
        last = sorted((data / bad / "rgb").iterdir())[-1]
        last.write_bytes(last.read_bytes()[:-20])
        with pytest.raises(SomeFailedError, match=f"1 input.s. failed, 1 written:.*\n.*{bad}.*truncated PNG"):
            pack(data, tmp_path / bad / "shards", shard_size=30_000)
        (path,) = find_sequences(tmp_path / bad / "shards")
        good = next(name for name in names if name != bad)
        assert path.name == good
        np.testing.assert_array_equal(open_sequence(path).read().frames, open_sequence(world / good).read().frames)
        members = []
        for shard in sorted((tmp_path / bad / "shards").glob("*.tar")):
            with tarfile.open(shard) as tar:
                members += tar.getnames()
        assert members
        assert all(name.startswith(f"{good}/") for name in members)


def test_a_label_of_another_size_than_its_frames_is_not_scaled_into_a_shard(world, tmp_path):
    data = shutil.copytree(world, tmp_path / "data")
    cv2.imwrite(str(data / "moving_000004" / "depth" / "0000.png"), np.ones((24, 32), np.uint16))
    with pytest.raises(SomeFailedError, match=r"depth.0000\.png: 24 x 32 in a sequence of 48 x 64"):
        pack(data, tmp_path / "shards", size=(40, 56), codec="png")
    assert [path.name for path in find_sequences(tmp_path / "shards")] == ["fixed_000003"]


def test_a_name_that_is_no_utf_8_costs_the_others_nothing(world, tmp_path):
    names = [path.name for path in find_sequences(world)]
    shutil.copytree(world, tmp_path / "data")
    try:
        (tmp_path / "data" / names[0]).rename(tmp_path / "data" / os.fsdecode(b"latin\xe9"))
    except (OSError, UnicodeDecodeError):
        pytest.skip("the file system takes no such names")
    with pytest.raises(SomeFailedError, match="its name is no UTF-8"):
        pack(tmp_path / "data", tmp_path / "packed", codec="png")
    assert [path.name for path in find_sequences(tmp_path / "packed")] == names[1:]


def test_no_clip_of_a_packed_video_crosses_one_of_its_cuts(world, tmp_path):
    frames = [open_sequence(world / name).read().frames for name in ("fixed_000003", "moving_000004")]
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "two.mp4", np.concatenate(frames), 15.0)
    pack(tmp_path / "videos", tmp_path / "shards", codec="png")
    pack(tmp_path / "shards", tmp_path / "again", codec="png")
    for shards in (tmp_path / "videos", tmp_path / "shards", tmp_path / "again"):
        starts = {
            find_cuts: [
                start for _, start in open_samples(shards, (), labels="none", motion="none", find_cuts=find_cuts).clips
            ]
            for find_cuts in (True, False)
        }
        assert starts == {True: [0, 1, 2, 5, 6, 7], False: list(range(8))}
    index = json.loads((tmp_path / "shards" / INDEX).read_text(encoding="utf-8"))
    assert index["version"] == 2
    assert index["sequences"][0]["cuts"] == [5]
