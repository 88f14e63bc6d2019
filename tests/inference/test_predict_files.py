import json
import math
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from films import encode
from known_depth import Red
from PIL import Image as PIL
from torch import Tensor, nn

from steadydepth.errors import SomeFailedError
from steadydepth.files.atomic_writes import hidden_folder
from steadydepth.files.predictions import find_predictions, write_predictions
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.stored_depth import read_predictions
from steadydepth.files.video_read import probe_video, read_depth_video, read_video
from steadydepth.files.video_write import write_video
from steadydepth.inference import predict_files as predict_module
from steadydepth.inference.filters import choose_filter, filter_depth
from steadydepth.inference.frame_sources import open_source
from steadydepth.inference.point_clouds import Lens
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor
from steadydepth.ops.colours import colour_depth, depth_range
from steadydepth.types import Clip, InputError, State, VideoDepthModel

T, H, W = 5, 24, 40


class Trailing(nn.Module):
    """exp of a convolution, averaged in log depth with the frame before: a small model with a state."""

    def __init__(self, claims: str = "metric") -> None:
        super().__init__()
        self.claims = claims
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-0.3, 0.5, 27).view(1, 3, 3, 3))
            self.conv.bias.fill_(0.7)

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        b, t = frames.shape[:2]
        log_depth = self.dropout(self.conv(frames.flatten(0, 1))[:, 0].unflatten(0, (b, t)))
        depths = []
        past = state["log_depth"] if state else None
        for now in log_depth.unbind(1):
            past = now if past is None else (now + past) / 2
            depths.append(past.exp())
        return torch.stack(depths, 1), {"log_depth": past}


@pytest.fixture
def frames() -> np.ndarray:
    """One image that moves a pixel a frame: random ones would be a cut each."""
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    return np.stack([np.roll(image, t, axis=1) for t in range(T)])


@pytest.fixture
def ramp() -> np.ndarray:
    """A smooth video that survives H.264: red rises from left to right, and from frame to frame."""
    red = np.linspace(20, 180, 48)[None, :] + 4 * np.arange(T)[:, None]
    video = np.full((T, 32, 48, 3), 90, np.uint8)
    video[..., 0] = red[:, None, :].astype(np.uint8)
    return video


def offline(model: nn.Module, frames: np.ndarray) -> np.ndarray:
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    with torch.inference_mode():
        return model.eval()(clip)[0][0].numpy()


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def test_one_image_gives_its_depth_by_hand(frames, tmp_path):
    predictor = Predictor(Red())
    result = predictor.predict(frames[0])
    np.testing.assert_allclose(result.depth, frames[0, :, :, 0] + 1.0, rtol=1e-6)
    assert result.depth.dtype == np.float32
    assert result.claims == "metric"
    assert result.valid.all()
    np.testing.assert_array_equal(result.image, frames[0])
    path = save(tmp_path / "a.png", frames[0])
    for same in (path, str(path)):
        np.testing.assert_array_equal(predictor.predict(same).depth, result.depth)


def test_list_gives_a_list_of_images_each_by_itself(frames):
    predictor = Predictor(Trailing())
    results = predictor.predict_all(list(frames))
    assert len(results) == T
    for frame, result in zip(frames, results, strict=True):
        np.testing.assert_allclose(result.depth, offline(predictor.model, frame[None])[0], rtol=1e-5)
    assert predictor.predict_all([]) == []
    small, large = predictor.predict_all([frames[0], frames[0, :20, :30]])
    assert (small.depth.shape, large.depth.shape) == ((H, W), (20, 30))


def test_streaming_equals_offline(frames):
    model = Trailing()
    assert isinstance(model, VideoDepthModel)
    streamed = np.stack([result.depth for result in Predictor(model).stream(iter(frames))])
    np.testing.assert_allclose(streamed, offline(model, frames), rtol=1e-5)
    assert not np.allclose(streamed[1], offline(model, frames[1:2])[0], rtol=1e-2)  # the state matters


def test_streams_do_not_touch_each_other(frames):
    predictor = Predictor(Trailing())
    alone = [result.depth for result in predictor.stream(frames)]
    for one, other, expected in zip(predictor.stream(frames), predictor.stream(frames), alone, strict=True):
        np.testing.assert_array_equal(one.depth, expected)
        np.testing.assert_array_equal(other.depth, expected)
        assert not torch.is_inference_mode_enabled()  # the mode does not leak between frames


