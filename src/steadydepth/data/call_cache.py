"""The latest results of a function, in an object that can be sent to another process."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any


class CallCache:
    """As `functools.lru_cache`, but that it can be pickled: in another process it begins empty.

    Loader processes are sent the samples that they read wherever processes are not forked: on macOS, and from
    Python 3.14 on Linux too.

    Args:
        function: whose results are kept; its arguments are hashable.
        size: how many of them.
    """

    def __init__(self, function: Callable[..., Any], size: int) -> None:
        self._function, self._size = function, size
        self._cached = lru_cache(maxsize=size)(function)

    def __call__(self, *arguments: Any) -> Any:
        """The function's result for `arguments`."""
        return self._cached(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        """The function and the size, without results."""
        return CallCache, (self._function, self._size)
