"""What the `data` commands do, as functions: make, assets, check, convert and pack; paths as text or `Path`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steadydepth.data.checks import check_data as check
from steadydepth.data.conversion import convert_layout, convert_parts, convert_videos
from steadydepth.data.rendered import make_rendered
from steadydepth.data.shards.write import pack
from steadydepth.synthetic.assets import pack_assets as assets
from steadydepth.synthetic.world import make_world
from steadydepth.types import InputError

__all__ = ["assets", "check", "convert", "make", "pack"]


def make(
    root: str | Path,
    *,
    clips: int = 80,
    frames: int = 12,
    seed: int = 0,
    assets: str | Path | None = None,
    **options: Any,
) -> list[Path]:
    """Write a synthetic moving world with exact labels; clips that are there already are kept.

    Args:
        root: folder that gets the sequence folders.
        clips: how many; every other one has a fixed camera.
        frames: of each clip, at least 2.
        seed: of the first clip; the next takes the next.
        assets: models that `assets` packed, or `sweethome3d` for those of Debian's package: rooms, tables, clutter and
            streets of them in place of boxes and balls.
        options: the others of `synthetic.world.make_world`: height, width, fps, workers (2 processes; any but 1 wants a
            script to have `if __name__ == "__main__":`), extras, device, on_clip; with `assets` those of
            `data.rendered.make_rendered`: height, width, textures, device, on_clip.

    Returns: the folders, in order of their seeds.
    """
    if assets is not None:
        return make_rendered(Path(root), n_clips=clips, seed=seed, n_frames=frames, assets=assets, **options)
    return make_world(Path(root), n_clips=clips, seed=seed, n_frames=frames, **options)


def convert(
    layout: str,
    source: str | Path,
    root: str | Path,
    *,
    name: str | None = None,
    split: str | None = None,
    start: int = 0,
    stop: int | None = None,
    max_side: int | None = None,
    split_shots: bool = False,
) -> Iterator[Path]:
    """Write sequence folders from a public data set, a list of images and depth, or videos.

    Args:
        layout: `video`, `videos` (a folder of them), `pairs` (a list), or a data set's name (docs/data.md).
        source: the file, or the folder that the data set was extracted to.
        root: folder that gets the sequence folders; those that are there already are left as they are.
        name: of the sequence of a video; None takes the file's.
        split: only this official part of the data set.
        start: first frame of each sequence.
        stop: frame after the last; None takes all.
        max_side: shrink to this longer side in pixels.
        split_shots: find the cuts of a video: a sequence for each shot.

    Returns: each sequence folder as soon as it is written; each is begun when it is asked for, so `list` converts all.

    Raises:
        InputError: an option does not fit the layout, or something cannot be read.
    """
    source, root = Path(source), Path(root)
    part: dict[str, Any] = {"start": start, "stop": stop, "max_side": max_side}
    if name is not None and layout != "video":
        raise InputError("--name is of one video; other layouts name their sequences themselves: leave it out")
    if split_shots and layout not in ("video", "videos"):
        raise InputError("--split-shots is of videos; data sets are in shots: leave it out")
    if layout == "video":
        yield from convert_parts(source, root, name=name or source.stem, split_shots=split_shots, **part)
    elif layout == "videos":
        yield from convert_videos(source, root, split_shots=split_shots, **part)
    else:
        yield from convert_layout(layout, source, root, split=split, **part)
