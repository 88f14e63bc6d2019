"""Measure whether the absolute and the relative loss agree: cosines of their gradients over batches.

    .venv/bin/python benchmarks/gradient_agreement.py -c configs/demo.yaml runs/compare/plain-0 runs/compare/steady-0

Cosines are given for the weights and for the predicted depth. Without a folder, the starting weights of the config are
used.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from steadydepth.config_files import load_config
from steadydepth.data.loader_workers import load_items
from steadydepth.data.samples import make_batch
from steadydepth.method.absolute_loss import absolute_loss
from steadydepth.method.pairing import pair_with_previous
from steadydepth.method.relative_loss import relative_loss
from steadydepth.models.load import load_model
from steadydepth.training.samples import open_samples
from steadydepth.training.setup import set_up
from steadydepth.training.step import set_training_mode
from steadydepth.types import Batch


def agreement(model: nn.Module, batch: Batch, *, motion_gain_weight: float) -> tuple[float, float]:
    """Cosine of the gradients of the two losses, in all weights together and in the predicted depth."""
    depth, _ = model(batch.frames)
    predicted, truth = (
        pair_with_previous(one, batch.valid, batch.motion, batch.visible) for one in (depth, batch.depth)
    )
    losses = (
        absolute_loss(depth, batch.depth, batch.valid),
        relative_loss(predicted, truth, motion_gain_weight=motion_gain_weight),
    )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    in_weights, in_depth = (cosine(*(gradient(loss, of) for loss in losses)) for of in (weights, [depth]))
    return in_weights, in_depth


def gradient(loss: Tensor, of: Sequence[Tensor]) -> Tensor:
    parts = torch.autograd.grad(loss, of, retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("models", nargs="*", help="folders of models")
    parser.add_argument("--batches", type=int, default=14)
    given = parser.parse_args()
    config = load_config(given.config, [f"optim.steps={given.batches}", "run.device=cpu", "run.seed=5"])
    _, state = set_up(config)
    batches = [
        make_batch(items) for items in load_items(open_samples(config, 0, 0, 1), batch=config.optim.batch, workers=0)
    ]
    for name in given.models or ["start"]:
        model = load_model(name) if given.models else state.model
        is_trained = bool(given.models) or config.optim.freeze_batch_norm_after == 0
        set_training_mode(model, freeze_batch_norm=is_trained)
        found = [agreement(model, batch, motion_gain_weight=config.loss.motion_gain_weight) for batch in batches]
        for where, cosines in zip(("weights", "depth"), zip(*found, strict=True), strict=True):
            n_fights = sum(one < 0 for one in cosines)
            print(
                f"{name}, {where}: mean {fmean(cosines):+.3f}, from {min(cosines):+.3f} to {max(cosines):+.3f}, "
                f"against each other in {n_fights} of {len(cosines)} batches"
            )


if __name__ == "__main__":
    main()
