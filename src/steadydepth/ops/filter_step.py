"""One step of the learned filter, written once for arrays of NumPy and tensors of torch. Imports NumPy alone.

What differs between the two, how a map is sampled, made smaller and larger, and who runs the network, is a `Backend`.
Maps are (..., h, w): of one stream for NumPy, of a batch for torch.
"""

import sys
from typing import Any, Protocol, runtime_checkable

import numpy as np

# An array of NumPy or a tensor of torch; both answer to the same names of sums.
Array = Any
FilterMemory = dict[str, Array]

GUIDE_SIDE = 96  # about as many pixels has the shorter side of the images that are compared; the network sees half
MOST_KEPT = 0.98  # of the memory: half of it is gone after 34 frames, whatever the network says
KNEE = 0.2  # of the mean, where inverse depth stops being like a logarithm and continues as a line
LEAST = 1e-12
FAR = -1e6  # in place of NaN: motion out of any image, of itself and of what is interpolated from it
N_FEATURES = 19  # maps that the network is shown, at half the guide's size


@runtime_checkable
class Backend(Protocol):
    """What a step needs of NumPy and OpenCV, or of torch."""

    def sample(self, maps: list[Array], x: Array, y: Array, *, is_cubic: bool = False) -> list[Array]:
        """Each map at pixel coordinates; the border is repeated outside.

        Args:
            maps: of one size.
            x: columns to read, pixels with centres at integers.
            y: rows to read.
            is_cubic: bicubic, otherwise bilinear.
        """
        ...

    def shrink(self, map: Array, factor: int) -> Array:
        """Means of cells of factor x factor."""
        ...

    def enlarge(self, map: Array, factor: int) -> Array:
        """Bilinear, half-pixel centres."""
        ...

    def blur(self, map: Array, size: int) -> Array:
        """Means of size x size around each pixel; the border is repeated outside."""
        ...

    def gates(self, features: list[Array]) -> list[Array]:
        """How much is kept of the detail, the middle and the low frequencies, and 1 / how large a detail may be."""
        ...


def _library(array: Array) -> Any:
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def guide_factor(height: int, width: int) -> int:
    """By how much an image is shrunk before it is compared with the one before."""
    return max(1, round(min(height, width) / GUIDE_SIDE))


def padding(height: int, width: int) -> tuple[int, int]:
    """Rows and columns that are repeated at the end, so that all cells are full."""
    cell = 2 * guide_factor(height, width)
    return -height % cell, -width % cell


def begin(depth: Array, frame: Array, unit: Array) -> FilterMemory:
    """What is remembered before a first frame: nothing.

    Args:
        depth: (..., h, w), padded.
        frame: (..., 3, i, j), at guide size.
        unit: (..., 2), of `to_log`.
    """
    xp = _library(depth)

    def empty() -> Array:  # a tensor of its own for each: an exporter takes one that is given twice for one input
        return xp.zeros_like(frame[..., 0, :, :])

    return {
        "frame": xp.zeros_like(frame),
        "raw": empty(),
        "spread": empty(),
        "age": empty(),
        "filtered": xp.zeros_like(depth),
        "known": xp.zeros_like(depth),
        "unit": unit,
    }


