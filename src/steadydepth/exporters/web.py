"""A folder that any file server gives out: the page, a model, the learned filter, and ONNX Runtime Web to run them.

ONNX Runtime Web is an npm package (MIT licence) and not in this one: the files that the page needs are copied from
where npm has put it, so that the page asks no other site for anything.
"""

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from steadydepth.errors import InputError
from steadydepth.exporters.export import describe_tensors, export_model
from steadydepth.exporters.targets import write_onnx
from steadydepth.files.atomic_writes import new_folder
from steadydepth.inference.filter_runtime import STRENGTH
from steadydepth.inference.runtime import ExportedModel
from steadydepth.inference.session import Image
from steadydepth.models.temporal_filter import TemporalFilter, guides_of, load_gates, start_state
from steadydepth.ops.lucas_kanade import lucas_kanade_flow
from steadydepth.page import page_files

MODEL, FILTER, ABOUT = "model.onnx", "filter.onnx", "web.json"
# What the page loads of ONNX Runtime Web, without a GPU and with one.
_WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
_PACKAGE = "onnxruntime-web"
_GET = f"npm install {_PACKAGE}, and give --ort node_modules/{_PACKAGE}; or npm pack {_PACKAGE}, and give its .tgz"
# Parts of the page that speak to a server.
_OF_SERVER = ("server.js", "jobs.js", "tus.js", "chart.js")
_NOTICE = """ONNX Runtime Web {version}, in the files ort*: https://github.com/microsoft/onnxruntime

MIT License. Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED
"AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

The page, the model's graph and the learned filter: steadydepth, Apache-2.0. Weights of the model: {licence}.
"""


class GraphFilter(nn.Module):
    """The learned filter with its own flow, one frame of bytes at a time: all that a runtime without OpenCV needs.

    Args:
        network: for the claims of the depth.
        height: rows of the frames.
        width: columns of the frames.
    """

    def __init__(self, network: TemporalFilter, height: int, width: int) -> None:
        super().__init__()
        self.network = network
        guides = guides_of(_as_frame(torch.zeros(1, height, width, 3, dtype=torch.uint8)))
        start = start_state(torch.ones(1, height, width), guides, torch.tensor([[0.0, 1.0]]))
        self.names = tuple(start)
        self.state = describe_tensors(start)

    def forward(
        self,
        image: UInt8[Tensor, "1 h w 3"],
        depth: Float[Tensor, "1 h w"],
        strength: Float[Tensor, "1"],
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """Filter the depth of one frame.

        Args:
            image: RGB.
            depth: in the units of the claims.
            strength: from 0 to 1.
            state: in the order of `names`; zeros begin a video, but for `unit`.

        Returns: the filtered depth, and the state after it without `unit`, which never changes.
        """
        given, frame = dict(zip(self.names, state, strict=True)), _as_frame(image)
        motion = lucas_kanade_flow(guides_of(frame), given["frame"])
        out, after = self.network(frame[:, None], depth[:, None], given, motion=motion[:, None], strength=strength)
        return out[:, 0], *(after[name] for name in self.names if name != "unit")


def _as_frame(image: UInt8[Tensor, "1 h w 3"]) -> Float[Tensor, "1 3 h w"]:
    return image.permute(0, 3, 1, 2).float() / 255


def export_web(
    model: nn.Module,
    out: Path,
    *,
    height: int,
    width: int,
    name: str = "model",
    ort: Path | None = None,
    webgpu: bool = False,
    frames: Iterable[Image] | None = None,
    licence: str = "not stated",
) -> float:
    """Write the folder of a page that runs the model in a browser, without a server that computes anything.

    Args:
        model: honours the contract of `VideoDepthModel`.
        out: the folder; it must not exist.
        height: rows of the network's images.
        width: columns of the network's images.
        name: of the model, as the page shows it.
        ort: where ONNX Runtime Web is: its npm folder, or the .tgz of `npm pack`; None looks in ./node_modules.
        webgpu: copy the larger library as well that can use a GPU; the page takes it where it is faster.
        frames: to check with; None takes the synthetic world.
        licence: of the weights.

    Returns: the greatest difference of the exported model from the model, relative.

    Raises:
        InputError: ONNX Runtime Web or a Python package is missing, the folder exists, or the file differs from it.
    """
    with _opened_ort(ort) as dist, new_folder(out) as part:
        version = _version(dist)
        difference = export_model(
            model, part / MODEL, to="onnx", height=height, width=width, frames=frames, licence=licence
        )
        assert difference is not None
        exported = ExportedModel(part / MODEL)
        filter = write_filter(exported, part / FILTER)
        about = {
            "name": name, "claims": exported.claims, "height": height, "width": width, "licence": licence,
            "model": MODEL, "state": exported.metadata["state"], "filter": FILTER, "filter_state": filter.state,
            "strength": STRENGTH, "webgpu": webgpu, "onnxruntime_web": version,
        }  # fmt: skip
        (part / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        for file in (*_WASM, *(_WEBGPU if webgpu else ())):
            if not (dist / file).is_file():
                raise InputError(f"{dist}: has no {file}; this version of ONNX Runtime Web is not known: {_GET}")
            shutil.copyfile(dist / file, part / file)
        for file, path in page_files().items():
            if file not in _OF_SERVER:
                shutil.copyfile(path, part / file)
        page = part / "index.html"
        served = page.read_text(encoding="utf-8")
        page.write_text(served.replace('data-runs="server"', 'data-runs="browser"', 1), encoding="utf-8")
        (part / "LICENCES.txt").write_text(_NOTICE.format(version=version, licence=licence), encoding="utf-8")
    return difference


def write_filter(model: ExportedModel, path: Path) -> GraphFilter:
    """Write the learned filter for the depth and the size of an exported model; returns what was written."""
    graph = GraphFilter(TemporalFilter(model.claims, load_gates()), model.height, model.width).eval()  # type: ignore[arg-type]
    sizes: dict[str, Any] = {
        "raw": {"shape": [1, model.height, model.width], "dtype": "float32"},
        "strength": {"shape": [1], "dtype": "float32"},
    }
    metadata = {"claims": model.claims, "height": model.height, "width": model.width, "state": graph.state}
    write_onnx(graph, metadata, path, beside=sizes, kept=tuple(name for name in graph.names if name != "unit"))
    return graph


@contextmanager
def _opened_ort(given: Path | None) -> Iterator[Path]:
    """The folder with the files of ONNX Runtime Web."""
    where = given or Path("node_modules") / _PACKAGE
    if where.is_file() and where.suffix == ".tgz":
        with tempfile.TemporaryDirectory(prefix="steadydepth-") as folder:
            try:
                with tarfile.open(where) as archive:
                    archive.extractall(folder, filter="data")
            except tarfile.TarError as error:
                raise InputError(f"{where}: damaged ({error}): {_GET}") from error
            yield _dist(Path(folder) / "package", where)
        return
    yield _dist(where, where)


def _dist(folder: Path, named: Path) -> Path:
    for dist in (folder / "dist", folder):
        if (dist / _WASM[0]).is_file():
            return dist
    raise InputError(f"{named}: ONNX Runtime Web is not there: {_GET}")


def _version(dist: Path) -> str:
    about = dist.parent / "package.json"
    found = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    return str(found.get("version", "unknown"))
