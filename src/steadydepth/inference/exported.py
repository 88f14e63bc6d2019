"""An exported file wherever a model is asked for: as a module that takes frames and gives depth."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from steadydepth.inference.runtime import ExportedModel
from steadydepth.types import Claims, Depth, Frames, State


class ExportedNet(nn.Module):
    """The network of an exported file, on the CPU, for frames of any size; it has no weights that torch could see."""

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        super().__init__()
        self.file = ExportedModel(path, threads=threads)
        self.claims = cast(Claims, self.file.claims)

    def forward(self, frames: Frames, state: State | None = None) -> tuple[Depth, State]:
        """Depth of each frame by itself, of its size; frames are rounded to the 8 bits that the file takes."""
        images = (frames * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
        depth = np.stack([[self.file.predict(image) for image in clip] for clip in images])
        return torch.from_numpy(depth), {}
