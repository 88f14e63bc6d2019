"""The filters that a stream can name: those of the package that need no later frames, and those tuned on the server."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import HTTPException

from steadydepth.inference.filters import CAUSAL, NONE, ChosenFilter, choose_filter


class Filters:
    """Filters by name.

    Args:
        default: of streams that name none: what `choose_filter` takes.
        tuned: the folders that `tune_filter` wrote, by name, whenever it is asked.

    Raises:
        InputError: there is no such default.
    """

    def __init__(self, default: str | None, tuned: Callable[[], Mapping[str, Path]] = dict) -> None:
        self.default, self._tuned = choose_filter(default), tuned

    def names(self) -> list[str]:
        """All that a stream can name."""
        return [NONE, *CAUSAL, *self._tuned()]

    def choose(self, name: str | None) -> ChosenFilter:
        """The filter of a stream, the server's own for None; HTTPException where there is none of that name."""
        if name is None:
            return self.default
        if name in (NONE, *CAUSAL):
            return choose_filter(name)
        if (folder := self._tuned().get(name)) is None:
            raise HTTPException(422, f"no filter has that name; there are {', '.join(self.names())}")
        return choose_filter(str(folder))
