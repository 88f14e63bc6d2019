"""Devices by their names: whether they are there, and what they can compute."""

import torch

from steadydepth.errors import InputError


def find_device(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: torch does not know it, or it is not there.
    """
    try:
        torch.zeros(1, device=name).cpu()
    # What torch raises for a name that it does not know or a device without numbers, in builds without a backend, and
    # without the package that brings one (hpu).
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"device {name}: cannot be used ({reason}): give cpu, or one that steadydepth doctor lists"
        ) from error
    return torch.device(name)


def has_float64(device: torch.device) -> bool:
    """Whether a device computes with 64 bits; Apple's GPUs and some of Intel's do not."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        return False
    return True