def filter_step(
    on: Backend, frame: Array, depth: Array, flow: Array, memory: FilterMemory, *, claims: str, strength: Array
) -> tuple[Array, FilterMemory]:
    """Filter one frame of depth.

    Args:
        on: NumPy and OpenCV, or torch.
        frame: (..., 3, i, j), RGB in [0, 1], at guide size.
        depth: (..., h, w), padded, in the units of `claims`. A value that is not finite, or a depth that is not above
            0, passes as it is and is never remembered.
        flow: (..., i, j, 2), where each pixel of the guide was in the frame before, in its pixels (x, y) from here;
            NaN where that is not known.
        memory: what the step before returned, or `begin`.
        claims: what the numbers of the depth mean.
        strength: (..., 1, 1), from 0, which returns the depth as it is, to 1.

    Returns: the filtered depth, and what is remembered for the next step.
    """
    xp = _library(depth)
    factor = depth.shape[-1] // frame.shape[-1]
    usable = xp.isfinite(depth)
    if claims in ("metric", "scale"):
        usable = usable & (depth > 0)
    ones = xp.asarray(usable, dtype=depth.dtype)
    unit = memory["unit"]
    is_complete = xp is np and bool(usable.all())  # the usual case, and then the cheaper one
    safe = depth if is_complete else xp.where(usable, depth, unit.sum(-1)[..., None, None])
    raw = to_log(safe, unit, claims) * ones

    # NaN is not equal to itself.
    flow_x, flow_y = (xp.where(one == one, one, FAR) for one in (flow[..., 0], flow[..., 1]))
    filtered, inside = _recall(on, memory, flow_x, flow_y, ones, factor)
    step = (filtered - raw) * inside
    small, usable_small, inside_small, step_small = (on.shrink(one, factor) for one in (raw, ones, inside, step))
    small = small / xp.clip(usable_small, 0.1, None)
    remembered = [*(memory["frame"][..., i, :, :] for i in range(3)), memory["raw"], memory["spread"], memory["age"]]
    *before, small_before, spread, age = on.sample(remembered, *_follow(flow_x, flow_y))
    age, spread, small_before = age * inside_small, spread * inside_small, small_before * inside_small
    is_known = (inside_small > 0) & (flow_x > FAR)
    flow = [xp.where(is_known, one, xp.zeros_like(one)) for one in (flow_x, flow_y)]
    now = [frame[..., i, :, :] for i in range(3)]
    residual = _residual(now, before, inside_small)
    change, edges, texture = small_before - small * inside_small, _gradient([small]), _gradient(now)
    looked_at = [step_small, abs(step_small), change, abs(change), residual, edges, texture, age, spread, inside_small]
    low, middle, _ = bands = _bands(on, step_small, residual, inside_small)
    features = _features([on.shrink(one, 2) for one in (*looked_at, *flow)], bands, strength)
    keep, keep_middle, keep_low, tight = on.gates(features)
    most = MOST_KEPT * strength
    smooth, kept_smooth, keep, tight = (
        on.enlarge(one, 2 * factor)
        for one in (low + middle, most * (keep_low * low + keep_middle * middle), most * keep, tight)
    )

    detail = (step - smooth) * inside
    # Decided at full size, or thin things and edges would be decided by what is beside them.
    fit = detail * tight
    kept = keep * inside / (1 + fit * fit)
    out = raw + (kept * detail + kept_smooth) * ones
    count = xp.clip(age + 1, None, 8)
    far = on.shrink(abs(detail), factor) / xp.clip(inside_small, 0.1, None)
    return xp.where(usable & (out != raw), from_log(out, unit, claims), depth), {
        "frame": frame,
        "raw": small,
        "spread": (spread + (far - spread) / count) * inside_small,
        "age": (1 + on.shrink(kept, factor) * age) * usable_small,
        "filtered": out * ones,
        "known": ones,
        "unit": unit,
    }


def _follow(x: Array, y: Array) -> tuple[Array, Array]:
    """Coordinates of where each pixel was."""
    xp = _library(x)
    height, width = x.shape[-2:]
    rows, columns = xp.arange(height, dtype=x.dtype), xp.arange(width, dtype=x.dtype)
    if xp is not np:
        rows, columns = rows.to(x.device), columns.to(x.device)
    return x + columns, y + rows[:, None]


def _recall(
    on: Backend, memory: FilterMemory, flow_x: Array, flow_y: Array, ones: Array, factor: int
) -> tuple[Array, Array]:
    """What is remembered, sampled where each pixel was, and 1 where that is something; else both are 0."""
    xp = _library(ones)
    height, width = ones.shape[-2:]
    x, y = _follow(*(factor * on.enlarge(one, factor) for one in (flow_x, flow_y)))
    here = (x > -1) & (y > -1) & (x < width) & (y < height)
    # Bilinear samples of samples blur more with every frame.
    (filtered,) = on.sample([memory["filtered"]], x, y, is_cubic=True)
    if xp is not np or not memory["known"].all():
        # Pixels of which nothing is known have no vote.
        linear, weight = on.sample([memory["filtered"], memory["known"]], x, y)
        filtered = xp.where(weight > 0.999, filtered, linear / xp.clip(weight, 0.5, None))
        here = here & (weight > 0.5)
    inside = here * ones
    return filtered * inside, inside


def _residual(now: list[Array], before: list[Array], inside: Array) -> Array:
    """How the warped frame differs from the new one, once both are equally bright."""
    total = sum(_total(one * inside) for one in now) + 1e-3
    share = total / (sum(_total(one * inside) for one in before) + 1e-3)
    return sum(abs(one - other * share) for one, other in zip(now, before, strict=True)) * inside / 3


def _total(map: Array) -> Array:
    return map.sum((-2, -1))[..., None, None] / (map.shape[-2] * map.shape[-1])


def _bands(on: Backend, step: Array, residual: Array, inside: Array) -> tuple[Array, Array, Array]:
    """What is smooth in how the memory differs from the new depth, at half the guide's size.

    All is robust: what moves, or was covered before, differs by more and has little weight. A smooth part of the memory
    can be kept where there are edges, and leaves them as sharp as the model predicts them.

    Returns: the part that changes over a third of the frame, that which changes over a tenth, and the mean.
    """
    xp = _library(step)
    trusted = inside / (1 + (residual / 0.1) ** 2)
    weight = on.shrink(trusted, 2)
    value = on.shrink(step * trusted, 2) / xp.clip(weight, 1e-3, None)
    common = _mean(value, weight)
    for reach in (0.2, 0.1, 0.05):
        common = _mean(value, weight / (1 + ((value - common) / reach) ** 2))
    robust = weight / (1 + ((value - common) / 0.1) ** 2)
    low = common + _robust_blur(on, value - common, robust, 9)
    rest = value - low
    return low, _robust_blur(on, rest, weight / (1 + (rest / 0.1) ** 2), 3), common


