"""The filters that a stream can name: those of the package that need no later frames, and those tuned on the server."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import HTTPException

from steadydepth.inference.filters import CAUSAL, NONE, ChosenFilter, choose_filter, open_filter
from steadydepth.serving.tokens import Identity


class Filters:
    """Filters by name.

    Args:
        default: of streams that name none: what `choose_filter` takes.
        tuned: the folders that `tune_filter` wrote and somebody may use, by name, whenever it is asked.
        strength: of the learned filters that are given by name, as the `Predictor` that is served has it; None is their
            own.

    Raises:
        InputError: there is no such default, or it needs later frames.
    """

    def __init__(
        self,
        default: str | ChosenFilter,
        tuned: Callable[[Identity], Mapping[str, Path]],
        *,
        strength: float | None,
    ) -> None:
        self._tuned, self._strength = tuned, strength
        self.default = self._named(default) if isinstance(default, str) else default
        open_filter(self.default, "metric")  # refused here, and not to every stream

    @property
    def default_name(self) -> str:
        """What clients call the server's own; of a tuned one no path."""
        weights = self.default.weights
        return self.default.name if weights is None else f"{self.default.name}:{weights.parent.name}"

    def names(self, who: Identity) -> list[str]:
        """All that a stream of theirs can name."""
        return [NONE, *CAUSAL, *self._tuned(who)]

    def choose(self, name: str | None, who: Identity) -> ChosenFilter:
        """The filter of a stream, the server's own for None; HTTPException where they have none of that name."""
        if name is None:
            return self.default
        if name in (NONE, *CAUSAL):
            return self._named(name)
        if (folder := self._tuned(who).get(name)) is None:
            raise HTTPException(422, f"no filter has that name; there are {', '.join(self.names(who))}")
        return self._named(str(folder))

    def _named(self, name: str) -> ChosenFilter:
        chosen = choose_filter(name)
        return chosen if chosen.strength is None else choose_filter(chosen, self._strength)
