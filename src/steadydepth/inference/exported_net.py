"""An exported file as a module of torch, for what asks for one."""

import numpy as np
import torch
from torch import nn

from steadydepth.inference.exported import ExportedNetwork
from steadydepth.types import Depth, Frames, State


class ExportedNet(nn.Module):
    """The network of an exported file, on the CPU, for frames of any size; it has no weights that torch could see."""

    def __init__(self, network: ExportedNetwork) -> None:
        """Take a file that is open."""
        super().__init__()
        self.network, self.claims = network, network.claims

    def forward(self, frames: Frames, state: State | None = None) -> tuple[Depth, State]:
        """Depth of the frames, clip by clip and one at a time, as the contract `VideoDepthModel` has it.

        Args:
            frames: (b, t, 3, h, w), RGB in [0, 1]; they are rounded to the 8 bits that the file takes.
            state: what the call for the frames before returned, the clips along the first axis; None begins anew.

        Returns: depth (b, t, h, w) of the size of the frames, and the state that the last ones leave.
        """
        clips = (frames * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
        arrays = None if state is None else {name: value.cpu().numpy() for name, value in state.items()}
        before = [arrays and {name: value[i : i + 1] for name, value in arrays.items()} for i in range(len(clips))]
        depths, after = zip(*map(self.network, map(list, clips), before), strict=True)
        joined = {name: torch.from_numpy(np.concatenate([each[name] for each in after])) for name in after[0]}
        return torch.from_numpy(np.stack(depths)), joined
