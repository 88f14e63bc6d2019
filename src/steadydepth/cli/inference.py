"""The commands that run a model, and those that make it run elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from steadydepth.cli.show import ModelName, pair, print_columns
from steadydepth.errors import InputError


def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, folders or videos.")],
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder that gets the depth.")],
    format: Annotated[str, typer.Option(help="npz, png16, exr, mp4 or mkv.")] = "npz",
    max_side: Annotated[int | None, typer.Option(help="Shrink inputs to this side for the network.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace outputs that exist.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out inputs whose outputs are all there.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Every N-th input from the I-th on, for N machines.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="Smooth over time as well: ema, ema_0.8, median or flow_ema.")
    ] = None,
) -> None:
    """Depth of pictures, folders and videos; one colour range for a whole video.

    Example: steadydepth predict clip.mp4 --model runs/demo/steady --out out --format mp4
    """
    from steadydepth.inference.predict import load, predict_files

    written = predict_files(
        load(model),
        inputs,
        out,
        format=format,
        max_side=max_side,
        overwrite=overwrite,
        resume=resume,
        shard=pair(shard, "/", "--shard", "1/4") if shard is not None else None,
        filter=filter,
    )
    for path in written:
        print(path)


def stream(
    source: Annotated[str, typer.Argument(help="A camera's index, a URL, a video or a folder of pictures.")],
    model: ModelName,
    seconds: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
) -> None:
    """Depth of live frames, always the newest: those that came while the model worked are left out.

    Example: steadydepth stream 0 --model runs/demo/steady
    """
    from steadydepth.inference.predict import load
    from steadydepth.inference.stream import stream_newest

    for frame in stream_newest(load(model), int(source) if source.isdecimal() else source, seconds=seconds):
        depth = frame.result.depth
        print(
            f"frame {frame.number}: {frame.latency_s * 1e3:.0f} ms, {frame.n_skipped} skipped, "
            f"{depth.min():.3g} to {depth.max():.3g}"
        )


def export(
    model: ModelName,
    to: Annotated[str, typer.Option(help="onnx or openvino.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the network's pictures, as 192x256.")],
    out: Annotated[Path, typer.Option(help="The file: .onnx, or .xml with its .bin for openvino.")],
    data: Annotated[
        Path | None, typer.Option(help="Sequence folders or videos to check with, and to calibrate int8 on.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers; measured before and after on --data.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the weights, noted in the file.")] = "not stated",
) -> None:
    """Write a model as a file that ONNX Runtime or OpenVINO runs without torch, checked against the model.

    Example: steadydepth export --model runs/demo/steady --to onnx --size 192x256 --out steady.onnx
    """
    height, width = pair(size, "x", "--size", "192x256")
    if int8 and data is None:
        raise InputError("--int8 needs --data: clips like those it will see, to calibrate on and to measure")
    from steadydepth.inference.export import export_model
    from steadydepth.inference.int8 import calibration_frames, export_int8, report_path
    from steadydepth.inference.predict import load

    network = load(model, device="cpu").model
    if int8 and data is not None:
        found = export_int8(network, out, to=to, height=height, width=width, data=data, licence=licence)
        names = [name for name, value in found["before"].items() if value is not None]
        rows = [[name, f"{found['before'][name]:.4g}", f"{found['after'][name]:.4g}"] for name in names]
        print_columns(["metric", "float32", "int8"], rows, f"on {data}")
        print(f"{out} and {report_path(out)} written")
        return
    frames = calibration_frames(data) if data is not None else None
    difference = export_model(network, out, to=to, height=height, width=width, frames=frames, licence=licence)
    print(f"{out}: differs from the model by at most {difference:.1e} of the depth")


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders and exported files.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the pictures.")] = "192x256",
    threads: Annotated[int, typer.Option(min=1, help="Of the processor, for each model.")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="For all together.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="A json file for the numbers.")] = None,
) -> None:
    """Latency, frames a second and memory of models side by side, and their share of the machine's peak.

    Example: steadydepth bench runs/demo/steady steady.onnx steady.xml --size 192x256
    """
    from steadydepth.inference.bench import bench as bench_all

    height, width = pair(size, "x", "--size", "192x256")
    found = bench_all(models, height=height, width=width, threads=threads, seconds=seconds, out=out)
    names = list(next(iter(found["models"].values())))
    rows = [[name, *(f"{values[key]:.4g}" for key in names)] for name, values in found["models"].items()]
    title = f"{size}, {threads} threads; 3x3 convolution: {found['peak_gflops']:.0f} GFLOP/s"
    print_columns(["model", *names], rows, title)
