import pytest
import torch

from steadydepth.method.sequence import process_sequence
from steadydepth.types import InputError


def test_a_model_begins_anew_with_each_clip_and_its_state_is_returned():
    given = []

    def model(frames, state):
        given.append(state)
        return frames[:, :, 0], {"count": torch.full((len(frames),), frames.shape[1])}

    for length in (5, 2):
        depth, state = process_sequence(model, torch.zeros(2, length, 3, 2, 4))
        assert depth.shape == (2, length, 2, 4)
        assert state["count"].tolist() == [length, length]
    assert given == [None, None]


def test_streaming_equals_offline(model, clip):
    offline, _ = process_sequence(model, clip.frames)
    streamed, state = [], None
    for part in clip.frames.split(2, dim=1):
        depth, state = model(part, state)
        streamed.append(depth)
    torch.testing.assert_close(torch.cat(streamed, dim=1), offline, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (None, "a state of NoneType; it is a dict of tensors, {} for none"),
        ({"count": 3}, r"'count' is int; it is a tensor whose first axis is the batch of 1"),
        ({"count": torch.tensor(3)}, r"'count' is \(\)"),
        ({"count": torch.zeros(2)}, r"'count' is \(2,\)"),
    ],
)
def test_a_state_that_streams_could_not_share_is_refused(state, says):
    with pytest.raises(TypeError, match=says):
        process_sequence(lambda frames, _: (frames[:, :, 0], state), torch.zeros(1, 1, 3, 2, 2))


def test_no_frames_are_refused(model):
    with pytest.raises(InputError, match="at least one frame"):
        process_sequence(model, torch.zeros(1, 0, 3, 32, 32))
