"""A clip scored frame by frame: equal to the functions of whole clips, however it is cut up for reading."""

import math
import pickle
import shutil
from dataclasses import fields, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from films import pan
from slow_loops import bilinear

from steadydepth import metrics
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.evaluation.alignment import Prediction
from steadydepth.evaluation.clip_evaluation import score_clip
from steadydepth.evaluation.clip_scorer import Settings
from steadydepth.evaluation.evaluate import _enough_jobs, evaluate, evaluate_clip, report_of
from steadydepth.evaluation.footage import Footage, chosen_frames, excerpt, follow_flow, footage_of
from steadydepth.evaluation.sources import Source, open_footage, predict_sequence, sources_of_folder
from steadydepth.files.predictions import open_array, write_predictions
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.stored_depth import open_predictions
from steadydepth.inference.filters import ChosenFilter, filter_depth
from steadydepth.inference.predictor import Predictor
from steadydepth.metrics.protocols import METRICS, TEMPORAL, choose_protocol
from steadydepth.ops.resize import fit_image
from steadydepth.video_types import Clip

CLIPS = ("fixed_000003", "moving_000004")


@pytest.fixture(scope="module")
def holed(fixed_clip, moving_clip):
    """Both clips with holes in their labels, and depth that is wrong in every way."""
    generator, clips = np.random.default_rng(0), []
    for clip in (fixed_clip, moving_clip):
        valid = generator.random(clip.depth.shape) > 0.05
        noise = np.exp(0.03 * generator.normal(size=(5, 1, 1)) + 0.01 * generator.normal(size=clip.depth.shape))
        depth = (1.1 * clip.depth * noise).astype(np.float32)
        clips.append((replace(clip, valid=valid, depth=np.where(valid, clip.depth, np.float32(0))), depth))
    return clips


def as_numbers(scores):
    return {name: None if value.isnan() else float(value) for name, value in scores.items()}


def whole_clip_scores(depth, clip):
    """Every metric by the functions that take a whole clip."""
    truth, valid, objects = clip.depth, clip.valid, clip.objects > 0
    poses = {"K": clip.K, "cam_to_world": clip.cam_to_world}
    split = metrics.split_by_objects(objects, valid)
    flow, trusted = metrics.label_flow(clip.flow, clip.flow_valid, truth, valid), metrics.image_flow(clip.frames)
    scores = metrics.accuracy_scores(depth, truth, valid)
    for suffix, pixels in (("static", split.static), ("moving", split.moving)):
        part = metrics.accuracy_scores(depth, truth, pixels)
        scores |= {f"{name}_{suffix}": value for name, value in part.items()}
    if clip.fixed_camera:
        scores |= metrics.fixed_camera_scores(depth, valid, metrics.fixed_static_set(truth, valid, objects))
    scores |= metrics.rigid_error(depth, truth, valid, split.static, **poses)
    scores |= metrics.change_scores(depth, truth, split.moving, flow)
    scores |= metrics.bend_scores(depth, truth, split.moving, flow)
    scores |= metrics.label_change_scores(depth, truth, valid)
    scores |= metrics.flow_flicker(depth, trusted) | metrics.flow_roughness(depth, trusted)
    scores |= metrics.warping_scores(depth, clip.frames, flow, clip.flow_valid, valid)
    scores["tae"] = metrics.tae(depth, np.ones_like(valid), **poses)
    scores["tae_static"] = metrics.tae(depth, split.static, **poses)
    scores["tcc"] = metrics.tcc(depth, truth, valid)
    scores |= {name: getattr(metrics, name)(depth, truth, valid) for name in ("boundary_f1", "edge_gain")}
    return as_numbers(scores)


def test_frame_by_frame_is_as_the_functions_of_whole_clips(holed):
    for clip, depth in holed:
        values, expected = evaluate_clip(depth, clip, claims="metric"), whole_clip_scores(depth, clip)
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, rel=1e-9), (clip.name, name)
        missing = {name for name in METRICS if values[name] is not None} - set(expected)
        assert missing == {
            "scale", "shift", "negative_scale", "n_frames", "n_skipped", "n_nonfinite", "n_static", "n_moving"
        }  # fmt: skip


