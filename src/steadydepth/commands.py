"""What the commands do, as functions of the package: paths as text or `Path`, models by name or as they are.

What one command alone needs is imported in its function, so that predict and stream start in half of the time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steadydepth.errors import InputError
from steadydepth.inference.filters import NONE
from steadydepth.inference.live import LiveResult, stream_newest
from steadydepth.inference.point_clouds import Lens
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import AnyModel, Predictor, as_predictor
from steadydepth.inference.stereo import Stereo
from steadydepth.models.declare import split_name
from steadydepth.models.zoo import DEFAULT, licence_of
from steadydepth.ops.depth_view import DepthView
from steadydepth.progress import Progress

if TYPE_CHECKING:
    from steadydepth.training.label_free.stabilise import Stabilised


def _at_hand(model: AnyModel | None, server: str | None, device: str | None) -> Predictor:
    """The one of both that is given, ready to predict; the model of the package where none is."""
    if model is not None and server is not None:
        raise InputError("a model predicts, or a server: give one of both, --model or --server")
    if server is not None:
        from steadydepth.served import ServedPredictor

        _refuse_device(device)
        return ServedPredictor(server)
    return as_predictor(DEFAULT if model is None else model, device=device)


def _refuse_device(device: str | None) -> None:
    if device is not None:
        raise InputError(f"device {device}: a server's model is where the server was told to run it: leave it out")


def predict(
    inputs: str | Path | Iterable[str | Path],
    *,
    model: AnyModel | None = None,
    server: str | None = None,
    device: str | None = None,
    out: str | Path,
    format: str = "npz",
    view: DepthView | None = None,
    stereo: Stereo | None = None,
    keep_names: bool = False,
    max_side: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    shard: tuple[int, int] | None = None,
    filter: str | None = None,
    strength: float | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    lens: Lens | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write depth of one input or several to a folder.

    Args:
        inputs: images, folders, videos, cameras (a number as text) or URLs.
        model: a name, a module or what `load` returns.
        server: in place of the model, the URL of one that `serve` runs; its token is in the environment variable
            STEADYDEPTH_TOKEN.
        device: of a model that is named, such as cpu or cuda:1; None takes an accelerator where there is one.
        out: folder of the results, each complete or not there.
        format: a key of `inference.writers.FORMATS`; `predict_files` explains them.
        view: range and colours of what shows depth; None is one range for each video, in turbo.
        stereo: how deep stereo pairs are.
        keep_names: whether files of frames are named as the images of the input, and not by numbers from 0000.
        max_side: shrink frames to this longer side in pixels for the network.
        overwrite: replace outputs that exist; with `resume` those alone that note another model, filter or option.
        resume: leave out inputs whose outputs are all there.
        shard: (i, n), i from 1: of all inputs the i-th, the (i + n)-th, ...
        filter: none, learned, a simple filter's name or a tuned filter's folder; None takes the model's own.
        strength: of the learned filter, from 0 to 1.
        seconds: end of a camera or URL; Ctrl-C ends it as well.
        fps: frames a second of folders of images, which do not say; None is 25.
        lens: the camera of `ply` and `rerun`, in place of that of a sequence folder.
        progress: called with the name, the frames done and the frames in all, 0 where that is not known.

    Returns: the paths of all files and folders written.

    Raises:
        InputError: an option does not fit, the device is not there, or nothing could be predicted.
        SomeFailedError: some inputs could not be read; the others are written.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if server is not None and max_side is not None:
        raise InputError(f"max_side is {max_side}; a server shows its model frames as it was started to: leave it out")
    return predict_files(
        _at_hand(model, server, device),
        given,
        Path(out),
        format=format,
        view=view,
        stereo=stereo,
        keep_names=keep_names,
        max_side=max_side,
        overwrite=overwrite,
        resume=resume,
        shard=shard,
        filter=filter,
        strength=strength,
        seconds=seconds,
        fps=fps,
        lens=lens,
        progress=progress,
    )


def stream(
    source: str | Path | int | Iterable[np.ndarray],
    *,
    model: AnyModel | None = None,
    server: str | None = None,
    device: str | None = None,
    seconds: float | None = None,
    filter: str | None = None,
    strength: float | None = None,
) -> Iterator[LiveResult]:
    """Depth of the newest frame of a live source, as often as the model, or the server, can.

    Args:
        source: a camera's number, a URL, a file, or frames as uint8 RGB (h, w, 3).
        model: a name, a module or what `load` returns.
        server: in place of the model, the URL of one that `serve` runs; its token is in the environment variable
            STEADYDEPTH_TOKEN.
        device: of a model that is named, such as cpu or cuda:1; None takes an accelerator where there is one.
        seconds: stop after so long; None continues until the source ends.
        filter: none, learned, a simple filter's name or a tuned filter's folder; None takes the model's own.
        strength: of the learned filter, from 0 to 1.

    Raises:
        InputError: the source cannot be opened, the device is not there, or the server has another strength than is
            asked for.
    """
    if server is not None and model is None:
        from steadydepth.served import stream_served

        _refuse_device(device)
        if strength is not None:
            raise InputError(f"strength {strength}: a server's filters have their own: leave it out")
        return stream_served(server, source, seconds=seconds, filter=filter)
    return stream_newest(_at_hand(model, server, device), source, seconds=seconds, filter=filter, strength=strength)


@dataclass(frozen=True)
class Exported:
    """A file that was written for another runtime, and how it compares with the model."""

    path: Path
    difference: float | None = None  # the largest from the model, relative; None where it was not looked for
    before: dict[str, float | None] = field(default_factory=dict)  # means of evaluate of the float32 file, for int8
    after: dict[str, float | None] = field(default_factory=dict)  # and of the int8 file


def export(
    model: AnyModel,
    *,
    to: str,
    size: tuple[int, int],
    out: str | Path,
    data: str | Path | None = None,
    int8: bool = False,
    licence: str | None = None,
    ort: str | Path | None = None,
    webgpu: bool = False,
) -> Exported:
    """Write a model as a file that another runtime runs, or as a page that runs it, checked against the model.

    Args:
        model: a name, a module or what `load` returns.
        to: onnx, openvino, litert, executorch or coreml; or web, a folder for a browser (`exporters.web`).
        size: rows and columns of the network's images.
        out: the file, with the suffix of its kind, replaced where it exists; of web a folder that does not exist.
        data: sequence folders or videos to check with, and to calibrate int8 on; None takes the synthetic world.
        int8: 8-bit integers, measured before and after on `data`.
        licence: of the weights, noted in the file; None notes a ready model's own, of others that it is not stated.
        ort: of web, where ONNX Runtime Web is; None looks in ./node_modules.
        webgpu: of web, with the library that can use a GPU.

    Raises:
        InputError: a package is missing, the file differs from the model, int8 has no data, or the model was loaded
            with a filter, which is a file of its own.
    """
    from steadydepth.exporters.export import export_model
    from steadydepth.exporters.quantise import calibration_frames, export_int8

    height, width = size
    known = licence_of(split_name(str(model))[0]) if isinstance(model, str | Path) else None
    licence = licence or known or "not stated"
    if int8 and data is None:
        raise InputError("--int8 needs --data: clips like those it will see, to calibrate on and to measure")
    predictor, path = as_predictor(model, device="cpu" if isinstance(model, str | Path) else None), Path(out)
    if predictor.filter.name != NONE:
        raise InputError(
            f"the filter {predictor.filter} does not go into the model's file: load the model without it; "
            "export-filter writes the learned filter, and a page (to web) brings it in any case"
        )
    network = predictor.model
    if int8 and data is not None:
        found = export_int8(network, path, to=to, height=height, width=width, data=Path(data), licence=licence)
        return Exported(path, before=found["before"], after=found["after"])
    frames = None if data is None else calibration_frames(Path(data))
    if to == "web":
        from steadydepth.exporters.web import export_web

        shown = Path(split_name(str(model))[0]) if isinstance(model, str | Path) else path
        web_difference = export_web(
            network, path, height=height, width=width, name=shown.name, ort=None if ort is None else Path(ort),
            webgpu=webgpu, frames=frames, licence=licence,
        )  # fmt: skip
        return Exported(path, web_difference)
    if ort is not None or webgpu:
        raise InputError(f"{to}: ort and webgpu are for web alone: leave them out")
    difference = export_model(network, path, to=to, height=height, width=width, frames=frames, licence=licence)
    return Exported(path, difference)


def serve(model: AnyModel = DEFAULT, **settings: Any) -> None:
    """Serve a model over HTTP and WebSocket until interrupted; needs the extra `serve`.

    Args:
        model: a name, a module or what `load` returns.
        settings: of `serving.settings.Settings`: host, port, filter, tokens, ...

    Raises:
        InputError: a package is missing, the model cannot be read, or the settings would be unsafe.
    """
    try:
        from steadydepth.serving.server import run_server
        from steadydepth.serving.settings import Settings
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'steadydepth[serve]'") from error
    run_server(Settings(model=model if isinstance(model, str | Path) else as_predictor(model), **settings))


def stabilise(
    videos: str | Path | Iterable[str | Path], *, model: str | Path, out: str | Path, **options: Any
) -> "Stabilised | None":
    """Make a model steady on videos without labels, and write a page of before and after.

    Args:
        videos: video files, sequence folders, or folders of them.
        model: a name that `load` takes, of a model with weights.
        out: folder that gets the model, its log, its metrics before and after, and report.html.
        options: the others of `training.label_free.stabilise.stabilise`: minutes, strength, steps, max_side, layers,
            seed, device.

    Returns: what was reached; None where it was asked to stop before the last step.

    Raises:
        InputError: a video, the model or a number does not fit, or another run lives in the folder.
    """
    from steadydepth.reports.report import write_report
    from steadydepth.training.label_free.stabilise import stabilise as stabilise_model

    found = stabilise_model(videos, model=model, out=out, **options)
    if found is not None:
        write_report([Path(out)])
    return found


def report(runs: str | Path | Iterable[str | Path], out: str | Path | None = None) -> Path:
    """Write one self-contained page of runs, or of a folder of them; returns its path.

    It is `out`, or report.html in the first folder.

    Raises:
        InputError: there is no folder, or one that holds neither a run nor an evaluation.
    """
    from steadydepth.reports.report import write_report

    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if not folders:
        raise InputError("no folder of a run is given; a page is of one or more: give run folders")
    return write_report([Path(folder) for folder in folders], None if out is None else Path(out))


def doctor() -> list[str]:
    """What this installation has, and what to install for what it lacks, in lines for a person."""
    from steadydepth.diagnosis import diagnose

    return list(diagnose())
