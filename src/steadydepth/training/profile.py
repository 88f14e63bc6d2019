"""Where the time of a step goes: one clock, read at marks."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from steadydepth.data.samples import Item
from steadydepth.training.setup import Setup


class StepClock:
    """Seconds by part of the step; every mark waits for the device, as a run without a clock never does."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """Count the time since the last mark to `part`."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def watch(self, setup: Setup, model: nn.Module, batches: Iterator[Item]) -> tuple[Setup, Iterator[Item]]:
        """The same setup and batches, with the parts of every step of `model` marked from here on.

        Args:
            setup: of the run.
            model: as it is trained; hooks are added to it.
            batches: of this process.

        Returns: a setup whose losses and backward pass are marked, and the batches.
        """
        network = setup.accelerator.unwrap_model(model)
        # A clock in a compiled network would be read while it is compiled.
        mark = torch.compiler.disable(self.mark) if setup.config.run.compile else self.mark
        network.register_forward_pre_hook(lambda *_: mark("to the device"))
        network.register_forward_hook(lambda *_: mark("forward"))
        # What is neither of these two, between the forward and the backward pass, is pairing and the relative loss.
        watched = replace(
            setup,
            absolute=self._marking("absolute loss", setup.absolute),
            backward=self._marking("backward", setup.backward),
        )
        return watched, self._watch(batches)

    def _watch(self, batches: Iterator[Item]) -> Iterator[Item]:
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
        """The share of each part since the last call, as text; the sums begin anew."""
        total = sum(self.seconds.values())
        shares = ", ".join(f"{part} {100 * one / total:.1f} %" for part, one in self.seconds.items())
        self.seconds.clear()
        return shares
