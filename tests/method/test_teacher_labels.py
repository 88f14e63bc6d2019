from dataclasses import replace

import pytest
import torch

from steadydepth.method.teacher_labels import average_along, label_clips
from steadydepth.models.depth_net import DepthNet


@pytest.fixture
def teacher():
    torch.manual_seed(3)
    return DepthNet(decoder_width=16).eval()


@pytest.fixture
def batch(clip):
    """Four clips of three sources, in no order."""
    both = {name: torch.cat((value, value.flip(0))) for name, value in vars(clip).items() if torch.is_tensor(value)}
    return replace(clip, **both, labels=("teacher", "depth", "none", "teacher"), source=(2, 0, 1, 2))


def test_only_clips_of_the_teacher_get_its_labels_and_they_get_them_everywhere(batch, teacher):
    before = {name: value.clone() for name, value in vars(batch).items() if torch.is_tensor(value)}
    found = label_clips(batch, teacher=teacher)
    with torch.no_grad():
        expected = teacher(batch.frames[[0, 3]])[0].log().exp()
    torch.testing.assert_close(found.depth[[0, 3]], expected)
    assert found.valid[[0, 3]].all()
    assert not found.depth.requires_grad
    for name in ("depth", "valid"):
        assert torch.equal(getattr(found, name)[1:3], before[name][1:3])
        assert torch.equal(getattr(batch, name), before[name])


def test_one_source_is_labelled_as_its_clips_among_others_are(batch, teacher):
    alone = replace(batch, labels=("teacher",) * 4, source=(0,) * 4)
    mixed = replace(batch, labels=("teacher",) * 4, source=(0, 1, 1, 0))
    torch.testing.assert_close(label_clips(alone, teacher=teacher).depth, label_clips(mixed, teacher=teacher).depth)


def test_clips_without_the_label_need_no_teacher(clip):
    assert label_clips(clip, teacher=None) is clip


def test_a_label_averaged_along_the_motion_by_hand():
    # One row; everything moves one pixel to the right a frame.
    depth = torch.tensor([[[[1.0, 2.0, 8.0]], [[5.0, 1.1, 2.2]], [[7.0, 5.0, 1.21]]]])
    motion = torch.zeros(1, 2, 1, 3, 2)
    motion[..., 0] = -1.0
    visible = torch.ones(1, 2, 1, 3, dtype=torch.bool)
    visible[0, 0, 0, 2] = False
    averaged = average_along(depth, motion, visible, window=3)
    expected = depth.clone()
    # Frame 1: pixel 0 comes from outside; pixel 1 was 1.0; pixel 2 was 2.0, but was not visible.
    expected[0, 1, 0, 1] = 1.1**0.5
    # Frame 2: pixel 1 was 5.0, as it is; pixel 2 was 1.1, and 1.0 before.
    expected[0, 2, 0, 2] = (1.21 * 1.1 * 1.0) ** (1 / 3)
    torch.testing.assert_close(averaged, expected)
    assert torch.equal(average_along(depth, motion, visible, window=1), depth.log().exp())
    # Another surface is no neighbour.
    far = depth.clone()
    far[0, 0, 0, 0] = 2.0
    assert average_along(far, motion, visible, window=2)[0, 1, 0, 1] == pytest.approx(1.1)