def test_the_floor_of_the_label_reads_no_hole(holed):
    for clip, depth in holed:
        found = score_clip(footage_of(clip), open_array(depth, "metric"), Settings(choose_protocol("plain"))).label
        truth = np.where(clip.valid, clip.depth, np.float32(1))
        own, trusted = whole_clip_scores(truth, clip), metrics.image_flow(clip.frames)
        poses = {"K": clip.K, "cam_to_world": clip.cam_to_world}
        flow = metrics.label_flow(clip.flow, clip.flow_valid, clip.depth, clip.valid)
        warped = metrics.warping_scores(truth, clip.frames, flow, clip.flow_valid, clip.valid, landing=clip.valid)
        own |= as_numbers(warped | metrics.flow_flicker(truth, trusted, clip.valid))
        own |= as_numbers(metrics.flow_roughness(truth, trusted, clip.valid))
        own["tae"] = float(metrics.tae(truth, clip.valid, **poses))
        assert set(found) <= {*TEMPORAL, "boundary_f1"}
        for name in set(found):
            assert found[name] == pytest.approx(own[name], rel=1e-9, abs=1e-12), (clip.name, name)
        assert {"sre", "vel", "tae", "opw", "flicker_flow", "rough_flow"} <= set(found)


def test_tensors_give_the_same_numbers_as_arrays(holed):
    clip, depth = holed[0]
    arrays = {field.name: getattr(clip, field.name) for field in fields(clip)}
    labels = ("depth", "valid", "objects", "K", "cam_to_world")
    tensors = SimpleNamespace(**(arrays | {name: torch.from_numpy(arrays[name]) for name in labels}))
    assert whole_clip_scores(torch.from_numpy(depth), tensors) == whole_clip_scores(depth, clip)
    for fit in (metrics.fit_scale, metrics.fit_median_scale, metrics.fit_scale_shift, metrics.fit_disparity):
        one, other = fit(depth, clip.depth, clip.valid), fit(torch.from_numpy(depth), tensors.depth, tensors.valid)
        assert (one.scale, one.shift) == (other.scale, other.shift)
    assert evaluate_clip(torch.from_numpy(depth), clip, claims="scale") == evaluate_clip(depth, clip, claims="scale")


@pytest.mark.parametrize("claims", ["metric", "scale", "affine", "disparity"])
def test_alignment_from_sums_is_the_fit_of_the_whole_clip(holed, claims):
    clip, depth = holed[1]
    raw = (1 / depth + 0.1 if claims == "disparity" else depth)[:, ::2, ::2].astype(np.float32)
    values = evaluate_clip(raw, clip, claims=claims)
    prediction = Prediction(open_array(raw, claims), footage_of(clip), len(raw), choose_protocol("plain"))
    same = np.stack([prediction.resize(frame).reshape(48, 64) for frame in raw])
    fit = {"scale": metrics.fit_median_scale, "affine": metrics.fit_scale_shift, "disparity": metrics.fit_disparity}
    if claims == "metric":
        assert (values["scale"], values["shift"]) == (1, 0)
    else:
        expected = fit[claims](same, clip.depth.astype(np.float64), clip.valid)
        assert values["scale"] == pytest.approx(float(expected.scale), rel=1e-6)
        assert values["shift"] == pytest.approx(float(expected.shift), rel=1e-6)


def write_all(folder, data, depth_of):
    for path in sorted(data.iterdir()):
        write_predictions(folder, path.name, *depth_of(open_sequence(path)))
    return folder


@pytest.fixture(scope="module")
def stored(world, tmp_path_factory):
    """Predictions of the two sequences of the world, wrong by noise."""
    generator = np.random.default_rng(3)

    def depth_of(sequence):
        truth = sequence.read().depth
        return (2 * truth * np.exp(0.05 * generator.normal(size=truth.shape))).astype(np.float32), "scale"

    return write_all(tmp_path_factory.mktemp("stored"), world, depth_of)


