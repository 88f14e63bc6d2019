"""The commands that make, check and convert data."""

from pathlib import Path
from typing import Annotated

import typer

from steadydepth.cli.show import progress
from steadydepth.errors import InputError


def make(
    root: Annotated[Path, typer.Argument(help="Folder that gets the sequence folders.")],
    clips: Annotated[int, typer.Option(min=1, help="How many; every other one has a fixed camera.")] = 80,
    frames: Annotated[int, typer.Option(min=2, help="Frames in a clip.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip; the next takes the next.")] = 0,
    height: Annotated[int, typer.Option(min=32, help="Rows.")] = 96,
    width: Annotated[int, typer.Option(min=32, help="Columns.")] = 128,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Write a synthetic moving world: exact depth, flow, poses, moving objects, and light that flickers.

    Example: steadydepth data make runs/world --clips 20 --seed 7
    """
    from steadydepth.data.synthetic import make_world

    done: list[Path] = []

    def count(path: Path) -> None:
        done.append(path)
        tell(str(root), len(done), clips)

    with progress() as tell:
        made = make_world(
            root,
            n_clips=clips,
            seed=seed,
            n_frames=frames,
            height=height,
            width=width,
            workers=workers,
            on_clip=count,
        )
    print(f"{root}: {len(made)} sequences")


def check(root: Annotated[Path, typer.Argument(help="Folder of sequence folders or videos.")]) -> None:
    """List every fault of a data folder at once; exit status 1 if there is one. Nothing is changed.

    Example: steadydepth data check runs/world
    """
    from steadydepth.data.sequence_folder import check_data

    faults = check_data(root)
    for fault in faults:
        print(fault)
    print(f"{root}: {len(faults)} faults" if faults else f"{root}: no faults")
    raise typer.Exit(1 if faults else 0)


def convert(
    layout: Annotated[str, typer.Argument(help="What the input is: video.")],
    source: Annotated[Path, typer.Argument(help="The video file.")],
    root: Annotated[Path, typer.Argument(help="Folder that gets the sequence folder.")],
    name: Annotated[str | None, typer.Option(help="Name of the sequence; the file's without it.")] = None,
    start: Annotated[int, typer.Option(min=0, help="First frame.")] = 0,
    stop: Annotated[int | None, typer.Option(help="Frame after the last.")] = None,
    max_side: Annotated[int | None, typer.Option(help="Shrink to this side.")] = None,
) -> None:
    """Write a sequence folder, without labels, from a part of a video.

    Example: steadydepth data convert video clip.mp4 runs/mine --start 0 --stop 120 --max-side 256
    """
    from steadydepth.data.video_files import convert_video

    if layout != "video":
        raise InputError(f"{layout}: unknown layout; there is video")
    print(convert_video(source, root, name=name or source.stem, start=start, stop=stop, max_side=max_side))
