"""The commands that run a model, and those that make it run elsewhere."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from steadydepth.cli.printing import (
    DeviceName,
    ModelName,
    ModelOrServer,
    ServerUrl,
    Strength,
    cell,
    pair,
    print_columns,
)
from steadydepth.errors import SomeFailedError


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, folders, videos, 'patterns*', camera numbers and URLs."),
    ],
    out: Annotated[Path, typer.Option(help="Folder that gets the depth.")],
    model: ModelOrServer = None,
    server: ServerUrl = None,
    device: DeviceName = None,
    format: Annotated[
        str, typer.Option(help="npz, png16, exr, exr16, mkv, mp4, png, sbs, anaglyph, ply or rerun.")
    ] = "npz",
    colours: Annotated[str, typer.Option(help="For mp4, png and previews: grey, or a matplotlib map.")] = "turbo",
    range: Annotated[
        str, typer.Option(metavar="LOW-HIGH", help="Range of depth that is shown: percentiles, or median.")
    ] = "2-98",
    look_ahead: Annotated[
        int | None,
        typer.Option(help="Take the range from so many frames on both sides, not from the complete video."),
    ] = None,
    near: Annotated[float | None, typer.Option(help="Nearest depth that is shown, in the units of the model.")] = None,
    far: Annotated[float | None, typer.Option(help="Farthest depth that is shown.")] = None,
    linear: Annotated[bool, typer.Option("--linear", help="Show depth itself, not inverse depth.")] = False,
    separation: Annotated[
        float, typer.Option(help="For sbs and anaglyph: disparity between near and far, % of the width.")
    ] = 2.5,
    convergence: Annotated[
        float, typer.Option(help="For sbs and anaglyph: depth of the screen, 0 (farthest) to 1 (nearest).")
    ] = 0.5,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Name files of frames after the input's images.")
    ] = False,
    max_side: Annotated[int | None, typer.Option(help="Shrink inputs to this longer side for the network.")] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace existing outputs; with --resume only those made with other settings.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip inputs whose outputs exist; stop if any was made with other settings."),
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Process every N-th input from the I-th on, for N machines.")
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(help="For videos: none, learned, learned_offline, ema, ema_0.8, median, flow_ema, or a folder."),
    ] = None,
    strength: Strength = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop recording a camera or URL after this time; or press Ctrl-C.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frame rate of folders of images, frames a second; default 25.")
    ] = None,
    focal: Annotated[float | None, typer.Option(help="For ply and rerun: focal length, pixels of the input.")] = None,
    fov: Annotated[float | None, typer.Option(help="For ply and rerun: horizontal field of view, degrees.")] = None,
) -> None:
    """Predict depth of images, folders, videos, cameras and URLs; one colour range for each video.

    Inputs that cannot be read are named at the end, and the others are done: exit status 1, or 2 if none could be read.

    Example: steadydepth predict clip.mp4 --out out --format mp4
    """
    from steadydepth.commands import predict as predict_all
    from steadydepth.inference.point_clouds import Lens
    from steadydepth.inference.stereo import Stereo
    from steadydepth.ops.depth_view import DepthView

    try:
        written = predict_all(
            inputs,
            model=model,
            server=server,
            device=device,
            out=out,
            format=format,
            view=DepthView(colours, range, look_ahead, near, far, linear),
            stereo=Stereo(separation, convergence),
            keep_names=keep_names,
            max_side=max_side,
            overwrite=overwrite,
            resume=resume,
            shard=pair(shard, "/", "--shard", "1/4") if shard is not None else None,
            filter=filter,
            strength=strength,
            seconds=seconds,
            fps=fps,
            lens=None if focal is None and fov is None else Lens(focal, fov),
        )
    except SomeFailedError as error:
        for path in error.written:
            print(path)
        raise
    for path in written:
        print(path)


def stream(
    source: Annotated[str, typer.Argument(help="A camera's index, a URL, a video or a folder of images.")],
    model: ModelOrServer = None,
    server: ServerUrl = None,
    device: DeviceName = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after this time.")] = None,
    filter: Annotated[
        str | None, typer.Option(help="Filter: none, learned, ema, ema_0.8, median, flow_ema, or a folder.")
    ] = None,
    strength: Strength = None,
    show: Annotated[bool, typer.Option("--show", help="Show a window as well; q ends it.")] = False,
    pipe: Annotated[
        str | None, typer.Option(help="Write raw frames to standard output: rgb24 (colours) or grayf32le (depth).")
    ] = None,
) -> None:
    """Predict depth of live frames until Ctrl-C; frames that arrive while one is predicted are skipped.

    Example: steadydepth stream 0 --show
    """
    # The first window of an OpenCV that was imported after PyAV never comes, and is waited for without end.
    import cv2  # noqa: F401

    from steadydepth.commands import stream as stream_newest
    from steadydepth.inference.viewer import pipe_live, show_live

    camera = int(source) if source.isdecimal() else source
    frames = stream_newest(
        camera, model=model, server=server, device=device, seconds=seconds, filter=filter, strength=strength
    )
    frames = show_live(frames, source) if show else frames
    frames = pipe_live(frames, sys.stdout.buffer, pipe) if pipe else frames
    with suppress(KeyboardInterrupt):
        for frame in frames:
            depth = frame.result.depth
            if pipe and frame.result.is_start:
                print(f"{depth.shape[1]}x{depth.shape[0]} {pipe}", file=sys.stderr)
            print(
                f"frame {frame.number}: {frame.latency_s * 1e3:.0f} ms, {frame.n_skipped} skipped, "
                f"{depth.min():.3g} to {depth.max():.3g}{', anew' if frame.result.is_start and frame.number else ''}",
                file=sys.stderr if pipe else sys.stdout,
            )


def app(
    model: ModelName = "steadydepth-small",
    device: DeviceName = None,
    host: Annotated[str, typer.Option(help="Any but 127.0.0.1 lets other machines in, without a password.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 7860,
) -> None:
    """Serve a page to drop a video on; it shows frame, raw and filtered depth side by side. Ctrl-C ends it.

    Example: steadydepth app
    """
    from steadydepth.gradio_app import app as serve_page

    serve_page(model, device=device, host=host, port=port)


def export(
    model: Annotated[str, typer.Option("--model", help="A folder, hub name, or package.module:factory.")],
    to: Annotated[str, typer.Option(help="onnx, openvino, litert, executorch, coreml or web.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the network's images, as 192x256.")],
    out: Annotated[
        Path,
        typer.Option(
            help="A file .onnx, .tflite, .pte, .xml (and its .bin) for openvino, .mlpackage for coreml, replaced if it "
            "exists; web: a new folder."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Sequence folders or videos to check with, and to calibrate int8 on.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers; evaluated before and after on --data.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, noted in the file; known for ready models.")
    ] = None,
    ort: Annotated[
        Path | None,
        typer.Option(help="For web: folder of onnxruntime-web, or its .tgz; default ./node_modules."),
    ] = None,
    webgpu: Annotated[bool, typer.Option("--webgpu", help="For web: add the library that can use a GPU.")] = False,
) -> None:
    """Write a model as a file for another runtime, and compare the file with the model (except for Core ML).

    --to web writes a folder with a page that runs the model and the learned filter in a browser. See docs/export.md.

    Example: steadydepth export --model runs/demo/steady --to onnx --size 192x256 --out steady.onnx
    """
    height, width = pair(size, "x", "--size", "192x256")
    from steadydepth.commands import export as export_file
    from steadydepth.exporters.quantise import report_path

    found = export_file(
        model, to=to, size=(height, width), out=out, data=data, int8=int8, licence=licence, ort=ort, webgpu=webgpu
    )
    if int8:
        names = [name for name, value in found.after.items() if value is not None]
        rows = [[name, cell(found.before[name]), cell(found.after[name])] for name in names]
        print_columns(["metric", "float32", "int8"], rows, f"on {data}")
        print(f"{out} and {report_path(out)} written")
    elif found.difference is None:
        print(f"{out}: not checked against the model, for Core ML runs on Apple's devices alone; try it on one")
    else:
        print(f"{out}: differs from the model by at most {found.difference:.1e} of the depth")


def export_filter(
    out: Annotated[Path, typer.Option(help="The file to write, .onnx; replaced if it exists.")],
    filter: Annotated[str, typer.Option(help="learned, or a folder that tune-filter wrote.")] = "learned",
) -> None:
    """Write the learned filter as a file that runs without torch, for videos of any size.

    Example: steadydepth export-filter --out filter.onnx
    """
    from steadydepth.exporters.export_filter import export_filter as export_to_file

    print(export_to_file(out, filter=filter))


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders and exported files.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the images.")] = "192x256",
    threads: Annotated[int, typer.Option(min=1, help="Processor threads of each model.")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="Time for all models together.")] = 10.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes per model; its times are means over them.")] = 1,
    device: Annotated[str, typer.Option(help="For folders: auto, cpu, cuda, ...; files run on the CPU.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="A JSON file to write the numbers to.")] = None,
) -> None:
    """Compare models: latency, frames a second, memory, and share of the machine's peak.

    Example: steadydepth bench runs/demo/steady steady.onnx steady.xml --size 192x256
    """
    from steadydepth.exporters.bench import bench as bench_all

    height, width = pair(size, "x", "--size", "192x256")
    found = bench_all(
        models, height=height, width=width, threads=threads, seconds=seconds, processes=processes, out=out,
        device=None if device == "auto" else device,
    )  # fmt: skip
    names = list(next(iter(found["models"].values())))
    rows = [[name, *(cell(values[key]) for key in names)] for name, values in found["models"].items()]
    peaks = ", ".join(f"{rate:.0f} GFLOP/s ({kind})" for kind, rate in found["peak_gflops"].items())
    print_columns(["model", *names], rows, f"{size}, {threads} threads; 3x3 convolution: {peaks}")
