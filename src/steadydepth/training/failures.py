"""Failures of a run that are not in its files, reported with what to do."""

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from steadydepth.types import InputError

# What gloo and NCCL report in the processes that are left.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
LESS = (
    "raise optim.accumulate, set model.checkpointing, or lower optim.batch, data.clip_length or data.height and width"
)


@contextmanager
def explained() -> Iterator[None]:
    """Explain errors of processes, of torch.compile and for want of memory; all others pass.

    Raises:
        InputError: in place of those errors, with the way out.
    """
    try:
        yield
    except InputError as error:
        # A loader process sends its error as text, below its own stack.
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from error
    except torch.OutOfMemoryError as error:
        raise InputError(f"out of memory on the GPU: {LESS}; run.precision: bf16 takes less too") from error
    except Exception as error:
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                "a process that renders was lost, most likely for want of memory: lower data.workers, and the same "
                "command resumes from the last checkpoint"
            ) from error
        if "DefaultCPUAllocator" in str(error):
            raise InputError(f"out of memory: {LESS}") from error
        if type(error).__module__.startswith("torch._"):
            reason = str(error).splitlines()[0]
            raise InputError(f"run.compile: torch.compile failed ({reason}): set run.compile: false") from error
        first = _lost_loader(error)
        if first is not None:
            raise InputError(
                f"a loader process was lost, most likely for want of memory ({str(first).splitlines()[0]}): lower "
                "data.workers or data.cached_clips, and the same command resumes from the last checkpoint"
            ) from error
        if any(words in str(error) for words in LOST):
            raise InputError(
                "another process of this run was lost: its own log, or the launcher's, has the reason; the same "
                "command resumes from the last checkpoint"
            ) from error
        raise


def _lost_loader(error: BaseException | None) -> BaseException | None:
    """Torch's error for it, which is raised in the middle of anything, such as a write that then fails as well."""
    while error is not None and "DataLoader worker" not in str(error):
        error = error.__cause__ or error.__context__
    return error
