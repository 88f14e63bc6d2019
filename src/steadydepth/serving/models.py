"""The models that a server knows by name, and the one that is in service."""

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steadydepth.errors import InputError
from steadydepth.inference.predictor import Predictor, load
from steadydepth.serving.batching import Batcher, Port

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class InService:
    """A model that answers, and the number of the change that brought it: each answer says both.

    That number is of this process alone; `made_by`, what outputs note of the model, tells models apart for good.
    """

    name: str
    version: int
    predictor: Predictor
    batcher: Batcher
    made_by: dict[str, Any]


class Models:
    """Models by name; one is in service, and another can take its place while streams stay open.

    A stream takes the new one from its next frame on, where it begins anew: no answer is of both. The one before ends
    when the last of its frames is answered.
    """

    def __init__(self, model: str | Path | Predictor, *, device: str | None = None) -> None:
        """Put the first model in service, and those after it, on `device`; InputError as `load`."""
        self._device = device
        predictor = model if isinstance(model, Predictor) else load(model, device=device)
        name = "model" if isinstance(model, Predictor) else _plain(str(model))
        self._known: dict[str, str | Path | Predictor] = {name: model}
        self._lock = threading.Lock()
        self.current = InService(name, 1, predictor, Batcher(predictor.network), predictor.noted())

    def open(self) -> tuple[InService, Port]:
        """The one in service, and a network for one session, to be closed; RuntimeError after `close`."""
        current = self.current
        while (port := current.batcher.open()) is None:
            before, current = current, self.current
            if current is before:  # or another one was put into service since
                raise RuntimeError("the server ends")
        return current, port

    def names(self) -> list[str]:
        """All that are known."""
        return list(self._known)

    def sources(self) -> dict[str, str]:
        """Of the known models, what `load` takes for each; those that were handed over ready have none."""
        return {name: str(model) for name, model in self._known.items() if not isinstance(model, Predictor)}

    def add(self, name: str, model: str | Path | Predictor) -> None:
        """Make a model known by a name; one that is there is replaced, from its next `put_into_service` on.

        Raises:
            InputError: the name is none of a model.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name of a model; it is 1 to 64 letters, digits, dots and dashes: rename")
        self._known[name] = model

    def forget(self, name: str) -> None:
        """A model that is no more there; streams on it continue."""
        self._known.pop(name, None)

    def put_into_service(self, name: str) -> InService:
        """Load a known model, try it on one image, and put it in the place of the one in service.

        Returns: what is in service now. When loading or the trial fails nothing changes.

        Raises:
            InputError: the name is not known, or the model cannot be read.
        """
        if name not in self._known:
            raise InputError(f"no model {name!r}; there are {', '.join(self._known)}")
        with self._lock:
            model = self._known[name]
            predictor = model if isinstance(model, Predictor) else load(model, device=self._device)
            # The first call of a network is slow, and shows what is broken: neither is for the streams to find out.
            predictor.predict(np.zeros((192, 256, 3), np.uint8))
            before, made_by = self.current, predictor.noted()
            self.current = InService(name, before.version + 1, predictor, Batcher(predictor.network), made_by)
            before.batcher.retire()
        return self.current

    def close(self) -> None:
        """End; open streams are answered to their end."""
        self.current.batcher.retire()


def _plain(name: str) -> str:
    """A name for what a model was loaded from: its last part, without what is declared of it."""
    last = re.split(r"[/\\:]", name.split(",")[0].rstrip("/\\"))[-1]
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip("._-")[:64]
    return kept or "model"


def describe(in_service: InService) -> dict[str, Any]:
    """The model in service, as clients hear of it."""
    return {"model": in_service.name, "version": in_service.version, "claims": in_service.predictor.claims}
