import json
import shutil

import numpy as np
import pytest

from steadydepth.data.commands import convert
from steadydepth.data.conversion import convert_layout, convert_videos
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError, SomeFailedError
from steadydepth.files.video_write import write_video

H, W = 21, 35


@pytest.fixture
def files(tmp_path, write_png_at):
    frames = np.random.default_rng(0).integers(0, 256, (3, H, W, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        write_png_at(tmp_path / "in" / f"{i}.png", frame)
        write_png_at(tmp_path / "in" / f"{i}_depth.png", np.full((H, W), 1000 * (i + 2), np.uint16))
        np.save(tmp_path / "in" / f"{i}_depth.npy", np.full((H, W), i + 2.0))
    return frames


def test_a_csv_of_pairs_becomes_sequences_and_images(tmp_path, files):
    lines = ["image,depth,scale,sequence,fps", "0.png,0_depth.png,0.001,walk,25", "1.png,,0.001,walk,25", "2.png,,,,"]
    (tmp_path / "in" / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    walk, image = convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out")
    assert (walk.name, image.name) == ("walk", "list_000003")
    sequence = open_sequence(walk)
    assert (sequence.fps, sequence.n_frames, list(sequence.labels["depth"])) == (25, 2, [0])
    np.testing.assert_array_equal(sequence.read().depth[0], np.float32(2))
    np.testing.assert_array_equal(sequence.read().frames, files[:2])
    assert not open_sequence(image).has_depth


def test_json_lines_with_other_formats_of_depth(tmp_path, files):
    lines = [{"image": f"{i}.png", "depth": f"{i}_depth.npy", "sequence": "a"} for i in (2, 0)]
    (tmp_path / "in" / "list.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (folder,) = convert_layout("pairs", tmp_path / "in" / "list.jsonl", tmp_path / "out")
    assert open_sequence(folder).read().depth[:, 0, 0].tolist() == [4, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,depth\n0.png,0_depth.png\n", "no scale; depth of 16 bits needs the metres of one step"),
        ("image,deepth\n0.png,a\n", "keys are depth, fps, image, scale, sequence"),
        ("image,scale,sequence\n0.png,1,a\n1.png,2,a\n", "a sequence has one, above 0"),
        ("image,sequence\n0.png,../a\n", "no name for something inside"),
        ("image,sequence\nnone.png,a\n", r"none\.png: cannot be read"),
    ],
)
def test_mistakes_of_a_list_are_named_and_nothing_is_half_written(tmp_path, files, text, message):
    (tmp_path / "in" / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "a").exists()


def test_depth_in_a_unit_that_cannot_be_is_said(tmp_path, files, caplog):
    np.save(tmp_path / "in" / "0_depth.npy", np.full((H, W), 2500.0))  # millimetres that pass for metres
    (tmp_path / "in" / "list.csv").write_text("image,depth\n0.png,0_depth.npy\n", encoding="utf-8")
    (folder,) = convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out")
    assert "half of the depth is beyond 500 m (its median is 2500 m): check `scale`" in caplog.text
    np.testing.assert_allclose(open_sequence(folder).read().depth, 2500, rtol=1e-5)


def test_a_conversion_goes_on_where_it_was_cut(tmp_path, files):
    (tmp_path / "in" / "list.csv").write_text("image,sequence\n0.png,a\n1.png,b\n2.png,b\n", encoding="utf-8")
    made = convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out")
    next(made)
    made.close()
    assert [path.name for path in convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out")] == ["b"]
    assert list(convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "other", start=1)) == [
        tmp_path / "other" / "b"
    ]


def test_a_folder_of_videos_becomes_sequences(tmp_path):
    for name, n_frames in (("a", 3), ("b", 4)):
        write_video(tmp_path / f"{name}.mp4", np.zeros((n_frames, 32, 48, 3), np.uint8), 10.0)
    made = list(convert_videos(tmp_path, tmp_path / "out", stop=3))
    assert [(path.name, open_sequence(path).n_frames) for path in made] == [("a", 3), ("b", 3)]
    assert list(convert_videos(tmp_path, tmp_path / "out")) == []
    one = next(path for path in tmp_path.iterdir() if path.suffix == ".mp4")
    assert len(list(convert("video", one, tmp_path / "single"))) == 1
    assert list(convert("video", one, tmp_path / "single")) == []
    with pytest.raises(InputError, match="holds no video"):
        list(convert_videos(tmp_path / "out", tmp_path / "more"))


def test_an_unknown_layout_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match="kitty: unknown layout; there is video, videos, tum, bonn, kitti"):
        next(convert_layout("kitty", tmp_path, tmp_path / "out"))


@pytest.mark.parametrize(
    ("depth", "kept"),
    [
        (np.linspace(1, 200, H * W), 1.0),  # a street
        (np.linspace(0.004, 0.03, H * W), 1.0),  # an endoscope
        (np.linspace(0.5, 12, H * W), 1.0),  # a room
        (np.r_[np.linspace(1, 80, H * W - 100), np.full(100, 65504.0)], 1 - 100 / (H * W)),  # a sky
    ],
)
def test_the_step_of_float_depth_fits_it(tmp_path, files, caplog, depth, kept):
    depth = depth.reshape(H, W).astype(np.float32)
    np.save(tmp_path / "in" / "d.npy", depth)
    (tmp_path / "in" / "list.csv").write_text("image,depth\n0.png,d.npy\n", encoding="utf-8")
    (folder,) = convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out")
    read = open_sequence(folder).read().depth[0]
    assert (read > 0).mean() == pytest.approx(kept)
    assert np.abs(read / depth - 1)[read > 0].max() < 0.011
    assert ("% of the measured depth is outside" in caplog.text) == (kept < 0.99)


@pytest.mark.parametrize("none", [1e10, 3.4e38, np.inf, np.nan, -1.0, 0.0])
def test_what_renderers_write_for_no_surface_costs_the_rest_nothing(tmp_path, files, none):
    depth = np.linspace(1, 4, H * W).reshape(H, W).astype(np.float32)
    np.save(tmp_path / "in" / "d.npy", np.where(depth > 2, np.float32(none), depth))
    (tmp_path / "in" / "list.csv").write_text("image,depth\n0.png,d.npy\n", encoding="utf-8")
    (folder,) = convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out")
    read = open_sequence(folder).read().depth[0]
    np.testing.assert_allclose(read, np.where(depth > 2, 0, depth), atol=6e-4)


LISTS = {
    "crlf.csv": b"image,depth,scale\r\n0.png,0_depth.png,0.001\r\n",
    "bom.csv": b"\xef\xbb\xbfimage,depth,scale\r\n0.png,0_depth.png,0.001\r\n",
    "semicolons.csv": b"image;depth;scale\n0.png;0_depth.png;0,001\n",
    "tabs.csv": b"image\tdepth\tscale\n0.png\t0_depth.png\t0.001\n",
    "spaces.csv": b"image, depth, scale\n0.png, 0_depth.png, 0.001\n",
    "UPPER.CSV": b"image,depth,scale\n0.png,0_depth.png,0.001\n",
    "array.json": b'[{"image": "0.png", "depth": "0_depth.png", "scale": 0.001}]',
    "bom.jsonl": b'\xef\xbb\xbf{"image": "0.png", "depth": "0_depth.png", "scale": 0.001}\r\n',
    "windows.csv": b"image,depth,scale\nsub\\0.png,sub\\0_depth.png,0.001\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_as_editors_and_spreadsheets_write_them(tmp_path, files, name):
    shutil.copytree(tmp_path / "in", tmp_path / "sub")
    (tmp_path / "sub").replace(tmp_path / "in" / "sub")
    (tmp_path / "in" / name).write_bytes(LISTS[name])
    (folder,) = convert_layout("pairs", tmp_path / "in" / name, tmp_path / "out")
    np.testing.assert_array_equal(open_sequence(folder).read().depth[0], np.float32(2))


def test_one_line_that_cannot_be_read_costs_the_others_nothing(tmp_path, files):
    lines = ["image,depth,scale", "0.png,0_depth.png,0.001", "none.png,,", "2.png,2_depth.png,"]
    (tmp_path / "in" / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SomeFailedError, match=r"2 input.s. failed, 1 written") as raised:
        list(convert_layout("pairs", tmp_path / "in" / "list.csv", tmp_path / "out"))
    assert [path.name for path in raised.value.written] == ["list_000001"]
    assert "none.png: cannot be read" in str(raised.value)
    assert "list_000003: no scale" in str(raised.value)


def test_a_line_split_at_the_wrong_places_is_a_file_that_is_not_there(tmp_path):
    (tmp_path / "list.csv").write_text(f"image\n{'0.png|' * 100}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"0\.png\|: cannot be read \("):
        list(convert_layout("pairs", tmp_path / "list.csv", tmp_path / "out"))