@pytest.fixture(scope="module")
def full_report(stored, world):
    return evaluate(stored, world, lengths=(2, 3, None), opw="nvds")


def test_two_processes_give_what_one_gives(stored, world, full_report):
    told = []
    options = {"lengths": (2, 3, None), "opw": "nvds", "progress": lambda *words: told.append(words)}
    assert evaluate(stored, world, jobs=2, **options) == full_report
    assert {what for what, _, _ in told if what.startswith("scored ")} == {f"scored {name}" for name in CLIPS}
    assert [done for what, done, total in told if what.startswith("scored ") and total == 2] == [1, 2]


def test_a_clip_that_stops_a_strict_evaluation_stops_its_processes(stored, world, tmp_path):
    shutil.copytree(stored, tmp_path / "stored")
    depth = np.load(stored / f"{CLIPS[0]}.npz")["depth"]
    depth[1, 2, 3] = np.nan
    write_predictions(tmp_path / "bad", CLIPS[0], depth, "scale")
    shutil.copy(tmp_path / "bad" / f"{CLIPS[0]}.npz", tmp_path / "stored")
    with pytest.raises(InputError, match="frame 1: predicted values that are not finite"):
        evaluate(tmp_path / "stored", world, strict=True, jobs=2)


@pytest.mark.parametrize(("share", "threads", "expected"), [(1, 8, 2), (1, 1, 1), (15_361, 8, 1), (40_000, 8, 1)])
def test_no_more_processes_than_pay_for_their_start(stored, world, monkeypatch, share, threads, expected):
    # Two clips of 5 frames of 48 x 64 are 30720 pixels.
    sources = sources_of_folder(stored, sorted(world.iterdir()), choose_protocol("plain"), filter=ChosenFilter())
    monkeypatch.setattr("steadydepth.evaluation.evaluate._PIXELS_A_PROCESS", share)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    assert _enough_jobs(sources) == expected


def test_a_stored_prediction_is_filtered_at_its_own_size(world, tmp_path):
    """As a model's is at that of the network."""
    path = world / CLIPS[0]
    frames = np.stack(list(open_sequence(path).images()))
    small = np.stack([fit_image(frame, 24, 32) for frame in frames])
    depth = np.random.default_rng(0).uniform(2, 9, (len(frames), 24, 32)).astype(np.float32)
    write_predictions(tmp_path, CLIPS[0], depth, "metric")
    (source,) = sources_of_folder(tmp_path, [path], choose_protocol("plain"), filter=ChosenFilter("ema_0.8"))
    expected = filter_depth("ema_0.8", depth, small)
    np.testing.assert_allclose(np.stack(list(source.open_depth().read())), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("protocol", "size", "predicted", "numbers", "rows", "columns"),
    [
        ("vda_nyu", (480, 640), (426, 560), range(3), slice(45, 471), slice(41, 601)),
        ("vda_scannet", (64, 96), (48, 74), range(0, 7, 3), slice(8, 56), slice(11, 85)),
        ("kitti", (375, 1242), (352, 1216), range(3), slice(23, 375), slice(13, 1229)),
    ],
)
def test_a_stored_prediction_of_a_part_is_filtered_along_that_part(
    tmp_path, protocol, size, predicted, numbers, rows, columns
):
    """The filter follows the images: those that were predicted, and what of them."""
    frames = pan(0, numbers[-1] + 1, *size)
    clip = Clip("part", frames, 10.0)
    path = write_sequence(tmp_path / "data", clip, depth_scale_m=None, source="a test", licence=None)
    chosen = frames[numbers.start : numbers.stop : numbers.step]
    depth = np.random.default_rng(0).uniform(2, 9, (len(chosen), *predicted)).astype(np.float32)
    write_predictions(tmp_path, "part", depth, "metric")
    (source,) = sources_of_folder(tmp_path, [path], choose_protocol(protocol), filter=ChosenFilter("flow_ema"))
    expected = filter_depth("flow_ema", depth, np.ascontiguousarray(chosen[:, rows, columns]))
    np.testing.assert_allclose(np.stack(list(source.open_depth().read())), expected, rtol=1e-6)


