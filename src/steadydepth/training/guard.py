"""The guard of runs without labels: it takes a run back before the starting model's image or its edges are lost."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from steadydepth.method.alignment import as_depth
from steadydepth.method.sequence import process_sequence
from steadydepth.metrics.accumulators import Correlation, Gain
from steadydepth.metrics.along_flow import flow_flicker, image_flow
from steadydepth.metrics.arrays import log_depth
from steadydepth.metrics.edges import edge_gain_part
from steadydepth.models.declare import claims_of
from steadydepth.training.processes import spread

if TYPE_CHECKING:
    from accelerate import Accelerator


N_CLIPS = 8  # that a guard looks at
MOST_BACK = 4  # times that it takes a run back before it stops it


class Guard:
    """Compares a model's log depth and edges with its teacher's, and holds the last weights that were close enough.

    Where a model is too far off it is taken back to them, to continue with a smaller learning rate; where that has been
    of no use four times, the run stops.

    Args:
        teacher: the frozen copy of the model that training began with.
        clips: frames that are not trained on, where the videos are long enough; of one size, as they are.
        min_correlation: least correlation of log depth, in [0, 1]; 0 asks for nothing.
        min_edges_kept: least share of the edges, in [0, 1]; 0 asks for nothing.
    """

    def __init__(
        self,
        teacher: nn.Module,
        clips: Sequence[UInt8[np.ndarray, "t h w 3"]],
        *,
        min_correlation: float,
        min_edges_kept: float,
    ) -> None:
        self.teacher, self.clips = teacher, clips
        self.flows = [image_flow(clip) for clip in clips]
        self.least = {"log_depth_correlation": min_correlation, "edges_kept": min_edges_kept}
        self.kept: dict[str, torch.Tensor] | None = None
        self.backed_off = 0  # times

    @property
    def stopped(self) -> bool:
        """Whether continuing is of no use."""
        return self.backed_off > MOST_BACK

    def check(self, model: nn.Module, accelerator: "Accelerator") -> dict[str, float]:
        """Keep the weights of `model` if they are good enough; else put back those that were.

        Args:
            model: the running average of the weights.
            accelerator: all processes call this together, and decide by the mean of what they find.

        Returns: what `compare` gives, the mean over the processes.
        """
        own = self.compare(model, accelerator.device)
        values = torch.tensor(list(own.values()), device=accelerator.device)
        found = dict(zip(own, accelerator.reduce(values, reduction="mean").tolist(), strict=True))
        if self.too_little(found):
            self.backed_off += 1
            assert self.kept is not None
            model.load_state_dict(self.kept)
        else:
            self.keep(model)
        return found

    def keep(self, model: nn.Module) -> None:
        """Hold the weights of `model` as they are now: those to go back to."""
        self.kept = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def too_little(self, found: Mapping[str, Any]) -> list[str]:
        """The names of what is below its least; 0 asks for nothing."""
        return [name for name, least in self.least.items() if least and not found[name] >= least]

    def compare(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Beside the teacher over all pixels of all clips; both 0 for a constant prediction.

        Returns: `log_depth_correlation`, `edges_kept` and `flicker_flow` as of `evaluate --reference`, and the
            teacher's own `flicker_flow_before`; 1 edge kept where the teacher has none, 0 flicker where no flow is.
        """
        training, claims = model.training, claims_of(self.teacher)
        correlation, edges, flicker, n_pixels = list[Correlation](), list[Gain](), np.zeros(2), 0.0
        model.eval()
        with torch.no_grad():
            for clip, flow in zip(self.clips, self.flows, strict=True):
                frames = torch.from_numpy(clip).to(device).permute(0, 3, 1, 2)[None].float() / 255
                depth, predicted = (process_sequence(one, frames)[0].float() for one in (model, self.teacher))
                both = [as_depth(one, predicted, claims) for one in (depth, predicted)]
                scores = flow_flicker(torch.cat(both).cpu(), flow)
                n_pixels += float(scores["n_followed"][0])
                flicker += (scores["flicker_flow"].nan_to_num() * scores["n_followed"]).numpy()
                ours, theirs = (log_depth(one[0].flatten(1).cpu().numpy().astype(np.float64)) for one in both)
                for own, other in zip(ours, theirs, strict=True):
                    correlation.append(Correlation.of(own[None], other))
                    edges.append(edge_gain_part(own[None], other, np.isfinite(other), *clip.shape[1:3]))
        model.train(training)
        kept = float(reduce(add, edges).result()[0])
        now, before = (flicker / max(n_pixels, 1)).tolist()
        return {
            "log_depth_correlation": float(np.nan_to_num(reduce(add, correlation).result()[0])),
            "edges_kept": 1.0 if np.isnan(kept) else kept,
            "flicker_flow": now,
            "flicker_flow_before": before,
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it; tensors may be sharded."""
        return {"kept": self.kept, "backed_off": self.backed_off}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Go on from what `state_dict` returned, with weights sharded as those of `model`."""
        self.kept = state["kept"] and spread(state["kept"], model.state_dict())
        self.backed_off = state["backed_off"]
