import pytest
import torch
from torch import nn

from steadydepth.method.sequence import process_sequence
from steadydepth.types import InputError


class Counting(nn.Module):
    """Depth = mean of the frame + how many frames came before: a network with a memory, small enough to see through."""

    def forward(self, frames, state=None):
        first = torch.zeros(len(frames), dtype=torch.int64) if state is None else state["count"]
        count = first[:, None] + torch.arange(frames.shape[1])
        return frames.mean(dim=2) + 1 + count[..., None, None], {"count": first + frames.shape[1]}


def test_streaming_equals_offline(model, clip):
    offline, _ = process_sequence(model, clip.frames)
    for chunk in (1, 2):
        streamed, _ = process_sequence(model, clip.frames, chunk=chunk)
        torch.testing.assert_close(streamed, offline, rtol=1e-4, atol=1e-4)


def test_state_goes_from_chunk_to_chunk_in_the_order_of_the_frames():
    frames = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 3, 2, 4)
    expected = torch.tensor([1.0, 3, 5, 7, 9])
    for chunk in (None, 1, 2, 5, 9):
        depth, state = process_sequence(Counting(), frames, chunk=chunk)
        torch.testing.assert_close(depth[0, :, 0, 0], expected)
        assert state["count"].tolist() == [5]
    depth, state = process_sequence(Counting(), frames, {"count": torch.tensor([10])})
    torch.testing.assert_close(depth[0, :, 0, 0], expected + 10)
    assert state["count"].tolist() == [15]


def test_streams_in_one_batch_keep_their_states_apart():
    frames = torch.zeros(2, 3, 3, 2, 4)
    depth, state = process_sequence(Counting(), frames, {"count": torch.tensor([0, 7])}, chunk=1)
    torch.testing.assert_close(depth[:, -1, 0, 0], torch.tensor([3.0, 10.0]))
    assert state["count"].tolist() == [3, 10]


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