def test_clips_scored_apart_are_merged_by_their_names(fixed_clip, moving_clip):
    settings = Settings(choose_protocol("plain"))
    found = {
        clip.name: score_clip(footage_of(clip), open_array(1.1 * clip.depth, "metric"), settings)
        for clip in (fixed_clip, moving_clip)
    }
    whole = report_of(found, settings, data="both")
    alone = [report_of({name: clip}, settings, data="both") for name, clip in found.items()]
    assert whole["clips"] == alone[0]["clips"] | alone[1]["clips"]
    assert whole["mean"]["abs_rel"] == pytest.approx(0.1, rel=1e-5)
    assert report_of(found | {"third": "no such file"}, settings, data="both")["failed"] == {"third": "no such file"}


def test_what_a_model_wrote_scores_as_the_model(world, model, tmp_path):
    model.claims = "metric"
    write_all(tmp_path, world, lambda sequence: (predict_sequence(model, sequence), "metric"))
    by_file, by_model = evaluate(tmp_path, world), evaluate(model, world)
    for part in ("mean", "curves", "controls"):
        assert by_file[part] == by_model[part]
    held = evaluate(Predictor(model), world)
    assert held["mean"] == by_model["mean"]
    shrunk = evaluate(Predictor(model, max_side=48), world, controls=False)
    assert shrunk["mean"]["abs_rel"] != by_model["mean"]["abs_rel"]


def test_curves_are_the_numbers_of_each_frame_and_pair(stored, world, full_report):
    for path in sorted(world.iterdir()):
        clip, curves = open_sequence(path).read(), full_report["curves"][path.name]
        values = full_report["clips"][path.name]
        lengths = {"abs_rel": 5, "delta1": 5, "flicker": 4, "sre": 4, "vel": 4, "flicker_flow": 4}
        assert {name: len(curve) for name, curve in curves.items()} == lengths
        assert np.mean(curves["abs_rel"]) == pytest.approx(values["abs_rel"])
        assert np.mean(curves["delta1"]) == pytest.approx(values["delta1"])
        depth = np.load(stored / f"{path.name}.npz")["depth"] * values["scale"]
        if clip.fixed_camera:
            static = metrics.fixed_static_set(clip.depth, clip.valid, clip.objects > 0).numpy()
            change = np.abs(np.diff(np.log(depth[:, static].astype(float)), axis=0))
            assert curves["flicker"] == pytest.approx(list(100 * change.mean(axis=1)), rel=1e-5)
        else:
            assert curves["flicker"] == [None] * 4
            assert min(curves["sre"]) > 0


def shorten(clip, start, stop):
    kept = {name: getattr(clip, name)[start:stop] for name in ("frames", "depth", "valid", "objects", "cam_to_world")}
    return replace(clip, flow=clip.flow[start : stop - 1], flow_valid=clip.flow_valid[start : stop - 1], **kept)


def test_lengths_are_means_over_windows_that_do_not_overlap(fixed_clip, moving_clip):
    for clip in (fixed_clip, moving_clip):
        generator = np.random.default_rng(4)
        depth = (clip.depth * np.exp(0.02 * generator.normal(size=clip.depth.shape))).astype(np.float32)
        settings = Settings(choose_protocol("plain"), lengths=(2, 3, 9, None))
        found = score_clip(footage_of(clip), open_array(depth, "metric"), settings)
        parts = [evaluate_clip(depth[i : i + 2], shorten(clip, i, i + 2), claims="metric") for i in (0, 2)]
        for name in ("tae", "sre", "vel", "gain", "opw", "tcc", "ltg_static", "flicker_flow"):
            assert found.lengths[2][name] == pytest.approx(np.mean([part[name] for part in parts])), name
        assert found.lengths[2]["acc"] is None
        assert found.lengths[3]["acc"] == pytest.approx(
            evaluate_clip(depth[:3], shorten(clip, 0, 3), claims="metric")["acc"]
        )
        assert all(found.lengths[9][name] is None for name in TEMPORAL)
        whole = found.methods["model"]
        assert all(
            found.lengths[None][name] == pytest.approx(whole[name]) for name in TEMPORAL if whole[name] is not None
        )


