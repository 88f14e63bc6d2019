"""Folders of videos, with depth or without: made, checked, converted and packed; models for rendering.

The functions of `__all__` are loaded when first used; each is the command of the same name.
"""

from importlib import import_module
from typing import Any

__all__ = ["assets", "check", "convert", "make", "pack"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("steadydepth.data.commands"), name)
    raise AttributeError(f"module 'steadydepth.data' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
