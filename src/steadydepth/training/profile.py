"""Where the time of a step goes: stretches of one clock, from one mark to the next."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from steadydepth.data.loader import Item
from steadydepth.training.state import Run


class StepClock:
    """Seconds by part of the step; every mark waits for the device, which a run that is not watched never does."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """Count the time since the last mark to `part`."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def watch(self, run: Run, batches: Iterator[Item]) -> Iterator[Item]:
        """The same batches; from here on the parts of every step of `run` are marked."""
        network = run.accelerator.unwrap_model(run.model)
        # A clock in a compiled network would be read while it is compiled.
        mark = torch.compiler.disable(self.mark) if run.config.run.compile else self.mark
        network.register_forward_pre_hook(lambda *_: mark("to the device"))
        network.register_forward_hook(lambda *_: mark("forward"))
        # What is neither of these two, between the forward pass and the way back, is pairing and the relative loss.
        run.absolute = self._marking("absolute loss", run.absolute)
        run.backward = self._marking("backward", run.backward)
        self.last = time.perf_counter()
        for batch in batches:
            self.mark("data wait")
            yield batch
            self.mark("log and checkpoints")

    def _marking(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*arguments: Any, **options: Any) -> Any:
            self.mark("relative loss")
            found = call(*arguments, **options)
            self.mark(part)
            return found

        return marked

    def take(self) -> str:
        """The share of each part since the last time, in words; the sums begin anew."""
        total = sum(self.seconds.values())
        shares = ", ".join(f"{part} {100 * one / total:.1f} %" for part, one in self.seconds.items())
        self.seconds.clear()
        return shares