def test_every_kind_of_source_gives_the_same_depth(frames, tmp_path):
    predictor = Predictor(Trailing())
    expected = np.stack([result.depth for result in predictor.stream(iter(frames))])
    for number, frame in enumerate(frames):
        save(tmp_path / "images" / f"frame_{8 + number}.png", frame)  # 8, 9, 10, 11, 12: not the order of text
    clip = Clip("room", frames, 12.5)
    sequence = write_sequence(tmp_path, clip, depth_scale_m=None, source=None, licence=None)
    for source in (tmp_path / "images", str(tmp_path / "images"), sequence, list(frames)):
        np.testing.assert_array_equal([result.depth for result in predictor.stream(source)], expected)
    write_video(tmp_path / "film.mp4", frames, 10.0)
    film = np.stack([result.depth for result in predictor.stream(tmp_path / "film.mp4")])
    decoded = np.stack(list(read_video(tmp_path / "film.mp4")))
    np.testing.assert_allclose(film, offline(predictor.model, decoded), rtol=1e-5)
    by_url = [result.depth for result in predictor.stream((tmp_path / "film.mp4").as_uri())]
    np.testing.assert_array_equal(by_url, film)
    assert (open_source(sequence).n_frames, open_source(sequence).fps) == (T, 12.5)
    with pytest.raises(InputError, match="camera 63 cannot be opened"):
        next(predictor.stream(63))


def test_stream_is_lazy_and_holds_one_frame():
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield np.zeros((120, 160, 3), np.uint8)

    stream = Predictor(Red()).stream(endless())
    assert asked == []
    for _ in range(3):
        next(stream)
    tracemalloc.start()
    try:
        for _ in range(100):
            next(stream)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(asked) == 103
    assert peak < 10 * 120 * 160 * 8


def test_model_is_in_evaluation_mode_and_needs_no_gradient(frames):
    model = Trailing().train()
    first, second = (Predictor(model).predict(frames[0]).depth for _ in range(2))
    np.testing.assert_array_equal(first, second)  # dropout is off
    assert model.training  # and on again for whoever trains it


def test_larger_frames_are_shrunk_for_the_network_and_depth_brought_back(frames):
    visible = []

    class Watching(Red):
        def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            visible.append(tuple(frames.shape))
            return super().forward(frames)

    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :, 0] = np.repeat([9, 99], 40)
    result = Predictor(Watching(), max_side=20).predict(wide)
    assert visible == [(1, 1, 3, 10, 20)]
    assert result.depth.shape == (40, 80)
    np.testing.assert_allclose(result.depth[:, :38], 10, rtol=1e-5)
    np.testing.assert_allclose(result.depth[:, 42:], 100, rtol=1e-5)
    # Between the centres of two network pixels, at 37.5 and 41.5, depth is linear: 1/8 and 3/8 of the way.
    np.testing.assert_allclose(result.depth[:, 38], 10 + 90 * 1 / 8, rtol=1e-5)
    np.testing.assert_allclose(result.depth[:, 39], 10 + 90 * 3 / 8, rtol=1e-5)
    assert Predictor(Watching(), max_side=80).predict(wide).depth[0, 39] == 10
    disparity = Predictor(Red("disparity"), max_side=20).predict(wide).depth
    np.testing.assert_array_equal(disparity, result.depth)


def test_what_the_model_leaves_open_is_not_valid():
    image = np.full((H, W, 3), 5, np.uint8)
    image[3, 4, 0] = 0
    result = Predictor(Red(offset=0.0)).predict(image)
    assert not result.valid[3, 4]
    assert result.valid.sum() == H * W - 1
    assert Predictor(Red("disparity", offset=0.0)).predict(image).valid.all()
    enlarged = Predictor(Red(offset=0.0), max_side=W - 1).predict(np.zeros((H, W, 3), np.uint8))
    assert not enlarged.valid.any()
    assert np.isnan(enlarged.depth).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((H, W, 3), np.float32), r"float32 \(24, 40, 3\)"),
        (np.zeros((H, W), np.uint8), r"uint8 \(24, 40\)"),
        (np.zeros((H, W, 4), np.uint8), r"uint8 \(24, 40, 4\)"),
    ],
)
def test_what_is_no_image_is_refused(image, said):
    with pytest.raises(InputError, match=f"an image is {said}; it is a numpy array of uint8"):
        Predictor(Red()).predict(image)


def test_unusable_models_and_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match="has claims None; set its attribute"):
        Predictor(nn.Identity())
    with pytest.raises(InputError, match="max_side is 0"):
        Predictor(Red(), max_side=0)
    with pytest.raises(InputError, match=r"nothing\.mp4 does not exist"):
        next(Predictor(Red()).stream(tmp_path / "nothing.mp4"))
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match=r"notes\.txt is no image"):
        next(Predictor(Red()).stream(tmp_path / "notes.txt"))


