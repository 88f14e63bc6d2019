"""The commands that make, check and convert data."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from steadydepth.cli.printing import pair
from steadydepth.errors import InputError
from steadydepth.progress import show_progress


def make(
    root: Annotated[Path, typer.Argument(help="Folder that gets the sequence folders.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips; every other one has a fixed camera.")] = 80,
    frames: Annotated[int, typer.Option(min=2, help="Frames in a clip.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip; the next clip has the next one.")] = 0,
    height: Annotated[int, typer.Option(min=32, help="Rows.")] = 96,
    width: Annotated[int, typer.Option(min=32, help="Columns.")] = 128,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    device: Annotated[str | None, typer.Option(help="Render on this device of torch, such as cuda.")] = None,
    meshes: Annotated[Path | None, typer.Option(help="Folder of GLB, glTF, OBJ, PLY or STL: object shapes.")] = None,
    textures: Annotated[Path | None, typer.Option(help="Folder of images, shown on all surfaces.")] = None,
    shake: Annotated[bool, typer.Option("--shake", help="Shake and roll moving cameras, as if hand-held.")] = False,
    deform: Annotated[bool, typer.Option("--deform", help="Make moving objects stretch and swing arms.")] = False,
    blur: Annotated[bool, typer.Option("--blur", help="Motion blur; labels are of mid-exposure.")] = False,
    rolling: Annotated[bool, typer.Option("--rolling", help="Rolling shutter; slow.")] = False,
    compress: Annotated[int | None, typer.Option(help="Compress frames as H.264 with this CRF, 0 to 51.")] = None,
    assets: Annotated[
        str | None,
        typer.Option(
            help="Rooms, tables, clutter and streets of these models in place of boxes and balls: a file of `data "
            "assets`, or sweethome3d."
        ),
    ] = None,
) -> None:
    """Write a synthetic moving world: exact depth, flow, poses, moving objects, and changing exposure.

    Example: steadydepth data make runs/world --clips 20 --seed 7 --shake --blur --compress 30
    """
    from steadydepth.data.commands import make as make_data
    from steadydepth.synthetic.effects import Extras

    extras = Extras(
        textures=textures, shake=shake, deform=deform, blur=blur, rolling=rolling, compress=compress, meshes=meshes
    )
    if assets is not None and replace(extras, textures=None) != Extras():
        raise InputError(
            "--assets: its world is another: --meshes, --shake, --deform, --blur, --rolling and --compress are of "
            "boxes and balls: leave them out"
        )
    own: dict[str, Any] = (
        {"assets": assets, "textures": textures} if assets is not None else {"workers": workers, "extras": extras}
    )
    numbers = count(1)
    with show_progress() as report:
        made = make_data(
            root,
            clips=clips,
            frames=frames,
            seed=seed,
            height=height,
            width=width,
            device=device,
            on_clip=lambda _: report(str(root), next(numbers), clips),
            **own,
        )
    print(f"{root}: {len(made)} sequences")


def assets(
    out: Annotated[Path, typer.Argument(help="File that gets the models, .npz.")],
    catalogues: Annotated[
        list[Path] | None,
        typer.Argument(help="Sweet Home 3D catalogues (.sh3f); without any, those of Debian's sweethome3d-furniture."),
    ] = None,
) -> None:
    """Pack models with their textures, sizes and credits into one file, for the rendered world. It takes minutes.

    Example: steadydepth data assets runs/assets.npz
    """
    from steadydepth.data.commands import assets as pack_models

    with show_progress() as report:
        packed = pack_models(out, *(catalogues or []), on_model=lambda done, of: report(f"{out}: models", done, of))
    print(f"{out}: {len(packed.names)} models, {packed.first_face[-1]} faces, {len(packed.textures)} textures")
    for credit in sorted({one.split(";")[0] for one in packed.credits}):
        print(f"  {credit}")


def check(root: Annotated[Path, typer.Argument(help="Folder of sequence folders or videos.")]) -> None:
    """List every fault of a data folder, without changing anything; exit status 1 if there is one.

    Example: steadydepth data check runs/world
    """
    from steadydepth.data.commands import check as check_data

    faults = check_data(root)
    for fault in faults:
        print(fault)
    print(f"{root}: {len(faults)} faults" if faults else f"{root}: no faults")
    raise typer.Exit(1 if faults else 0)


def convert(
    layout: Annotated[
        str,
        typer.Argument(
            help="Kind of the input: video, videos (a folder of them), pairs (a .csv or .jsonl list), tum, bonn, "
            "kitti, vkitti2, sintel, tartanair, nyu, scannet, hypersim, spring, diode, pointodyssey, arkitscenes, "
            "replica, stray_scanner or record3d (recordings of an iPhone), or rosbag."
        ),
    ],
    source: Annotated[Path, typer.Argument(help="The file, or the folder that the data set was extracted to.")],
    root: Annotated[Path, typer.Argument(help="Folder that gets the sequence folders.")],
    name: Annotated[str | None, typer.Option(help="Name of a video's sequence; default: the file's.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this official split: see docs/data.md.")] = None,
    start: Annotated[int, typer.Option(min=0, help="First frame of each sequence.")] = 0,
    stop: Annotated[int | None, typer.Option(help="Frame after the last.")] = None,
    max_side: Annotated[int | None, typer.Option(help="Shrink frames whose longer side is above this, pixels.")] = None,
    split_shots: Annotated[
        bool, typer.Option("--split-shots", help="Detect the cuts of a video and write a sequence per shot.")
    ] = False,
) -> None:
    """Write sequence folders from a public data set, a list of images and depth, or videos.

    Existing sequences are kept: run the same command again to resume.

    Example: steadydepth data convert tum rgbd_dataset_freiburg3_walking_xyz DATA --max-side 320
    """
    from steadydepth.data.commands import convert as convert_data

    made = convert_data(
        layout, source, root, name=name, split=split, start=start, stop=stop, max_side=max_side, split_shots=split_shots
    )
    for path in made:
        print(path)


def pack(
    root: Annotated[Path, typer.Argument(help="Folder of sequence folders or videos.")],
    out: Annotated[Path, typer.Argument(help="New folder that gets the shards and their index.")],
    shard_size: Annotated[str, typer.Option(help="Size of a shard, such as 500MB or 1GB.")] = "1GB",
    codec: Annotated[str, typer.Option(help="zstd (lossless, fast to read), or png.")] = "zstd",
    size: Annotated[str | None, typer.Option(help="Scale and crop to HxW, as training does.")] = None,
    max_side: Annotated[
        int | None, typer.Option(min=2, help="Shrink frames whose longer side is above this, pixels.")
    ] = None,
    flow: Annotated[bool, typer.Option("--flow", help="Store DIS flow, for data.motion=dis.")] = False,
) -> None:
    """Write sequences into a few tar files that are faster to read, from a disk or a URL.

    Example: steadydepth data pack runs/world runs/shards --size 96x128
    """
    from steadydepth.data.commands import pack as pack_data

    with show_progress() as report:
        number = pack_data(
            root,
            out,
            shard_size=_bytes(shard_size),
            codec=codec,
            size=pair(size, "x", "--size", "96x128") if size else None,
            max_side=max_side,
            flow=flow,
            progress=report,
        )
    print(f"{out}: {number} sequences")


def _bytes(words: str) -> int:
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number = words.rstrip("KMGTBkmgtb")
    unit = words[len(number) :].upper()
    if not number.isdecimal() or not int(number) or unit not in units:
        raise InputError(f"--shard-size {words}: give an integer number of bytes, such as 500MB or 1GB")
    return int(number) * units[unit]
