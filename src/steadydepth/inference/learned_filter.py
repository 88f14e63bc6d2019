"""The learned filter over a video: one frame of depth and its image at a time, or a stored video there and back."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from steadydepth.models.temporal_filter import TemporalFilter, load_temporal_filter
from steadydepth.ops.optical_flow import reduced_flow
from steadydepth.types import Claims, Frames, InputError, State

STRENGTH = 0.9  # of the trade-off in docs/filter.md, where accuracy does not pay for what flicker loses


class LearnedFilter:
    """The learned filter for depth of those claims; what it remembers is a state that is passed and returned.

    Args:
        claims: what the numbers of the depth mean.
        strength: from 0, the depth as it is, to 1.
        network: another than the one that the package ships.

    Raises:
        InputError: the strength is not from 0 to 1.
    """

    def __init__(self, claims: Claims, *, strength: float = STRENGTH, network: TemporalFilter | None = None) -> None:
        if not 0 <= strength <= 1:
            raise InputError(f"strength is {strength}; it goes from 0, the depth as it is, to 1: give such a number")
        self.network = (load_temporal_filter(claims) if network is None else network).eval()
        self.claims, self.strength = claims, strength

    @torch.inference_mode()
    def step(
        self, depth: Float[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], state: State | None = None
    ) -> tuple[Float[np.ndarray, "h w"], State]:
        """Filter the depth of one frame.

        Args:
            depth: in the units of `claims`; values that are not finite pass.
            image: RGB, of the size of the depth.
            state: what the step before returned; None at the beginning, after a cut or a gap.

        Returns: the filtered depth, of the same type, and the state for the next step; empty while no depth was finite.
        """
        if not state and not np.isfinite(depth).any():
            return depth, {}
        shown = _as_tensor(image)
        motion = reduced_flow(image, state["image"][0].numpy()) if state else np.zeros((*depth.shape, 2), np.float32)
        out, after = self.network(
            _as_frames(shown),
            torch.from_numpy(depth.astype(np.float32))[None, None],
            {name: tensor for name, tensor in state.items() if name != "image"} if state else None,
            motion=torch.from_numpy(motion)[None, None],
            strength=self.strength,
        )
        return out[0, 0].numpy().astype(depth.dtype), {**after, "image": shown[None]}

    @torch.inference_mode()
    def begin(self, depth: Float[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], unit: Tensor) -> State:
        """The state before a first frame, in a unit that is known already."""
        shown = _as_tensor(image)
        start = self.network.start(_as_frames(shown)[:, 0], torch.from_numpy(depth.astype(np.float32))[None])
        return {**start, "unit": unit, "image": shown[None]}

    @torch.inference_mode()
    def mean(self, depth: Float[np.ndarray, "h w"], one: State, other: State) -> Float[np.ndarray, "h w"]:
        """What two states say of the same frame, each with the weight of what it remembers; `depth` where neither."""
        ages = one["age"], other["age"]
        total = ages[0] + ages[1]
        middle = (ages[0] * one["filtered"] + ages[1] * other["filtered"]) / total.clamp(min=1)
        out = self.network.from_log(middle, one["unit"])[0].numpy()
        return np.where(total[0].numpy() > 0, out, depth).astype(depth.dtype)


def _as_tensor(image: UInt8[np.ndarray, "h w 3"]) -> Tensor:
    # Of a read-only array, such as a frame in a mapped file, torch would warn.
    return torch.from_numpy(np.require(image, requirements=["C", "W"]))


def _as_frames(image: Tensor) -> Frames:
    """One 8-bit image as a batch of one video of one frame, RGB in [0, 1]."""
    return image.permute(2, 0, 1)[None, None].float() / 255


def filter_offline(
    frames: Iterable[tuple[Float[np.ndarray, "h w"], UInt8[np.ndarray, "h w 3"]]],
    learned: LearnedFilter,
    *,
    window: int = 32,
    lookahead: int = 16,
) -> Iterator[Float[np.ndarray, "h w"]]:
    """Filter a video there and back: the mean of both in log depth, each with the weight of what it remembers.

    Args:
        frames: depth and image of each frame of one shot.
        learned: the filter.
        window: how many frames are returned at a time.
        lookahead: how many more the way back begins after them; `window + lookahead` frames are held in memory.

    Yields: the depth of each frame. A value that is not finite passes.
    """
    source = iter(frames)
    held: list[tuple[np.ndarray, np.ndarray, State]] = []
    state: State = {}
    is_over = False
    while held or not is_over:
        fresh = list(islice(source, window + lookahead - len(held)))
        is_over = len(held) + len(fresh) < window + lookahead
        for depth, image in fresh:
            _, state = learned.step(depth, image, state)
            held.append((depth, image, state))
        yield from _back(held, len(held) if is_over else window, learned)
        held = held[len(held) if is_over else window :]


def _back(held: list[tuple[np.ndarray, np.ndarray, State]], n_frames: int, learned: LearnedFilter) -> list[np.ndarray]:
    """The first `n_frames` of those held, filtered from the last to the first as well."""
    returned = []
    state: State = {}
    for depth, image, there in reversed(held):
        if there and not state:
            state = learned.begin(depth, image, there["unit"])
        out, state = learned.step(depth, image, state)
        returned.append(learned.mean(depth, there, state) if there and state else out)
    return returned[::-1][:n_frames]
