"""The metrics of evaluate for code that has clips and predictions in memory: update for each clip, then compute."""

from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor

from steadydepth.evaluation.evaluate import evaluate_clip
from steadydepth.evaluation.summary import mean_over_clips
from steadydepth.evaluation.windows import Values
from steadydepth.types import Claims, Clip


class VideoMetrics:
    """Every metric of `evaluate`, over clips that are given one by one, as torchmetrics has it.

    Args:
        claims: what the predicted numbers mean: "metric", "scale", "affine" or "disparity".
        align: "auto" does what the claims call for; or "none", "scale", "affine", "disparity". Once for a clip.
        max_depth: labels beyond it do not count, metres; None: as the protocol has it.
        protocol: a key of `metrics.PROTOCOLS`.
    """

    def __init__(
        self, *, claims: Claims, align: str = "auto", max_depth: float | None = None, protocol: str = "plain"
    ) -> None:
        self._score = partial(evaluate_clip, claims=claims, align=align, max_depth=max_depth, protocol=protocol)
        self.clips: list[Values] = []  # the metrics of each clip so far

    def update(
        self, depth: Float[np.ndarray, "t i j"] | Float[Tensor, "t i j"], clip: Clip
    ) -> dict[str, float | int | None]:
        """Score the prediction of one clip, every frame in order.

        Args:
            depth: predicted values in the units of `claims`, of any size of the same shape as the frames.
            clip: its frames and what is known of them.

        Returns: the metrics of this clip; None where one does not apply.

        Raises:
            InputError: the prediction cannot belong to the clip, or the settings are no settings.
        """
        self.clips.append(self._score(depth, clip))
        return self.clips[-1]

    def compute(self) -> dict[str, float | None]:
        """Unweighted mean over the clips so far, by name of `metrics.METRICS`; None where no clip has a value.

        As in metrics.json a clip with fewer than 100 samples of the set of pixels of a metric, such as the moving ones,
        stays out of its mean.
        """
        return mean_over_clips(self.clips)

    def reset(self) -> None:
        """Forget all clips."""
        self.clips = []
