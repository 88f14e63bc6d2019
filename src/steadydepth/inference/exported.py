"""An exported file wherever a model is asked for: as a module that takes frames and gives depth."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from steadydepth.inference.runtime import ExportedModel
from steadydepth.types import Claims, Depth, Frames, State


class ExportedNet(nn.Module):
    """The network of an exported file, on the CPU, for frames of any size; it has no weights that torch could see."""

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open the file as `ExportedModel` does."""
        super().__init__()
        self.file = ExportedModel(path, threads=threads)
        self.claims = cast(Claims, self.file.claims)

    def forward(self, frames: Frames, state: State | None = None) -> tuple[Depth, State]:
        """Depth of the frames, clip by clip and one at a time, as the contract `VideoDepthModel` has it.

        Args:
            frames: (b, t, 3, h, w), RGB in [0, 1]; they are rounded to the 8 bits that the file takes.
            state: what the call for the frames before returned, the clips along the first axis; None begins anew.

        Returns: depth (b, t, h, w) of the size of the frames, and the state that the last ones leave.
        """
        clips = (frames * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
        before = [state and {name: value[i : i + 1] for name, value in state.items()} for i in range(len(clips))]
        depths, after = zip(*map(self.predict_images, clips, before), strict=True)
        joined = {name: torch.cat([each[name] for each in after]) for name in self.file.state_names}
        return torch.from_numpy(np.stack(depths)), joined

    def predict_images(
        self, images: Iterable[UInt8[np.ndarray, "h w 3"]], state: State | None
    ) -> tuple[Float32[np.ndarray, "t h w"], State]:
        """Depth of consecutive images of one stream: the bytes that the file takes, without floats in between.

        Args:
            images: RGB, all of one size.
            state: what the call for the images before returned; None begins a stream.

        Returns: depth (t, h, w) and the state that the last image leaves, batched for this one stream.
        """
        depths, kept = [], {name: value.cpu().numpy() for name, value in state.items()} if state else None
        for image in images:
            depth, kept = self.file.step(image, kept)
            depths.append(depth)
        return np.stack(depths), {name: torch.from_numpy(value) for name, value in (kept or {}).items()}