def make_inputs(folder: Path, frames: np.ndarray, ramp: np.ndarray) -> list[Path]:
    write_video(folder / "film.mp4", ramp, 10.0)
    for number, frame in enumerate(frames):
        save(folder / "walk" / f"{number}.png", frame)
    write_sequence(folder / "data", Clip("room", frames, 12.5), depth_scale_m=None, source=None, licence=None)
    return [save(folder / "photo.png", frames[0]), folder / "walk", folder / "data", folder / "film.mp4"]


@pytest.mark.parametrize("format", ["npz", "png16", "exr"])
def test_prediction_folder_holds_what_the_stream_gives(frames, ramp, tmp_path, format):
    inputs, out = make_inputs(tmp_path, frames, ramp), tmp_path / "out"
    predictor, told = Predictor(Trailing()), []
    written = predict_files(predictor, inputs, out, format=format, progress=lambda *what: told.append(what))
    ending = ".npz" if format == "npz" else ""
    names = ["photo", "walk", "room", "film"]
    previews = ["photo_preview.png", *(f"{name}_preview.mp4" for name in names[1:])]
    expected = [name for pair in zip((f"{name}{ending}" for name in names), previews, strict=True) for name in pair]
    assert [path.relative_to(out).as_posix() for path in written] == expected
    assert sorted(path.name for path in out.iterdir()) == sorted(expected)
    assert find_predictions(out) == sorted(names)
    sources = [inputs[0], inputs[1], tmp_path / "data" / "room", inputs[3]]
    for name, source in zip(names, sources, strict=True):
        depth, claims = read_predictions(out, name)
        streamed = np.stack([result.depth for result in predictor.stream(source)])
        np.testing.assert_allclose(depth, streamed, rtol=2e-6, atol=0.000502 if format == "png16" else 0)
        assert claims == "metric"
    assert told[0] == ("photo", 1, 1)
    assert told[-1] == ("film", T, T)
    if format == "png16":
        meta = json.loads((out / "room" / "meta.json").read_text(encoding="utf-8"))
        noted = {"filter": "none", "format": "png16", "keep_names": False, "max_side": 0}
        assert meta.pop("model")
        assert meta == {"fps": 12.5, "depth_scale_m": 0.001, "claims": "metric", **noted}


def test_mp4_shows_frame_and_depth_with_one_range(ramp, tmp_path):
    write_video(tmp_path / "film.mp4", ramp, 10.0)
    (path,) = predict_files(Predictor(Red()), [tmp_path / "film.mp4"], tmp_path / "out", format="mp4")
    assert probe_video(path).fps == 10.0
    decoded = np.stack(list(read_video(tmp_path / "film.mp4")))
    depth = decoded[..., 0].astype(np.float32) + 1
    expected = colour_depth(depth, *depth_range([depth]))
    shown = np.stack(list(read_video(path)))
    assert shown.shape == (T, 32, 96, 3)
    assert np.abs(shown[:, :, :48].astype(int) - decoded).mean() < 3
    assert np.abs(shown[:, :, 48:].astype(int) - expected).mean() < 12  # half of H.264's colour resolution is lost
    per_frame = np.stack([colour_depth(one, *depth_range([one])) for one in depth])
    assert np.abs(per_frame.astype(int) - expected).mean() > 15  # a range for each frame would look otherwise


@pytest.mark.parametrize("claims", ["metric", "disparity", "affine"])
def test_mkv_codes_give_the_depth_back(ramp, tmp_path, claims):
    write_video(tmp_path / "film.mp4", ramp, 10.0)
    model = Red(claims, offset=-100.0 if claims == "affine" else 1.0)
    written = predict_files(Predictor(model), [tmp_path / "film.mp4"], tmp_path / "out", format="mkv")
    assert [path.name for path in written] == ["film.mkv", "film.json", "film_preview.mp4"]
    says = json.loads(written[1].read_text(encoding="utf-8"))
    codes = np.stack(list(read_depth_video(written[0])))
    expected = np.stack(list(read_video(tmp_path / "film.mp4")))[..., 0] + model.offset
    assert (says["claims"], says["n_frames"], says["fps"], says["no_value"]) == (claims, T, 10.0, 0)
    # The formula in the json is enough.
    known = {"code": codes.astype(np.float64), "low": says["low"], "high": says["high"]}
    np.testing.assert_allclose(eval(says["value"], {"__builtins__": {}}, known), expected, atol=0.01)