def _robust_blur(on: Backend, value: Array, weight: Array, size: int) -> Array:
    above, below = (on.blur(on.blur(one, size), size) for one in (value * weight, weight))
    return above / (below + 0.02)


def _mean(value: Array, weight: Array) -> Array:
    return _total(value * weight) / (_total(weight) + 1e-6)


def _gradient(maps: list[Array]) -> Array:
    """Length of the gradient by differences to the next pixels, 0 beyond the last; mean over maps."""
    xp = _library(maps[0])
    total = 0
    for map in maps:
        right, down = xp.zeros_like(map), xp.zeros_like(map)
        right[..., :, :-1] = map[..., :, 1:] - map[..., :, :-1]
        down[..., :-1, :] = map[..., 1:, :] - map[..., :-1, :]
        total = total + xp.sqrt(right * right + down * down + 1e-8)
    return total / len(maps)


def _widening(x: Array, y: Array) -> Array:
    """How much the image grows around each pixel, from the flow."""
    total = _library(x).zeros_like(x)
    total[..., :, 1:-1] += (x[..., :, 2:] - x[..., :, :-2]) / 2
    total[..., 1:-1, :] += (y[..., 2:, :] - y[..., :-2, :]) / 2
    return total


def _squash(change: Array) -> Array:
    """About -2 to 2: changes of one per cent of depth are distinguished, and so are those of half."""
    xp = _library(change)
    return xp.sign(change) * xp.log1p(abs(change) * 50) * 0.5


def _features(maps: list[Array], bands: tuple[Array, Array, Array], strength: Array) -> list[Array]:
    """What the network looks at, from maps and bands at half the guide's size."""
    step, step_size, change, change_size, residual, edges, texture, age, spread, inside, x, y = maps
    low, middle, common = bands
    xp = _library(step)
    everywhere = xp.ones_like(low)
    x, y = x / 2, y / 2
    changes = (
        step, step_size, step - low, low, middle, common * everywhere, change, change_size, change - step, edges, spread
    )  # fmt: skip
    *squashed, edges, spread = _squash(xp.stack(changes))
    return [
        *squashed,
        residual * 10,
        edges,
        texture * 10,
        xp.log1p(age) / 2,
        spread,
        inside,
        xp.log1p(xp.sqrt(x * x + y * y + 1e-8)),
        xp.log1p(_gradient([x, y])),
        xp.clip(_widening(x, y), -1, 1),
        everywhere * strength,
    ]


def find_unit(depth: np.ndarray, claims: str) -> np.ndarray:
    """Offset and scale of one frame (h, w), float32 (2,): what a session takes for 0 and for 1."""
    values = depth.ravel()[:: max(1, depth.size // 50_000)]  # every so many pixels are enough
    values = values[np.isfinite(values)].astype(np.float32)  # half a float has nothing as small as LEAST
    if claims in ("metric", "scale"):
        values = values[values > 0]
        return np.array([0.0, np.exp(np.log(values).mean()) if len(values) else 1.0], np.float32)
    if not len(values):
        return np.array([0.0, 1.0], np.float32)
    offset = np.quantile(values, 0.01)
    return np.array([offset, max(values.mean() - offset, 1e-6 * np.abs(values).max() + LEAST)], np.float32)


def to_log(depth: Array, unit: Array, claims: str) -> Array:
    """Log depth (..., h, w), in a session's unit; of what has an offset its inverse hyperbolic sine, for both signs.

    Args:
        depth: (..., h, w), in the units of `claims`.
        unit: (..., 2), offset and scale of the session.
        claims: what the numbers mean.
    """
    xp = _library(depth)
    share = (depth - unit[..., 0, None, None]) / unit[..., 1, None, None]
    if claims in ("metric", "scale"):
        return xp.log(share)
    bent = xp.arcsinh(share / KNEE)
    return -bent if claims == "disparity" else bent


def from_log(log_depth: Array, unit: Array, claims: str) -> Array:
    """The inverse of `to_log`.

    Args:
        log_depth: (..., h, w).
        unit: (..., 2), offset and scale of the session.
        claims: what the numbers of the result mean.
    """
    xp = _library(log_depth)
    offset, scale = unit[..., 0, None, None], unit[..., 1, None, None]
    if claims in ("metric", "scale"):
        return xp.exp(log_depth) * scale + offset
    bent = -log_depth if claims == "disparity" else log_depth
    return xp.sinh(bent) * KNEE * scale + offset