def test_lengths_are_in_the_report(full_report):
    assert list(full_report["lengths"]) == ["2", "3", "all"]
    table = full_report["lengths"]["2"]
    of_clips = [clip["flicker_flow"] for clip in table["clips"].values()]
    assert table["mean"]["flicker_flow"] == pytest.approx(np.mean(of_clips))
    assert set(table["mean"]) == set(TEMPORAL)
    assert full_report["lengths"]["all"]["mean"]["sre"] == pytest.approx(full_report["mean"]["sre"])


def test_the_warping_error_of_nvds_against_loops(tiny):
    total = 0.0
    for t in range(1, 5):
        before, now = 1 / tiny.depth[t - 1].astype(float), 1 / tiny.depth[t].astype(float)
        framed = [np.pad(image, 1) for image in (before, *np.moveaxis(tiny.frames[t - 1].astype(float), -1, 0))]
        brought, weight = np.zeros((12, 16)), np.zeros((12, 16))
        for y in range(12):
            for x in range(16):
                u, v = np.add((x, y), tiny.two_way.backward[t - 1, y, x].astype(float)) + 1
                u, v = min(max(u, 0), 17), min(max(v, 0), 13)
                values = [bilinear(image, u, v) for image in framed]
                brought[y, x] = values[0]
                gaps = [float(tiny.frames[t, y, x, c]) - values[1 + c] for c in range(3)]
                weight[y, x] = sum(math.exp(-50 * gap**2) for gap in gaps)
        normal = []
        for image in (brought, now):
            centred = image - np.sort(image.ravel())[(12 * 16 - 1) // 2]
            normal.append(centred / max(np.abs(centred).mean(), 1e-6))
        total += 10 * (weight * np.abs(normal[0] - normal[1])).mean()
    found = metrics.opw_nvds(tiny.depth, tiny.frames, tiny.two_way)
    assert total > 0
    assert float(found) == pytest.approx(total / 5)
    both = metrics.opw_nvds(np.stack((7 * tiny.depth, tiny.depth)), tiny.frames, tiny.two_way)
    assert both.tolist() == pytest.approx([total / 5] * 2)


def test_the_warping_error_of_nvds_is_only_there_when_asked_for(full_report, stored, world):
    assert full_report["mean"]["opw_nvds"] > 0
    assert evaluate(stored, world, controls=False)["mean"]["opw_nvds"] is None


def test_a_protocol_takes_its_frames_before_anything_is_fitted(fixed_clip):
    many = choose_protocol("vda_scannet")
    assert chosen_frames(300, many) == range(0, 270, 3)
    assert chosen_frames(7, many) == range(0, 7, 3)
    assert chosen_frames(600, choose_protocol("vda_kitti")) == range(110)
    short = replace(choose_protocol("plain"), stride=2, max_frames=2, align="disparity")
    disparity = 1 / fixed_clip.depth + 0.1
    disparity[3:] = 9  # left away
    settings = Settings(short)
    whole, part = (
        score_clip(footage_of(fixed_clip), open_array(depth, "disparity"), settings).methods["model"]
        for depth in (disparity, disparity[[0, 2]])
    )
    assert whole == part
    assert whole["n_frames"] == 2
    assert whole["abs_rel"] == pytest.approx(0, abs=1e-5)
    assert whole["gain"] == pytest.approx(1, abs=1e-4)
    assert whole["n_tracked"] > 30


def shifts(*flows):
    """Footage of 6 x 20 px without depth that has these flows, (u, v, valid) each."""
    known = [(np.stack(np.broadcast_arrays(u, v), -1).astype(np.float32), valid) for u, v, valid in flows]
    return Footage("shifts", 10.0, len(flows) + 1, 6, 20, images=lambda: iter(()), flow=known.__getitem__)


def test_flow_is_followed_over_frames_that_are_left_out():
    x, everywhere = np.tile(np.arange(20.0), (6, 1)), np.ones((6, 20), bool)
    holed = everywhere.copy()
    holed[:, 9] = False
    footage = shifts((1.5, 0 * x, everywhere), (0.25 * x, 1.0, holed), (0 * x, -1.0, everywhere))
    flow, valid = follow_flow(footage, 0, 2)
    # A pixel x stands at x + 1.5, between two pixels: there it goes on by a quarter of that, and a row down.
    np.testing.assert_allclose(flow[..., 0][valid], (1.5 + 0.25 * (x + 1.5))[valid], rtol=1e-6)
    assert (flow[..., 1][valid] == 1).all()
    assert np.flatnonzero(~valid[3]).tolist() == [7, 8, 18, 19]  # reads the hole, or is outside
    flow, valid = follow_flow(footage, 0, 3)
    assert (flow[..., 1][valid] == 0).all()
    assert not valid[5].any()  # below the image in between
    np.testing.assert_array_equal(follow_flow(footage, 1, 2)[0], footage.flow(1)[0])


def test_what_is_hidden_in_between_is_not_followed():
    # A near block moves 4 px to the right and back; what it covers in between has the flow of nothing seen.
    far = np.full((6, 20), 5, np.float32)
    depth = np.stack([far, far, far])
    u = np.zeros((2, 6, 20))
    depth[0, :, 4:8] = depth[1, :, 8:12] = depth[2, :, 4:8] = 1
    u[0, :, 4:8], u[1, :, 8:12] = 4, -4
    everywhere = np.ones((6, 20), bool)
    footage = replace(
        shifts((u[0], 0.0, everywhere), (u[1], 0.0, everywhere)), depth=lambda number: (depth[number], everywhere)
    )
    flow, valid = follow_flow(footage, 0, 2)
    assert np.flatnonzero(~valid[2]).tolist() == [8, 9, 10, 11]
    assert (flow[valid] == 0).all()


def test_a_protocol_cuts_frames_labels_and_camera(moving_clip):
    cut = replace(choose_protocol("plain"), cut="scannet")
    part = excerpt(footage_of(moving_clip), cut)
    assert (part.height, part.width) == (32, 42)
    np.testing.assert_array_equal(part.K - moving_clip.K, [[0, 0, -11], [0, 0, -8], [0, 0, 0]])
    np.testing.assert_array_equal(next(part.images()), moving_clip.frames[0, 8:-8, 11:-11])
    exact = score_clip(
        footage_of(moving_clip), open_array(moving_clip.depth[:, 8:-8, 11:-11], "metric"), Settings(cut)
    ).methods["model"]
    assert exact["abs_rel"] == 0
    assert exact["sre"] < 0.2
    assert exact["gain"] == pytest.approx(1)


def test_the_network_of_a_protocol_that_cuts_is_shown_the_cut(world, model):
    model.claims = "metric"
    visible = []
    model.register_forward_pre_hook(lambda module, inputs: visible.append(inputs[0].shape))
    report = evaluate(model, world, protocol="vda_scannet", controls=False)
    assert {tuple(shape[-2:]) for shape in visible} == {(32, 42)}
    assert report["header"]["align"] == "disparity"
    assert report["header"]["n_frames"] == 4


def test_the_crop_of_bts_is_pasted_back_where_it_was_cut():
    protocol = choose_protocol("kitti")
    footage = Footage("empty", 10.0, 1, 375, 1242, images=lambda: iter(()))
    ones = np.ones((352, 1216), np.float32)
    pasted = Prediction(open_array(ones[None], "metric"), footage, 1, protocol).resize(ones).reshape(375, 1242)
    assert pasted[23:, 13:1229].min() == 1
    assert pasted.sum() == 352 * 1216


def test_a_source_can_be_sent_to_another_process(stored, world):
    path = sorted(world.iterdir())[0]
    source = Source(path.name, partial(open_footage, path), partial(open_predictions, stored, path.name))
    again = pickle.loads(pickle.dumps(source))
    assert again.open_depth().n_frames == again.open_clip().n_frames == 5
