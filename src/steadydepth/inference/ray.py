"""Depth of collections of millions of files, on the workers of a Ray cluster."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadydepth.data.sequence_listing import name_of
from steadydepth.errors import InputError, import_extra
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import load
from steadydepth.inference.writers import Output, check_output
from steadydepth.ops.depth_view import DepthView

if TYPE_CHECKING:
    from ray.data import Dataset


def predict_on_ray(paths: "Dataset", model: str | Path, out: Path, *, workers: int = 1, **settings: Any) -> "Dataset":
    """Predict the files of a Ray dataset, in actors that each load the model once.

    Nothing is computed before the rows are asked for, and an interrupted call resumes when called again.

    Args:
        paths: a column `path` with an image, video or folder of images in each row.
        model: a name that `load` takes.
        out: folder of the results; it and the inputs are on a disk that all workers see.
        workers: actors.
        settings: `num_cpus`, `num_gpus` and `memory` are what Ray keeps free for each actor; the others go to
            predict_files.

    Returns: rows with `path`, `written` (the files; none where all were there before) and `error` (why a row could not
        be read, else empty).

    Raises:
        InputError: Ray is missing, the model or the format is none, or two rows have the same name.
    """
    ray_data = import_extra("ray.data", "ray", "predict_on_ray needs Ray")
    # A mistake is reported here, once, and not by every worker.
    check_output(
        Output(settings.get("format", "npz"), settings.get("view") or DepthView()), load(model, device="cpu").claims
    )
    _check_names(paths)
    reserved = {name: settings.pop(name) for name in ("num_cpus", "num_gpus", "memory") if name in settings}
    return paths.map(
        _Worker,
        compute=ray_data.ActorPoolStrategy(size=workers),
        fn_constructor_args=(model, out, Path.cwd(), settings),
        **reserved,
    )


class _Worker:
    """The model of one actor. Relative paths are those of whoever started Ray, in `directory`."""

    def __init__(self, model: str | Path, out: Path, directory: Path, settings: dict[str, Any]) -> None:
        os.chdir(directory)
        self.predictor, self.out, self.settings = load(model), out, settings

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            written = predict_files(self.predictor, [row["path"]], self.out, resume=True, **self.settings)
        except InputError as error:
            return {"path": row["path"], "written": [], "error": str(error)}
        return {"path": row["path"], "written": [str(path) for path in written], "error": ""}


def _check_names(paths: "Dataset") -> None:
    visible: set[str] = set()
    for row in paths.map(_with_name).iter_rows():
        if row["name"] in visible:
            raise InputError(
                f"{row['path']}: another row would be written as {row['name']} too: rename one, or call twice"
            )
        visible.add(row["name"])


def _with_name(row: dict[str, Any]) -> dict[str, Any]:
    return {"path": row["path"], "name": name_of(Path(row["path"]))}
