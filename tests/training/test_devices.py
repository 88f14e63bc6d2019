"""What runs on a GPU, on tensors that have its name and no numbers: torch refuses sums of two devices in them as well.

Nothing is computed, so no value is checked; and what asks for a value, as a renderer does for its faces, cannot run.
"""

from types import SimpleNamespace

import accelerate
import pytest
import torch
from small_runs import resolve
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from steadydepth.config import DataConfig
from steadydepth.method.absolute_loss import ABSOLUTE
from steadydepth.method.alignment import align_clips
from steadydepth.method.relative_loss import RELATIVE, ROBUST
from steadydepth.method.update import build_optimizer
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.features import last_layer
from steadydepth.training.log import LossMeter
from steadydepth.training.processes import random_state, set_random_state
from steadydepth.training.setup import average_weights, choose_losses
from steadydepth.training.state import TrainingState, Watchers, pack
from steadydepth.training.step import train_step
from steadydepth.training.validation import EarlyStopping
from steadydepth.types import Batch

B, T, HEIGHT, WIDTH = 3, 4, 32, 40
ALL = {
    "gradient": 0.5, "edges": 1.0, "smoothness": 0.1, "trim": 0.2, "moving_weight": 0.5, "relative_gradient": 0.3,
    "motion_gain_weight": 0.1, "both_frames": False, "relative_ramp": 0,
}  # fmt: skip


def clips_on(device):
    """Clips of three sources: measured, single images, and without a label."""
    return Batch(
        frames=torch.rand(B, T, 3, HEIGHT, WIDTH, device=device),
        depth=torch.rand(B, T, HEIGHT, WIDTH, device=device) + 1,
        valid=torch.rand(B, T, HEIGHT, WIDTH, device=device) > 0.1,
        motion=torch.rand(B, T - 1, HEIGHT, WIDTH, 2, device=device),
        visible=torch.rand(B, T - 1, HEIGHT, WIDTH, device=device) > 0.1,
        labels=("depth", "single", "none"),
        source=(0, 1, 2),
    )


def learn(device, claims, **loss):
    """The losses of a step of a new network; without its gradient, for which torch asks the GPU itself."""
    config = resolve({"data": {"root": "world"}, "optim": {"steps": 1}, "run": {"folder": "run"}}, {"loss": ALL | loss})
    absolute, relative = choose_losses(config)
    with torch.device(device):
        model = DepthNet("test_efficientnet", decoder_width=8, upsampling="guided").train()
    optimizer = build_optimizer(model, learning_rate=1e-3, encoder_learning_rate=0.3, weight_decay=0.01)
    return train_step(
        model, optimizer, clips_on(device), relative_weight=1.0, max_grad_norm=1.0, absolute=absolute,
        relative=relative, feature_weight=0.1, last_layer=last_layer(model, HEIGHT, WIDTH), frame_offsets=(1, 2),
        claims=claims, backward=lambda loss: None, clip=lambda weights, most: 1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "loss"),
    [
        *(("metric", {"absolute": kind}) for kind in ABSOLUTE),
        *(("metric", {"relative": kind}) for kind in RELATIVE),
        *(("metric", {"robust": kind}) for kind in ROBUST),
        ("scale", {}),
    ],
)
def test_a_step_stays_on_its_device(claims, loss):
    with FakeTensorMode():
        terms = learn("cuda", claims, **loss)
        meter = LossMeter(DataConfig(sources=[{"root": name} for name in "abc"]), torch.device("cuda"))
        meter.add(terms)
        assert {one.device.type for one in (terms.target, meter.sums, meter.of_sources)} == {"cuda"}
        # What the first process is sent of the others', and what a checkpoint has.
        assert {one.device.type for one in meter.state_dict().values()} == {"cpu"}


class RefuseFloat64(TorchDispatchMode):
    """As Apple's GPUs do, and some of Intel's, each with an error of its own."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if isinstance(out, torch.Tensor) and out.device.type == "cuda" and out.dtype == torch.float64:
            raise self.error("no float64 on this device")
        return out


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_a_device_without_64_bits_has_its_clips_aligned_on_the_cpu(single, error):
    with FakeTensorMode(), RefuseFloat64(error):
        clips = clips_on("cuda")
        with pytest.raises(error, match="no float64"):
            clips.depth.double()
        aligned = align_clips(clips.frames.mean(2), clips.depth, clips.valid, "scale", single=single)
        assert aligned.device.type == "cuda"


def test_sums_of_two_devices_are_noticed():
    with FakeTensorMode(), pytest.raises(RuntimeError, match=r"at least two devices, cuda:0 and cpu"):
        torch.rand(3, device="cuda") + torch.rand(3)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_random_numbers_go_on_on_an_accelerator_of_any_kind(monkeypatch, kind):
    device, restored = torch.device(kind, 0), {}
    module = torch.get_device_module(kind)
    monkeypatch.setattr(module, "get_rng_state", lambda of: torch.tensor([7 if of == device else 0]))
    monkeypatch.setattr(module, "set_rng_state", lambda state, of: restored.update({of: int(state)}))
    state = random_state(device)
    drawn = torch.rand(3)
    set_random_state(state, device)
    assert torch.equal(torch.rand(3), drawn)
    assert restored == {device: 7}
    # A run that began elsewhere goes on with the CPU's alone.
    set_random_state({"cpu": state["cpu"]}, device)
    set_random_state(state, torch.device("cpu"))
    assert restored == {device: 7}


class CountCopies(TorchDispatchMode):
    """How often something on the CPU is sent elsewhere."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if func is torch.ops.aten._to_copy.default:
            self.n += args[0].device.type == "cpu" != out.device.type
        return out


def test_the_average_sends_its_count_once_for_all_tensors_of_a_type():
    """A copy waits for the device: one for each weight takes longer than the step of a small network."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    average = average_weights(model, 0.9)
    average.update_parameters(model)
    with CountCopies() as copies:
        average.update_parameters(model)
    assert copies.n == 2  # of floats, and of the counts of batch norm


def test_processes_send_each_other_nothing_that_is_on_the_cpu(monkeypatch):
    """NCCL cannot."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    sent = []
    monkeypatch.setattr(accelerate.utils, "broadcast", sent.extend)
    monkeypatch.setattr(accelerate.utils, "gather_object", list)
    state = TrainingState(model, average_weights(model, 0.9), torch.optim.AdamW(model.parameters()))
    here = torch.device("cpu")
    watchers = Watchers(LossMeter(DataConfig(root="a"), here), EarlyStopping(0), None)
    pack(state, watchers, SimpleNamespace(unwrap_model=lambda one: one, scaler=None, device=here))
    assert [one.device.type for one in sent] == ["meta"] * 6
