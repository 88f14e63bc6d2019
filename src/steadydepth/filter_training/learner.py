"""What the training of a learned filter is at: kept in a folder while it runs, so that an interrupted one resumes."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadydepth.config import FilterConfig
from steadydepth.models.temporal_filter import FilterGates
from steadydepth.ops.devices import find_device
from steadydepth.training.checkpoint import CHECKPOINT, PREVIOUS, load_checkpoint, remove_remains, save_checkpoint
from steadydepth.training.log import LOG, add_line, keep_lines_until
from steadydepth.types import InputError

# Of the config, what leaves the weights as they are.
_FREE = {"out", "workers", "device", "log_every"}


class Learner:
    """The network with its optimizer, and how far it is; what was interrupted in `folder` resumes there, exactly.

    Args:
        gates: the network as it is at the beginning.
        config: of the training.
        folder: gets a checkpoint and metrics.jsonl, a line every `log_every` batches.
        learns_from: what else the weights depend on, as values of JSON.

    Raises:
        InputError: another training was interrupted in the folder, its checkpoints are damaged, or the device is not
            there.
    """

    def __init__(self, gates: FilterGates, config: FilterConfig, folder: Path, *, learns_from: Any = None) -> None:
        self.gates, self.config, self.folder = gates.to(find_device(config.device)), config, folder
        self.optimizer = torch.optim.AdamW(gates.parameters(), lr=config.learning_rate, weight_decay=1e-4)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.number, self.share, self.spent_s = 0, 0.0, 0.0  # batches, the share of all that is over, and seconds
        self.found: list[dict[str, Tensor]] = []  # parts of the loss since the last line of the log
        asked = [config.model_dump(mode="json", exclude=_FREE), learns_from]
        self._order = json.dumps(asked, sort_keys=True)
        if (cut := load_checkpoint(folder)) is not None:
            self._restore(cut)
        remove_remains(folder)
        keep_lines_until(folder / LOG, self.number)

    def _restore(self, cut: dict[str, Any]) -> None:
        if cut["order"] != self._order:
            raise InputError(
                f"{self.folder}: the training of a filter with other settings was interrupted here: give what was "
                "given then, choose another place, or delete that folder"
            )
        self.gates.load_state_dict(cut["gates"])
        self.optimizer.load_state_dict(cut["optimizer"])
        self.generator.set_state(cut["generator"])
        self.number, self.share, self.spent_s = cut["number"], cut["share"], cut["spent_s"]
        self.found = [{name: value.to(self.config.device) for name, value in one.items()} for one in cut["found"]]

    def log(self) -> str:
        """Write the means of what was found since the line before, and return them as text."""
        means = {name: torch.stack([one[name] for one in self.found]).mean().item() for name in self.found[0]}
        self.folder.mkdir(parents=True, exist_ok=True)
        add_line(self.folder / LOG, {"step": self.number, **means, "seconds": round(self.spent_s, 3)})
        self.found = []
        return ", ".join(f"{name} {value:.3f}" for name, value in means.items())

    def save(self) -> None:
        """Write a checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "order": self._order,
            "gates": self.gates.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "number": self.number,
            "share": self.share,
            "spent_s": self.spent_s,
            "found": self.found,
        }
        save_checkpoint(content, self.folder)

    def forget(self) -> None:
        """Delete the checkpoints: the weights are written."""
        for name in (CHECKPOINT, PREVIOUS):
            (self.folder / name).unlink(missing_ok=True)