def test_existing_outputs_are_refused_before_anything_is_done(frames, ramp, tmp_path):
    inputs, out = make_inputs(tmp_path, frames, ramp), tmp_path / "out"
    predictor = Predictor(Red())
    predict_files(predictor, inputs[1:2], out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(InputError, match=r"walk\.npz exists"):
        predict_files(predictor, inputs, out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    predict_files(Predictor(Red(offset=9.0)), inputs[1:2], out, overwrite=True)
    np.testing.assert_allclose(read_predictions(out, "walk")[0], frames[..., 0] + 9.0, rtol=1e-6)
    for _ in range(2):
        predict_files(predictor, inputs[1:2], tmp_path / "images", format="png16", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["walk", "walk_preview.mp4"]


def test_inputs_are_never_overwritten(frames, ramp, tmp_path):
    inputs = make_inputs(tmp_path, frames, ramp)
    film = inputs[3].read_bytes()
    with pytest.raises(InputError, match=r"film\.mp4 is an input and would be overwritten"):
        predict_files(Predictor(Red()), inputs[3:], tmp_path, format="mp4", overwrite=True)
    with pytest.raises(InputError, match="room is an input and would be overwritten"):
        predict_files(Predictor(Red()), inputs[2:3], tmp_path / "data", format="png16", overwrite=True)
    (tmp_path / "out" / "walk").mkdir(parents=True)
    (tmp_path / "out" / "walk" / "diary.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="walk is a folder with more than a prediction in it"):
        predict_files(Predictor(Red()), inputs[1:2], tmp_path / "out", format="png16", overwrite=True)
    assert inputs[3].read_bytes() == film
    assert (tmp_path / "out" / "walk" / "diary.txt").read_text(encoding="utf-8") == "mine"


def test_failing_inputs_are_named_and_the_others_written(frames, ramp, tmp_path):
    inputs, out = make_inputs(tmp_path, frames, ramp), tmp_path / "out"
    (tmp_path / "broken.mp4").write_bytes(inputs[3].read_bytes()[:400])
    image = save(tmp_path / "cut.png", frames[0])
    image.write_bytes(image.read_bytes()[:-20])
    mixed = [tmp_path / "broken.mp4", inputs[0], image, tmp_path / "missing.png", inputs[3]]
    with pytest.raises(InputError) as error:
        predict_files(Predictor(Red()), mixed, out)
    message = str(error.value)
    assert message.startswith("3 input(s) failed, 2 written:")
    for name in ("broken.mp4", "cut.png", "missing.png"):
        assert str(tmp_path / name) in message
    assert find_predictions(out) == ["film", "photo"]
    assert not list(out.glob(".*"))


def test_a_failing_model_leaves_nothing_and_names_the_input(ramp, tmp_path):
    class Failing(Red):
        def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            raise RuntimeError("out of memory")

    write_video(tmp_path / "film.mp4", ramp, 10.0)
    with pytest.raises(RuntimeError, match="out of memory") as error:
        predict_files(Predictor(Failing()), [tmp_path / "film.mp4"], tmp_path / "out")
    assert error.value.__notes__ == [f"while predicting {tmp_path / 'film.mp4'}"]
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_format_and_clashing_names_are_refused(frames, tmp_path):
    one = save(tmp_path / "a.png", frames[0])
    other = save(tmp_path / "b" / "a.png", frames[0])
    with pytest.raises(InputError, match="format 'tiff' is unknown; there are npz, png16, mp4, mkv, exr"):
        predict_files(Predictor(Red()), [one], tmp_path / "out", format="tiff")
    with pytest.raises(InputError, match="would both be written as a"):
        predict_files(Predictor(Red()), [one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_video_without_a_single_valid_depth_is_written_black(tmp_path):
    photo = save(tmp_path / "photo.png", np.zeros((H, W, 3), np.uint8))
    for format in ("npz", "png16", "exr", "mkv", "mp4"):
        predict_files(Predictor(Red(offset=-1.0)), [photo], tmp_path / format, format=format)
    assert np.isnan(read_predictions(tmp_path / "npz", "photo")[0]).all()
    assert np.isnan(read_predictions(tmp_path / "exr", "photo")[0]).all()
    assert np.isnan(read_predictions(tmp_path / "png16", "photo")[0]).all()
    assert not cv2.imread(str(tmp_path / "npz" / "photo_preview.png")).any()
    assert not next(read_depth_video(tmp_path / "mkv" / "photo.mkv")).any()


def test_max_side_of_a_call_holds_for_that_call(ramp, tmp_path):
    write_video(tmp_path / "film.mp4", ramp, 10.0)
    predictor = Predictor(Red())
    predict_files(predictor, [tmp_path / "film.mp4"], tmp_path / "out", max_side=12)
    depth, _ = read_predictions(tmp_path / "out", "film")
    expected = np.stack([r.depth for r in Predictor(Red(), max_side=12).stream(tmp_path / "film.mp4")])
    np.testing.assert_array_equal(depth, expected)
    assert predictor.network.max_side is None
    assert math.isclose(depth.mean(), ramp[..., 0].mean() + 1, rel_tol=0.05)


def test_filter_of_a_call_smooths_what_is_written(ramp, tmp_path):
    write_video(tmp_path / "film.mp4", ramp, 10.0)
    predict_files(Predictor(Red()), [tmp_path / "film.mp4"], tmp_path / "out", filter="ema_0.8")
    decoded = np.stack(list(read_video(tmp_path / "film.mp4")))
    expected = filter_depth("ema_0.8", decoded[..., 0].astype(np.float32) + 1, decoded, claims="metric")
    np.testing.assert_allclose(read_predictions(tmp_path / "out", "film")[0], expected, rtol=1e-5)
    with pytest.raises(InputError, match="filter 'mean': unknown"):
        predict_files(Predictor(Red()), [tmp_path / "film.mp4"], tmp_path / "other", filter="mean")
    assert not (tmp_path / "other").exists()


def test_strength_is_applied_and_noted_in_every_format(ramp, tmp_path):
    write_video(tmp_path / "film.mp4", ramp, 10.0)
    decoded = np.stack(list(read_video(tmp_path / "film.mp4")))
    raw = decoded[..., 0].astype(np.float32) + 1
    predictor = Predictor(Red(), filter="learned", strength=0.5)
    predict_files(predictor, [tmp_path / "film.mp4"], tmp_path / "npz")
    expected = filter_depth(choose_filter("learned", 0.5), raw, decoded)
    np.testing.assert_allclose(read_predictions(tmp_path / "npz", "film")[0], expected, rtol=1e-5)
    noted = np.load(tmp_path / "npz" / "film.npz")
    assert (str(noted["filter"]), float(noted["strength"])) == ("learned", 0.5)
    for format, name in (("png16", "film/meta.json"), ("mkv", "film.json")):
        predict_files(predictor, [tmp_path / "film.mp4"], tmp_path / format, format=format, strength=0.25)
        meta = json.loads((tmp_path / format / name).read_text(encoding="utf-8"))
        assert (meta["filter"], meta["strength"]) == ("learned", 0.25)
    with pytest.raises(InputError, match="it is of the filter learned"):
        predict_files(Predictor(Red()), [tmp_path / "film.mp4"], tmp_path / "other", strength=0.5)


def test_a_filter_begins_anew_at_a_cut(ramp, tmp_path):
    indoors, outdoors = ramp, ramp[:, :, ::-1].copy()
    outdoors[:, 4:24, 4:20] = 240
    for number, frame in enumerate([*indoors, *outdoors]):
        save(tmp_path / "film" / f"{number}.png", frame)
    predict_files(Predictor(Red()), [tmp_path / "film"], tmp_path / "out", filter="ema_0.8")
    shots = [
        filter_depth("ema_0.8", shot[..., 0].astype(np.float32) + 1, shot, claims="metric")
        for shot in (indoors, outdoors)
    ]
    np.testing.assert_allclose(read_predictions(tmp_path / "out", "film")[0], np.concatenate(shots), rtol=1e-5)


def test_mp4_keeps_the_times_of_a_video(ramp, tmp_path):
    encode(tmp_path / "film.mp4", ramp, times=(0, 3, 11, 40, 44), unit=Fraction(1, 100))
    (path,) = predict_files(Predictor(Red()), [tmp_path / "film.mp4"], tmp_path / "out", format="mp4")
    with av.open(str(path)) as file:
        assert [round(100 * frame.time) for frame in file.decode(video=0)] == [0, 3, 11, 40, 44]


@pytest.mark.parametrize("format", ["npz", "mp4", "mkv"])
def test_a_video_of_one_frame_and_odd_size(frames, tmp_path, format):
    write_video(tmp_path / "film.mp4", frames[:1, :23, :39], 10.0)
    grey = frames[:1, :23, :39, :1].repeat(3, axis=3)
    odd = encode(tmp_path / "odd.mkv", grey, codec="ffv1", pix_fmt="gray")
    written = predict_files(Predictor(Red()), [tmp_path / "film.mp4", odd], tmp_path / "out", format=format)
    assert {path.stem.removesuffix("_preview") for path in written} == {"film", "odd"}
    if format == "npz":
        depth = read_predictions(tmp_path / "out", "odd")[0]
        assert depth.shape == (1, 23, 39)
        np.testing.assert_allclose(depth[0], frames[0, :23, :39, 0] + 1.0, atol=2)


def test_shards_share_out_all_inputs(frames, tmp_path):
    inputs = [save(tmp_path / f"{name}.png", frames[0]) for name in "abcde"]
    shares = []
    for index in (1, 2, 3):
        written = predict_files(Predictor(Red()), inputs, tmp_path / "out", shard=(index, 3))
        shares.append([path.stem for path in written if path.suffix == ".npz"])
    assert shares == [["a", "d"], ["b", "e"], ["c"]]
    with pytest.raises(InputError, match="shard 4/3: the first of four is 1/4"):
        predict_files(Predictor(Red()), inputs, tmp_path / "out", shard=(4, 3))


def test_an_interrupted_run_goes_on_with_what_is_missing(frames, tmp_path):
    inputs = [save(tmp_path / f"{name}.png", frames[0]) for name in "abc"]
    out = tmp_path / "out"
    predict_files(Predictor(Red()), inputs[:2], out)
    (out / "b_preview.png").unlink()  # cut between the depth and its preview
    before = (out / "a.npz").stat().st_mtime_ns
    written = predict_files(Predictor(Red(offset=3.0)), inputs, out, resume=True)
    assert [path.name for path in written] == ["b.npz", "b_preview.png", "c.npz", "c_preview.png"]
    assert (out / "a.npz").stat().st_mtime_ns == before
    np.testing.assert_allclose(read_predictions(out, "b")[0][0], frames[0, ..., 0] + 3.0, rtol=1e-6)
    assert predict_files(Predictor(Red()), inputs, out, resume=True) == []


@pytest.mark.parametrize("format", ["npz", "png16", "mkv"])
def test_a_run_that_goes_on_names_what_was_made_otherwise_and_makes_it_anew_when_asked(frames, tmp_path, format):
    inputs = [save(tmp_path / name / "0.png", frames[0]).parent for name in "ab"]
    out, model, other = tmp_path / "out", Trailing(), Trailing()
    (path, *_) = predict_files(Predictor(model), inputs[:1], out, format=format)
    options = {"format": format, "resume": True}
    with torch.no_grad():
        other.conv.bias.fill_(0.8)
    before = path.read_bytes() if path.is_file() else (path / "meta.json").read_bytes()
    for predictor, changes, message in (
        (Predictor(model, filter="ema"), {}, "was made with filter none and not ema"),
        (Predictor(model), {"filter": "learned"}, "was made with filter none and not learned"),
        (Predictor(model), {"max_side": 16}, "was made with max_side 0 and not 16"),
        (Predictor(Trailing("scale")), {}, "was made with claims metric and not scale"),
        (Predictor(other), {}, "was made with another model"),
    ):
        with pytest.raises(InputError, match=f"{path.name}: {message}.*\n.*--resume --overwrite"):
            predict_files(predictor, inputs, out, **options, **changes)
    assert before == (path.read_bytes() if path.is_file() else (path / "meta.json").read_bytes())
    assert not list(out.glob("b*"))
    anew = predict_files(Predictor(model), inputs, out, filter="learned", strength=0.5, **options, overwrite=True)
    assert {each.name[0] for each in anew} == {"a", "b"}
    with pytest.raises(InputError, match=r"strength 0.5 and not 1.0.*\n.*strength 0.5 and not 1.0"):
        predict_files(Predictor(model), inputs, out, filter="learned", **options)
    predict_files(Predictor(model), inputs[:1], out, format=format, overwrite=True)
    again = predict_files(Predictor(model), inputs, out, **options, overwrite=True)
    assert {each.name[0] for each in again} == {"b"}
    assert predict_files(Predictor(model), inputs, out, **options) == []


def test_a_folder_of_images_has_the_rate_that_is_asked_for(frames, tmp_path):
    shot, out = tmp_path / "shot", tmp_path / "out"
    for number, frame in enumerate(frames):
        save(shot / f"{number}.png", frame)
    write_video(tmp_path / "film.mp4", frames, 10.0)
    inputs = [shot, tmp_path / "film.mp4"]
    predict_files(Predictor(Red()), inputs, out, format="mp4", fps=24.0)
    assert [probe_video(out / f"{name}.mp4").fps for name in ("shot", "film")] == [24.0, 10.0]
    predict_files(Predictor(Red()), inputs, out, format="png16", fps=24.0)
    assert [json.loads((out / name / "meta.json").read_text(encoding="utf-8"))["fps"] for name in ("shot", "film")] == [
        24.0,
        10.0,
    ]
    assert predict_files(Predictor(Red()), inputs, out, format="png16", fps=24.0, resume=True) == []
    with pytest.raises(InputError, match=r"shot: was made with fps 24.0 and not 25.0\n"):
        predict_files(Predictor(Red()), inputs, out, format="png16", resume=True)
    with pytest.raises(InputError, match="no input is a folder of images"):
        predict_files(Predictor(Red()), [*inputs[1:], shot / "0.png"], out, fps=24.0, overwrite=True)
    for fps in (0.0, math.inf, math.nan):
        with pytest.raises(InputError, match="more than 0"):
            predict_files(Predictor(Red()), inputs, out, fps=fps)


def test_files_have_no_end_but_their_own(frames, tmp_path):
    with pytest.raises(InputError, match="seconds 5: no input is a camera or URL"):
        predict_files(Predictor(Red()), [save(tmp_path / "a.png", frames[0])], tmp_path / "out", seconds=5.0)


def test_what_an_older_version_did_not_note_is_not_compared(frames, tmp_path):
    path, out = save(tmp_path / "a.png", frames[0]), tmp_path / "out"
    predict_files(Predictor(Trailing()), [path], out)
    write_predictions(out, "a", read_predictions(out, "a")[0], "metric")
    assert predict_files(Predictor(Trailing(), max_side=16), [path], out, resume=True) == []
    with pytest.raises(InputError, match=r"a\.npz: was made with filter none and not ema"):
        predict_files(Predictor(Trailing()), [path], out, resume=True, filter="ema")


def test_a_run_that_goes_on_replaces_nothing_that_is_not_its_own(frames, tmp_path):
    path, out = save(tmp_path / "a.png", frames[0]), tmp_path / "out"
    out.mkdir()
    for name, format in (("a.mkv", "mkv"), ("a.npz", "npz"), ("a_preview.png", "npz"), ("a.json", "mkv")):
        (out / name).write_text("precious", encoding="utf-8")
        with pytest.raises(InputError, match=f"{name} is there without the rest of what predict writes"):
            predict_files(Predictor(Red()), [path], out, format=format, resume=True)
        assert (out / name).read_text(encoding="utf-8") == "precious"
        (out / name).unlink()
    predict_files(Predictor(Red()), [path], out, format="mkv")
    (out / "a_preview.png").unlink()
    (out / "a.json").unlink()
    assert len(predict_files(Predictor(Red()), [path], out, format="mkv", resume=True)) == 3


def test_what_is_there_already_is_named_and_what_a_killed_run_left_is_removed(frames, tmp_path, caplog):
    path, out = save(tmp_path / "a.png", frames[0]), tmp_path / "out"
    for name in ("a", "b"):
        (out / f".{name}.deadbeef.part" / "ready").mkdir(parents=True)
        (out / f".{name}.deadbeef.part.lock").touch()
    (out / ".a.abcdef01.part").mkdir()  # of a writer without a lock
    with hidden_folder(out, "a") as at_work:
        predict_files(Predictor(Red()), [path], out)
        assert at_work.is_dir()  # that of a run that goes on
    left = sorted(each.name for each in out.iterdir() if each.name.startswith("."))
    assert left == [".a.abcdef01.part", ".b.deadbeef.part", ".b.deadbeef.part.lock"]
    with caplog.at_level("INFO"):
        assert predict_files(Predictor(Red()), [path], out, resume=True) == []
    assert "out: has the outputs of 1 inputs, which are left as they are" in caplog.text


@pytest.mark.parametrize("format", ["npz", "mp4", "png16"])
def test_nothing_is_left_beside_the_outputs(ramp, tmp_path, format):
    video = tmp_path / "räume 1.mp4"
    write_video(video, ramp, 25.0)
    written = predict_files(Predictor(Red()), [video], tmp_path / "out", format=format)
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)


@pytest.mark.parametrize("place", ["out", "ready"])  # the old one cannot go, or the new one cannot come
def test_outputs_of_which_one_cannot_be_replaced_all_stay(ramp, tmp_path, monkeypatch, place):
    video = tmp_path / "a.mp4"
    write_video(video, ramp, 25.0)
    out = tmp_path / "out"
    paths = predict_files(Predictor(Red()), [video], out)
    before = [path.read_bytes() for path in paths]

    def refuse(path, final, *, move=predict_module.move):
        if path.parent.name == place and path.name.endswith("_preview.mp4"):
            raise PermissionError(13, "open in a player", str(path), None, str(final))
        move(path, final)

    monkeypatch.setattr(predict_module, "move", refuse)
    with pytest.raises(PermissionError) as raised:
        predict_files(Predictor(Red(), filter="median"), [video], out, overwrite=True)
    assert Path(raised.value.filename).name == "a_preview.mp4"
    assert raised.value.filename2 is None
    assert [path.read_bytes() for path in paths] == before
    assert sorted(out.iterdir()) == sorted(paths)


def test_a_folder_that_may_not_be_read_costs_the_others_nothing(frames, tmp_path, monkeypatch):
    inputs = [save(tmp_path / f"{name}.png", frames[0]) for name in "ab"]

    def refuse(given, lens=None, *, opened=predict_module._open):
        if given == inputs[0]:
            raise PermissionError(13, "no", str(inputs[0]))
        return opened(given, lens)

    monkeypatch.setattr(predict_module, "_open", refuse)
    with pytest.raises(SomeFailedError, match=r"a\.png: permission denied: ask its owner"):
        predict_files(Predictor(Red()), inputs, tmp_path / "out")
    assert (tmp_path / "out" / "b.npz").is_file()


def test_outputs_of_one_name_and_an_empty_name_are_refused(frames, tmp_path):
    write_video(tmp_path / "a.mp4", iter(frames), 25.0)
    (tmp_path / "a_preview.mp4").mkdir()
    save(tmp_path / "a_preview.mp4" / "0.png", frames[0])
    inputs = [tmp_path / "a.mp4", tmp_path / "a_preview.mp4"]
    with pytest.raises(InputError, match=r"would both write a_preview\.mp4"):
        predict_files(Predictor(Red()), inputs, tmp_path / "out", format="png16")
    with pytest.raises(InputError, match="an empty name"):
        predict_files(Predictor(Red()), [""], tmp_path / "out")


@pytest.mark.parametrize("kind", ["I;16", "I", "F"])
def test_images_of_pil_with_more_than_8_bits_are_refused(kind):
    values = np.linspace(0, 65535, H * W).reshape(H, W)
    image = PIL.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind]))
    assert image.mode == kind
    with pytest.raises(InputError, match="has more than 8 bits"):
        Predictor(Red()).predict(image)


def test_a_run_that_goes_on_in_another_format_or_onto_its_input_is_refused(frames, tmp_path):
    path, out = save(tmp_path / "a.png", frames[0]), tmp_path / "out"
    predict_files(Predictor(Red()), [path], out, format="png16")
    before = (out / "a" / "depth" / "0000.png").read_bytes()
    for other in ("exr", "png", "ply"):
        lens = Lens(focal_px=50.0) if other == "ply" else None
        with pytest.raises(InputError, match=f"a holds something else than {other}"):
            predict_files(Predictor(Red()), [path], out, format=other, resume=True, lens=lens)
    assert (out / "a" / "depth" / "0000.png").read_bytes() == before
    assert predict_files(Predictor(Red()), [path], out, format="png16", resume=True) == []
    write_video(tmp_path / "clip.mp4", iter(frames), 25.0)
    with pytest.raises(InputError, match="is an input and would be overwritten"):
        predict_files(Predictor(Red()), [tmp_path / "clip.mp4"], tmp_path, format="mp4", resume=True)


def test_inputs_of_one_name_are_refused_in_whichever_shards_they_are(frames, tmp_path):
    inputs = [save(tmp_path / folder / "cam.png", frames[0]) for folder in "xy"]
    for shard in ((1, 2), (2, 2)):
        with pytest.raises(InputError, match="would both be written as cam"):
            predict_files(Predictor(Red()), inputs, tmp_path / "out", shard=shard)
    (tmp_path / "x" / "cam.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(SomeFailedError, match=r"cam\.txt"):
        predict_files(Predictor(Red()), [*inputs[:1], tmp_path / "x" / "cam.txt"], tmp_path / "out")
    assert (tmp_path / "out" / "cam.npz").is_file()
    with pytest.raises(InputError, match=r"\*\* stands alone|matches nothing"):
        predict_files(Predictor(Red()), [str(tmp_path / "**.mp4")], tmp_path / "out")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_gives_what_the_cpu_gives(frames):
    on_cpu = np.stack([result.depth for result in Predictor(Trailing()).stream(frames)])
    on_gpu = np.stack([result.depth for result in Predictor(Trailing(), device="cuda").stream(frames)])
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=5e-3)


def test_a_file_in_the_place_of_the_folder_is_named_before_anything_is_done(tmp_path):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"out is a file, and .*out is to be a folder"):
        predict_files(Predictor(Red()), [tmp_path / "none.png"], tmp_path / "out")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"
