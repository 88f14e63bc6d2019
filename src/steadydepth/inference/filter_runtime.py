"""The learned filter over a video with NumPy and OpenCV: frame by frame, or a stored video there and back.

Nothing here, and nothing it imports, needs torch: who answers for the network is handed in. `LearnedFilter` asks the
network of the package, `ExportedFilter` a file that `steadydepth export-filter` wrote.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError, import_package
from steadydepth.ops.fast_flow import flow_of_contrasts, local_contrasts
from steadydepth.ops.filter_step import begin, filter_step, find_unit, from_log, guide_factor, padding
from steadydepth.ops.resize import check_image

STRENGTH = 1.0  # docs/filter.md has the trade-off
CLAIMS = ("metric", "scale", "affine", "disparity")  # of `video_types.Claims`, whose module needs jaxtyping

Array = NDArray[Any]
# What is remembered of one video; empty while no depth was finite.
FilterState = dict[str, Array]
# The network: features (1, 19, y, x) to gates (1, 4, y, x).
Gates = Callable[[Array], Array]


def check_strength(strength: float) -> None:
    """See that a strength is one.

    Raises:
        InputError: it is not from 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}; it goes from 0, the depth as it is, to 1: give such a number")


class VideoFilter:
    """The learned filter for depth of those claims; what it remembers is a state that is passed and returned.

    Args:
        gates: what answers for the network.
        claims: what the numbers of the depth mean: metric, scale, affine or disparity.
        strength: from 0, the depth as it is, to 1.

    Raises:
        InputError: the strength is not from 0 to 1, or there are no such claims.
    """

    def __init__(self, gates: Gates, claims: str, *, strength: float = STRENGTH) -> None:
        check_strength(strength)
        if claims not in CLAIMS:
            raise InputError(f"claims {claims!r}: what depth claims is one of {', '.join(CLAIMS)}")
        self.claims, self.strength = claims, strength
        self._backend = _CvBackend(gates)

    def step(self, depth: Array, image: Array, state: FilterState | None = None) -> tuple[Array, FilterState]:
        """Filter the depth of one frame.

        Args:
            depth: float (h, w), in the units of `claims`; values that are not finite pass.
            image: uint8 RGB (h, w, 3), of the size of the depth.
            state: what the step before returned; None at the beginning, after a cut or a gap.

        Returns: the filtered depth, of the same type, and the state for the next step; empty while no depth was finite.

        Raises:
            InputError: the image is none, or of another size than the depth.
        """
        if depth.shape != check_image(image).shape[:2]:
            raise InputError(f"depth is {depth.shape}, its image {image.shape[:2]}: resize one to the other first")
        if not state and not np.isfinite(depth).any():
            return depth, {}
        contrasts, frame = _guide(image)
        padded = _pad(depth.astype(np.float32, copy=False))
        if state:
            flow, memory = flow_of_contrasts(contrasts, state["contrasts"]), state
        else:
            flow = np.zeros((*frame.shape[1:], 2), np.float32)
            memory = begin(padded, frame, find_unit(depth, self.claims))
        strength = np.full((1, 1), self.strength, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # of values that pass as they are
            out, after = filter_step(self._backend, frame, padded, flow, memory, claims=self.claims, strength=strength)
        height, width = depth.shape
        return out[:height, :width].astype(depth.dtype), {**after, "contrasts": contrasts}

    def _begin(self, depth: Array, image: Array, unit: Array) -> FilterState:
        """The state before a first frame, in a unit that is known already."""
        contrasts, frame = _guide(image)
        return {**begin(_pad(depth.astype(np.float32, copy=False)), frame, unit), "contrasts": contrasts}

    def _mean(self, depth: Array, one: FilterState, other: FilterState) -> Array:
        """What two states say of the same frame, each with the weight of what it remembers; `depth` where none does."""
        factor = len(one["filtered"]) // len(one["age"])
        ages = [self._backend.enlarge(state["age"], factor) * state["known"] for state in (one, other)]
        total = ages[0] + ages[1]
        middle = (ages[0] * one["filtered"] + ages[1] * other["filtered"]) / np.maximum(total, 1e-6)
        height, width = depth.shape
        out = from_log(middle, one["unit"], self.claims)[:height, :width]
        return np.where(total[:height, :width] > 0, out, depth).astype(depth.dtype)

    def back(self, held: list[tuple[Array, Array, FilterState]]) -> list[Array]:
        """Frames that were filtered, each with the state after it, filtered from the last to the first as well."""
        returned = []
        state: FilterState = {}
        for depth, image, there in reversed(held):
            if there and not state:
                state = self._begin(depth, image, there["unit"])
            out, state = self.step(depth, image, state)
            returned.append(self._mean(depth, there, state) if there and state else out)
        return returned[::-1]


class ExportedFilter(VideoFilter):
    """The learned filter from a file that `steadydepth export-filter` wrote, run by ONNX Runtime.

    Args:
        path: the file, .onnx; one file is for videos of any size and depth of any claims.
        claims: what the numbers of the depth mean: metric, scale, affine or disparity.
        strength: from 0, the depth as it is, to 1.
        threads: how many threads ONNX Runtime may use; None leaves the choice to it.

    Raises:
        InputError: the file is missing or damaged, ONNX Runtime is not installed, or the strength is not from 0 to 1.
    """

    def __init__(
        self, path: str | Path, claims: str, *, strength: float = STRENGTH, threads: int | None = None
    ) -> None:
        super().__init__(open_gates(Path(path), threads), claims, strength=strength)


def open_gates(path: Path, threads: int | None = None) -> Gates:
    """The network in a file that `steadydepth export-filter` wrote.

    Raises:
        InputError: the file is missing, or no learned filter.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; write it with export-filter, or check the path")
    session = open_onnx_session(path, threads)
    if [each.name for each in session.get_inputs()] != ["features"]:
        raise InputError(f"{path}: no learned filter; write it with export-filter")
    return lambda features: session.run(None, {"features": features})[0]


def open_onnx_session(path: Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU; None leaves the number of its threads to it.

    Raises:
        InputError: ONNX Runtime is not installed, or cannot read the file.
    """
    onnxruntime = import_package("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Its errors share no other base.
    except Exception as error:
        raise InputError(f"{path}: ONNX Runtime cannot read it ({error}): write or copy it again") from error


def _guide(image: Array) -> tuple[Array, Array]:
    """What the flow sees of an image at guide size, and that as float32 (3, i, j) in [0, 1]."""
    factor = guide_factor(*image.shape[:2])
    padded = _pad(image)
    size = padded.shape[1] // factor, padded.shape[0] // factor
    guide = padded if factor == 1 else cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
    return local_contrasts(guide), np.ascontiguousarray(guide.transpose(2, 0, 1)) * np.float32(1 / 255)


def _pad(array: Array) -> Array:
    rows, columns = padding(*array.shape[:2])
    return cv2.copyMakeBorder(array, 0, rows, 0, columns, cv2.BORDER_REPLICATE) if rows or columns else array


class _CvBackend:
    """A step of the filter on arrays."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    def sample(self, maps: list[Array], x: Array, y: Array, *, is_cubic: bool = False) -> list[Array]:
        mode = cv2.INTER_CUBIC if is_cubic else cv2.INTER_LINEAR
        return [cv2.remap(one, x, y, mode, borderMode=cv2.BORDER_REPLICATE) for one in maps]

    def shrink(self, map: Array, factor: int) -> Array:
        size = map.shape[1] // factor, map.shape[0] // factor
        return map if factor == 1 else cv2.resize(map, size, interpolation=cv2.INTER_AREA)

    def enlarge(self, map: Array, factor: int) -> Array:
        size = map.shape[1] * factor, map.shape[0] * factor
        return map if factor == 1 else cv2.resize(map, size, interpolation=cv2.INTER_LINEAR)

    def blur(self, map: Array, size: int) -> Array:
        return cv2.blur(map, (size, size), borderType=cv2.BORDER_REPLICATE)

    def gates(self, features: list[Array]) -> list[Array]:
        return list(self._gates(np.stack(features)[None])[0])


def filter_offline(
    frames: Iterable[tuple[Array, Array]], learned: VideoFilter, *, window: int = 32, lookahead: int = 16
) -> Iterator[Array]:
    """Filter a video there and back: the mean of both in log depth, each with the weight of what it remembers.

    Args:
        frames: depth and image of each frame of one shot.
        learned: the filter.
        window: how many frames are returned at a time.
        lookahead: how many more the way back begins after them; `window + lookahead` frames are held in memory.

    Yields: the depth of each frame. A value that is not finite passes.
    """
    source = iter(frames)
    held: list[tuple[Array, Array, FilterState]] = []
    state: FilterState = {}
    is_over = False
    while held or not is_over:
        fresh = list(islice(source, window + lookahead - len(held)))
        is_over = len(held) + len(fresh) < window + lookahead
        for depth, image in fresh:
            _, state = learned.step(depth, image, state)
            held.append((depth, image, state))
        n_done = len(held) if is_over else window
        yield from learned.back(held)[:n_done]
        held = held[n_done:]
