"""An exported file wherever a model is asked for; nothing here needs torch."""

import hashlib
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float32

from steadydepth.inference.runtime import ArrayState, ExportedModel
from steadydepth.inference.session import Fitted, Image
from steadydepth.ops.resize import fit_image
from steadydepth.video_types import Claims


class ExportedNetwork:
    """The network of an exported file as `PredictsMany`: one size, to which all frames are stretched."""

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open the file, with so many threads, as `ExportedModel` does."""
        self.file = ExportedModel(path, threads=threads)
        self.claims = cast(Claims, self.file.claims)
        self.max_side: int | None = None  # it has one size

    def fit(self, image: Image) -> Fitted:
        """A frame at the size of the file."""
        return fit_image(image, self.file.height, self.file.width)

    def __call__(
        self, images: list[Fitted], state: ArrayState | None
    ) -> tuple[Float32[np.ndarray, "t i j"], ArrayState]:
        """Depth of consecutive frames, in the units of `claims`, and the state that they leave, as of `Predicts`."""
        depths = []
        for image in images:  # bytes, without floats in between
            depth, state = self.file.step(image, state)
            depths.append(depth)
        return np.stack(depths), state or {}

    def step_together(
        self, images: list[Fitted], states: list[ArrayState | None]
    ) -> list[tuple[Float32[np.ndarray, "i j"], ArrayState]]:
        """Depth of the next frame of several videos, as of `PredictsMany`: one after another."""
        return [self.file.step(image, state) for image, state in zip(images, states, strict=True)]

    def frames_at_once(self, height: int, width: int) -> int:
        """One: the file takes no more."""
        return 1

    def checksum(self) -> str:
        """Of the file, and of the one beside it."""
        digest, path = hashlib.blake2b(b"ExportedNet", digest_size=8), Path(self.file.path)
        for file in (path, path.with_suffix(".bin")):  # OpenVINO has its weights beside it
            digest.update(file.read_bytes() if file.is_file() else b"")
        return digest.hexdigest()
