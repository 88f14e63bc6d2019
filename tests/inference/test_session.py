"""One session under everything: what is remembered, when it is forgotten, and that all doors give one result."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from known_depth import Average, Red, averages, film
from PIL import Image as PIL
from torch import nn

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.evaluation.sources import predict_sequence
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.stored_depth import read_predictions
from steadydepth.inference.filters import choose_filter, filter_depth
from steadydepth.inference.live import stream_newest
from steadydepth.inference.network import Network, _inside
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor, load
from steadydepth.inference.session import Session
from steadydepth.models.depth_net import DepthNet
from steadydepth.ops.resize import resize_depth
from steadydepth.types import Clip, InputError

T, H, W = 9, 40, 56


def depths(results) -> np.ndarray:
    return np.stack([result.depth for result in results])


@pytest.mark.parametrize(("make", "filter"), [(Average, "none"), (Red, "none"), (Red, "learned_offline")])
def test_frames_before_a_damaged_one_have_their_depth(make, filter):
    def damaged():
        yield from film()[:6]
        raise InputError("frame 6 is damaged")

    found, fine = (Session(Network(make()), filter=filter, chunk=4).run(one) for one in (damaged(), film()[:6]))
    expected = [result.depth for result in fine]
    np.testing.assert_array_equal([next(found).depth for _ in range(6)], expected)
    with pytest.raises(InputError, match="frame 6 is damaged"):
        next(found)


@pytest.mark.parametrize("chunk", [1, 2, 4, 100, None])
def test_chunks_give_the_same_numbers(chunk):
    found = Session(Network(Average()), chunk=chunk).run(iter(film()))
    np.testing.assert_allclose(depths(found), averages(film()), rtol=1e-6)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_without_a_frame_is_refused(chunk):
    predictor = Predictor(Average())
    for door in (
        lambda: Session(Network(Average()), chunk=chunk),
        lambda: predictor.session(chunk=chunk),
        lambda: predictor.stream(film(), chunk=chunk),
    ):
        with pytest.raises(InputError, match=rf"chunk {chunk}: must be at least 1 frame, or None"):
            door()


@pytest.mark.parametrize("make", [Average, Red])
def test_frames_that_do_not_fit_into_memory_together_are_predicted_in_parts(make):
    class Small(make):
        def forward(self, frames, state=None):
            if frames.shape[1] > 2:
                raise torch.OutOfMemoryError("for 2 frames only")
            return super().forward(frames, state)

    model = Small()
    found = [result.depth for result in Session(Network(model), chunk=8).run(film())]
    np.testing.assert_array_equal(found, [result.depth for result in Session(Network(make()), chunk=8).run(film())])
    assert max(model.chunks) == 2
    assert sum(model.chunks) == T


def test_a_frame_that_does_not_fit_into_memory_is_told():
    class Full(Red):
        def forward(self, frames, state=None):
            raise torch.OutOfMemoryError("none")

    with pytest.raises(InputError, match=f"cpu has no memory for a frame of {H} x {W}: give a smaller max_side"):
        next(Session(Network(Full())).run(film()))


def test_a_per_frame_network_is_shown_as_many_frames_as_fill_the_device():
    model = Red()
    assert len(list(Session(Network(model)).run(film()))) == T
    assert model.chunks == [1, T - 1]
    assert Network(model).frames_at_once(1080, 1920) == 1
    assert Network(model, max_side=256).frames_at_once(1080, 1920) > 4


def test_frames_one_by_one_are_the_frames_of_a_recording():
    session = Session(Network(Average()))
    np.testing.assert_allclose(depths(map(session.step, film())), averages(film()), rtol=1e-6)


def test_evaluate_predict_and_stream_give_one_result(tmp_path):
    """Of a model with a memory, over a cut; the exported file is held to the same in tests/exporters."""
    frames, model = np.concatenate((film(0), film(1))), Average()
    folder = write_sequence(
        tmp_path / "data", Clip("room", frames, 10.0), depth_scale_m=None, source=None, licence=None
    )
    predictor = Predictor(model)
    expected = np.concatenate((averages(frames[:T]), averages(frames[T:])))
    np.testing.assert_allclose(depths(predictor.stream(folder)), expected, rtol=1e-6)
    np.testing.assert_allclose(predict_sequence(model, open_sequence(folder)), expected, rtol=1e-6)
    predict_files(predictor, [folder], tmp_path / "out")
    np.testing.assert_allclose(read_predictions(tmp_path / "out", "room")[0], expected, rtol=1e-6)
    starts = [number for number, result in enumerate(predictor.stream(frames)) if result.is_start]
    assert starts == [0, T]
    session = predictor.session()
    np.testing.assert_allclose(depths(map(session.step, frames)), expected, rtol=1e-6)


def test_a_live_source_that_is_never_late_gives_the_same():
    model, frames = Average(), film()
    taken = [live.result.depth for live in stream_newest(Predictor(model), paced(frames, model))]
    np.testing.assert_allclose(taken, averages(frames), rtol=1e-6)


def paced(frames, model):
    """Each frame when the one before it has been predicted."""
    for number, frame in enumerate(frames):
        for _ in range(2000):
            if len(model.chunks) >= number:
                break
            time.sleep(0.005)
        yield frame


def test_another_size_begins_anew():
    small, large = film()[:, :20], film()
    results = list(Session(Network(Average())).run([*small[:3], *large[:2]]))
    assert [result.is_start for result in results] == [True, False, False, True, False]
    np.testing.assert_allclose(depths(results[3:]), averages(large[:2]), rtol=1e-6)


def test_a_gap_in_time_begins_anew_and_so_does_who_asks():
    session, frames = Session(Network(Average())), film()
    times = [0.0, 0.04, 0.08, 1.2, 1.24]
    results = [session.step(frame, time_s=time_s) for frame, time_s in zip(frames, times, strict=False)]
    assert [result.is_start for result in results] == [True, False, False, True, False]
    session.reset()
    assert session.step(frames[5], time_s=1.28).is_start


def test_a_source_or_a_model_that_is_always_slow_has_no_gaps():
    session = Session(Network(Average()))
    starts = [session.step(frame, time_s=2.0 * t).is_start for t, frame in enumerate(film())]
    assert starts == [True, True] + [False] * (T - 2)


def test_a_filter_is_applied_by_name_and_begins_anew_at_a_cut():
    frames = np.concatenate((film(0), film(1)))
    found = depths(Predictor(Red(), filter="ema_0.8").stream(frames))
    raw = 1 + frames[..., 0].astype(np.float32)
    for part in (slice(0, T), slice(T, 2 * T)):
        np.testing.assert_allclose(found[part], filter_depth("ema_0.8", raw[part], frames[part]), rtol=1e-5)
    np.testing.assert_allclose(depths(Predictor(Red(), filter="ema").stream(frames, filter="none")), raw, rtol=1e-6)


def test_the_learned_filter_is_applied_by_name_causal_and_there_and_back():
    frames = np.concatenate((film(0), film(1)))
    raw = 1 + frames[..., 0].astype(np.float32)
    for name in ("learned", "learned_offline"):
        results = list(Predictor(Red(), filter=name).stream(frames))
        for part in (slice(0, T), slice(T, 2 * T)):
            expected = filter_depth(name, raw[part], frames[part])
            np.testing.assert_allclose(depths(results[part]), expected, rtol=1e-4, err_msg=name)
        assert [result.is_start for result in results].index(True, 1) == T
        assert not np.allclose(depths(results), raw, rtol=1e-2)


@pytest.mark.parametrize("name", ["learned", "learned_offline", "ema_0.8"])
def test_filters_work_at_the_size_at_which_the_network_sees_a_frame(name):
    """So a large video costs them no more than a small one; its depth is enlarged at the end, by the one rule."""
    large = film().repeat(3, axis=1).repeat(3, axis=2)
    network = Network(Red(), max_side=W)
    small = np.stack([network.fit(frame) for frame in large])
    assert small.shape == (T, H, W, 3)
    expected = [result.depth for result in Session(Network(Red()), filter=name).run(small)]
    results = list(Session(network, filter=name).run(large))
    assert not np.allclose(expected, [1.0 + frame[..., 0] for frame in small], rtol=1e-2)
    for result, depth in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.network_depth, depth)
        np.testing.assert_array_equal(result.depth, resize_depth(depth, 3 * H, 3 * W))
        assert result.image.shape == (3 * H, 3 * W, 3)
        assert result.valid.all()


def test_a_live_source_cannot_be_filtered_there_and_back():
    with pytest.raises(InputError, match="looks at later frames, which a live source has not: take learned"):
        Session(Network(Red()), filter="learned_offline").step(film()[0])


def test_one_image_is_never_filtered_and_nothing_is_kept_for_the_next():
    predictor = Predictor(Average(), filter="ema_0.8")
    for frame in film()[:3]:
        np.testing.assert_allclose(predictor.predict(frame).depth, 1 + frame[..., 0], rtol=1e-6)


def test_a_panorama_is_shrunk_no_further_than_the_network_can_see():
    network = Network(DepthNet(decoder_width=8, max_side=256))
    assert network.fit(np.zeros((1000, 9000, 3), np.uint8)).shape == (32, 288, 3)
    assert network.fit(np.zeros((2000, 240, 3), np.uint8)).shape == (267, 32, 3)
    assert network.fit(np.zeros((480, 640, 3), np.uint8)).shape == (192, 256, 3)
    assert network([network.fit(np.zeros((100, 1000, 3), np.uint8))], None)[0].shape == (1, 32, 320)


def test_threads_share_a_module_that_trains_and_its_statistics_stay():
    class Slow(nn.Module):
        claims = "metric"

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, frames, state=None):
            assert not self.training
            seen = self.norm(frames.flatten(0, 1)).mean(1)
            time.sleep(0.002)
            assert not self.training
            return 2 + seen.unflatten(0, frames.shape[:2]), {}

    model = Slow()
    predictor = Predictor(model)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: predictor.predict(np.full((H, W, 3), n, np.uint8)), range(40)))
    assert model.training
    assert model.norm.running_mean.abs().max() == 0
    assert _inside == {}  # or the module would be kept for good


def test_the_strength_of_a_predictor_is_that_of_the_filters_it_is_given_by_name():
    predictor = Predictor(Red(), filter="learned", strength=0.25)
    assert predictor.session(filter="learned_offline").filter.strength == 0.25
    assert predictor.session(filter="learned", strength=0.5).filter.strength == 0.5
    assert predictor.session(filter=choose_filter("learned")).filter.strength == 1
    assert predictor.session(filter="ema").filter.strength is None


def test_no_frame_gives_no_depth_and_what_is_no_image_is_refused():
    session = Session(Network(Red()), filter="ema")
    assert list(session.run([])) == []
    with pytest.raises(InputError, match=r"float64 \(40, 56, 3\)"):
        list(session.run([film()[0] / 255]))


def test_a_state_that_streams_could_not_share_is_refused():
    class Broken(Red):
        def forward(self, frames, state=None):
            return super().forward(frames)[0], None

    with pytest.raises(TypeError, match="a state of NoneType"):
        next(Session(Network(Broken())).run(film()))


@pytest.mark.parametrize("answer", [torch.ones(1, 1, 40, 56), {"depth": torch.ones(1, 1, 40, 56)}, (None, {})])
def test_a_model_that_returns_no_depth_and_state_is_told_what_it_returns(answer):
    class Broken(Red):
        def forward(self, frames, state=None):
            return answer

    with pytest.raises(TypeError, match=r"it returns a tensor of depth \(b, t, h, w\) and a state"):
        next(Session(Network(Broken())).run(film()))


def test_what_is_no_module_is_refused_and_not_asked_for_its_claims(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    for model in ("steadydepth-small", Predictor(Red()), Red().forward):
        with pytest.raises(InputError, match=r"it is an nn\.Module; load takes names"):
            Predictor(model)
    with pytest.raises(InputError, match="name is Red; load takes text or a path"):
        load(Red())


@pytest.mark.parametrize(("make", "filter"), [(Red, "none"), (Red, "ema"), (Average, "none"), (Red, "learned_offline")])
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_source_may_fill_one_array_again_and_again(make, filter, chunk):
    def frames():
        image = np.empty((H, W, 3), np.uint8)
        for frame in film():
            image[:] = frame
            yield image

    predictor = Predictor(make(), filter=filter)
    found = depths(predictor.stream(frames(), chunk=chunk))
    np.testing.assert_array_equal(found, depths(predictor.stream(film(), chunk=chunk)))


@pytest.mark.parametrize(("make", "filter"), [(Red, "ema"), (Red, "learned"), (Average, "none")])
def test_who_draws_on_the_images_of_results_makes_no_cut(make, filter):
    predictor = Predictor(make(), filter=filter)
    found = []
    for result in predictor.stream(film()):
        found.append(result.depth.copy())
        result.image[:] = 0
        result.depth[:] = 0
    np.testing.assert_array_equal(found, depths(predictor.stream(film())))


@pytest.mark.parametrize("source", [None, 1.5])
def test_what_is_no_source_is_named(source, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(InputError, match="give a path, a camera's index, a URL or images in order"):
        Predictor(Red()).stream(source)


def test_a_tensor_with_a_gradient_and_a_closed_image_are_images_or_are_named():
    image = torch.from_numpy(film()[0]).permute(2, 0, 1) / 255
    found = Predictor(Red()).predict(image.requires_grad_())
    np.testing.assert_array_equal(found.depth, Predictor(Red()).predict(film()[0]).depth)
    closed = PIL.fromarray(film()[0])
    closed.close()
    with pytest.raises(InputError, match="an image of PIL cannot be read"):
        Predictor(Red()).predict(closed)
