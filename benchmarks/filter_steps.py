"""Measure how the learned filter reacts to a cut, a light, a knock, lost frames, a passing object, and a still view.

    .venv/bin/python benchmarks/filter_steps.py

The input is true depth of the synthetic world, with flicker of the full frame and of its parts. Each row has the error
of log depth (mean over pixels and over 12 draws of the flicker, in percent) in the frames from the change on, raw and
filtered, and the filtered error long after. The last rows are 2,000 frames of a still view, and memory over 10,000
frames.
"""

import resource

import cv2
import numpy as np

from steadydepth.inference.learned_filter import LearnedFilter
from steadydepth.synthetic.world import make_clip

DRAWS = 12


def flicker(depth: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Depth with 4 % that differs from frame to frame and 4 % that differs from part to part as well."""
    noise = 0.04 * generator.normal(size=(len(depth), 1, 1))
    parts = generator.normal(size=(len(depth), 6, 8)).astype(np.float32)
    local = np.stack([cv2.resize(one, depth.shape[2:0:-1], interpolation=cv2.INTER_CUBIC) for one in parts])
    return (depth * np.exp(noise + 0.04 * local)).astype(np.float32)


def run(frames: np.ndarray, depth: np.ndarray, *, anew: int | None = None) -> np.ndarray:
    learned, state, filtered = LearnedFilter("metric"), None, []
    for number, (one, image) in enumerate(zip(depth, frames, strict=True)):
        out, state = learned.step(one, image, None if number == anew else state)
        filtered.append(out)
    return np.stack(filtered)


def errors(depth: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    off = np.abs(np.log(depth) - np.log(truth))
    if mask is None:
        return 100 * off.mean((1, 2))
    return np.array(
        [100 * one[chosen].mean() if chosen.any() else np.nan for one, chosen in zip(off, mask, strict=True)]
    )


def show(name: str, raw: np.ndarray, filtered: np.ndarray, at: int) -> None:
    after = np.arange(at, at + 5)
    cells = " ".join(f"{r:5.2f}/{f:5.2f}" for r, f in zip(raw[after], filtered[after], strict=True))
    print(f"{name:28s} before {filtered[at - 5 : at].mean():5.2f} | {cells} | later {filtered[at + 8 :].mean():5.2f}")


def main() -> None:
    cv2.setNumThreads(1)
    generator = np.random.default_rng(0)
    at, n_frames = 16, 32
    size = {"height": 96, "width": 128}
    still, other, moving = (
        make_clip(seed, fixed_camera=fixed, n_frames=n_frames, **size)
        for seed, fixed in ((400000, True), (400002, True), (400001, False))
    )

    def show_step(name: str, frames: np.ndarray, truth: np.ndarray, *, anew: int | None = None) -> None:
        # One draw alone says little: a frame may happen to have next to no error.
        draws = [flicker(truth, generator) for _ in range(DRAWS)]
        filtered = np.mean([errors(run(frames, raw, anew=anew), truth) for raw in draws], axis=0)
        show(name, np.mean([errors(raw, truth) for raw in draws], axis=0), filtered, at)

    def joined(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return np.concatenate((one[:at], two[at:]))

    print("raw/filtered error of log depth in %, frames 0 to 4 from the step on")
    show_step("nothing, fixed camera", still.frames, still.depth)
    show_step("nothing, moving camera", moving.frames, moving.depth)
    cut = joined(still.frames, other.frames), joined(still.depth, other.depth)
    show_step("cut, announced", *cut, anew=at)
    show_step("cut, not announced", *cut)
    brighter = np.clip(still.frames.astype(np.float32) * (1.5, 1.4, 1.3), 0, 255).astype(np.uint8)
    show_step("light switched on", joined(still.frames, brighter), still.depth)
    knocked = [np.roll(each, (5, -9), (1, 2)) for each in (still.frames, still.depth)]
    show_step("camera knocked by 10 px", joined(still.frames, knocked[0]), joined(still.depth, knocked[1]))
    frozen = np.r_[np.arange(at - 6), np.full(6, at - 6), np.arange(at, n_frames)]
    show_step("6 frames frozen, then on", moving.frames[frozen], moving.depth[frozen])
    dropped = np.r_[np.arange(8, 8 + at), np.arange(8 + at + 4, n_frames), [n_frames - 1] * 4][:n_frames]
    dropped = np.pad(dropped, (0, n_frames - len(dropped)), mode="edge")
    show_step("4 frames dropped", moving.frames[dropped], moving.depth[dropped])
    show_occluder(still.frames, still.depth, generator)
    show_still(still.frames[0], still.depth[0], generator)


def show_occluder(frames: np.ndarray, truth: np.ndarray, generator: np.random.Generator) -> None:
    """Something near crosses the image; the band that it uncovered within the last 3 frames is looked at."""
    frames, truth = frames.copy(), truth.copy()
    width = truth.shape[2]
    covered = np.zeros(truth.shape, bool)
    look = generator.integers(0, 256, (40, 24, 3), dtype=np.uint8)
    look = cv2.GaussianBlur(look, (0, 0), 2)
    for i in range(len(truth)):
        left = 4 + 3 * i
        rows, columns = slice(30, 70), slice(left, min(width, left + 24))
        covered[i, rows, columns] = True
        frames[i, rows, columns] = look[:, : columns.stop - left]
    truth[covered] = 0.5 * truth.min()
    band = np.zeros_like(covered)
    for i in range(3, len(band)):
        band[i] = covered[i - 3 : i].any(0) & ~covered[i]
    raw = flicker(truth, generator)
    filtered = run(frames, raw)
    inside, around = (errors(filtered, truth, one)[6:].mean() for one in (band, covered))
    raw_inside, raw_around = (errors(raw, truth, one)[6:].mean() for one in (band, covered))
    print(f"band uncovered by what passed: raw {raw_inside:.2f}, filtered {inside:.2f}")
    print(f"on what passes: raw {raw_around:.2f}, filtered {around:.2f}")


def show_still(image: np.ndarray, truth: np.ndarray, generator: np.random.Generator) -> None:
    """2,000 frames of a still view with sensor noise, then 8,000 more; the mean log depth and the process's memory."""
    learned, state, means, memory = LearnedFilter("metric"), None, [], {}
    for number in range(10_000):
        noisy = np.clip(image + generator.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        raw = (truth * np.exp(0.04 * generator.normal() + 0.02 * generator.normal(size=truth.shape))).astype(np.float32)
        out, state = learned.step(raw, noisy, state)
        if number < 2_000:
            means.append((np.log(out).mean(), np.log(raw).mean()))
        if number in (100, 9_999):
            memory[number] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    drift = 100 * abs(np.mean(means[-100:], axis=0) - np.mean(means[:100], axis=0))
    print(f"still for 2,000 frames, last hundred from the first: filtered {drift[0]:.2f} %, raw {drift[1]:.2f} %")
    apart = 100 * abs(np.subtract(*np.mean(means[-1000:], axis=0)))
    print(f"mean of the last thousand, filtered from raw: {apart:.3f} %")
    print(f"peak memory after 100 frames {memory[100]:.0f} MB, after 10,000 {memory[9_999]:.0f} MB")


if __name__ == "__main__":
    main()
