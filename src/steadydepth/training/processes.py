"""The processes and devices of a run: their random numbers, and weights sharded over them (FSDP2)."""

import importlib.util
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from steadydepth.config import Config
from steadydepth.types import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

# The first process alone labels videos and validates; NCCL ends the others after ten minutes of waiting, if not told.
WAITING = timedelta(days=1)


def open_accelerator(config: Config) -> "Accelerator":
    """Accelerate for the processes that the launcher has started.

    Raises:
        InputError: the device has no such precision, the tracker is not installed, or one process is to be sharded.
    """
    # Importing Accelerate costs a second: not at the import of this module.
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    precision, on_cpu = config.run.precision, config.run.device == "cpu" or not torch.accelerator.is_available()
    if precision == "fp16" and on_cpu:
        raise InputError("run.precision: fp16: needs a GPU; take no, or bf16 on a CPU that has AMX or AVX512_BF16")
    if precision == "bf16" and on_cpu and not has_bf16():
        logger.warning(
            "run.precision: bf16: this CPU has neither AMX nor AVX512_BF16 and will take longer than with no"
        )
    tracker = config.run.tracker
    # Accelerate continues without a tracker whose package is not there.
    if tracker and importlib.util.find_spec(tracker) is None:
        raise InputError(f"run.tracker: {tracker}: is not installed: pip install {tracker}")
    if not dist.is_initialized():
        # Accelerate keeps the device and the precision of the first run of a Python process, and refuses others.
        # Nothing public forgets them (1.15): `free_memory` and `end_training` do not, and its own tests call this.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        step_scheduler_with_optimizer=False,
        log_with=tracker,
        project_dir=config.run.folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAITING)],
    )
    if config.run.shard and accelerator.num_processes == 1:
        raise InputError("run.shard: there is one process, and nothing to share: start several with torchrun")
    if tracker:
        accelerator.init_trackers(config.run.folder.name)
    return accelerator


def has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 by itself."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def any_process(mine: bool, accelerator: "Accelerator") -> bool:
    """Whether `mine` is True in at least one process: all of them get the same answer."""
    if accelerator.num_processes == 1:
        return mine
    return bool(accelerator.reduce(torch.tensor(float(mine), device=accelerator.device), reduction="sum") > 0)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of this process's random generators, on the CPU and on `device`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set the generators to what `random_state` returned; that of `device` where the state has one of its kind."""
    torch.set_rng_state(state["cpu"].clone())
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type].clone(), device)


def shard(model: nn.Module) -> None:
    """Shard the weights of `model` in place: they are gathered for a pass and its gradient, and freed again."""
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    # FSDP2 hangs its work on what the network returns, and loses it with a view.
    model.register_forward_hook(lambda _, __, predicted: (predicted[0].clone(), predicted[1]))
    # Freed after a pass without a gradient too, or the optimizer would find complete weights.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def gather(state: Any) -> Any:
    """The same state with complete tensors in place of sharded ones; called in all processes together."""
    return tree_map_only(DTensor, DTensor.full_tensor, state)


def spread(state: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """Complete tensors sharded as those of the same names in `like` are, or are not; numbers stay as they are."""

    def one(value: Any, like: Tensor) -> Any:
        if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.ndim == 0:
            return value
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

    return {name: one(value, like[name]) for name, value in state.items()}
