"""An exported ONNX file as a model repository of Triton, which keeps the state of each stream between its requests."""

import shutil
from pathlib import Path

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import check_name, new_folder
from steadydepth.inference.runtime import ExportedModel, state_input, state_output

IDLE_S = 120  # a stream that sends nothing for so long is forgotten


def write_triton(path: str | Path, repository: str | Path, name: str) -> Path:
    """Write REPOSITORY/<name>: the file as version 1, and its config.pbtxt.

    A file with a state is given to Triton's sequence batcher with the state as implicit state, which begins with zeros:
    a client sends `image` alone, with a sequence id, and says which request is the first.

    Args:
        path: a file that `export --to onnx` wrote.
        repository: folder of models, as for `tritonserver --model-repository`.
        name: of the model.

    Returns: the folder of the model.

    Raises:
        InputError: the file is another one, or the folder exists.
    """
    path, target = Path(path), Path(repository) / check_name(name, Path(repository))
    if path.suffix != ".onnx":
        raise InputError(f"{path}: Triton is given ONNX here: write it with export --to onnx")
    model = ExportedModel(path, threads=1)
    with new_folder(target) as part:
        (part / "1").mkdir()
        shutil.copyfile(path, part / "1" / "model.onnx")
        (part / "config.pbtxt").write_text(config_text(model, name), encoding="utf-8")
    return target


def config_text(model: ExportedModel, name: str) -> str:
    """The config.pbtxt of an exported ONNX file."""
    size = [1, model.height, model.width]
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        "max_batch_size: 0",  # the shapes of the file are complete: one stream at a time in each instance
        f"input [ {{ {_tensor('image', 'UINT8', [*size, 3])} }} ]",
        f"output [ {{ {_tensor('depth', 'FP32', size)} }} ]",
    ]
    states = [_state(name, entry["shape"], _kind(entry["dtype"])) for name, entry in model.metadata["state"].items()]
    if states:
        lines += [
            "sequence_batching {",
            f"  max_sequence_idle_microseconds: {IDLE_S * 1_000_000}",
            "  direct { }",
            *states,
            "}",
        ]
    return "\n".join(lines) + "\n"


def _kind(dtype: str) -> str:
    """Triton's word for a type of NumPy: float32 is FP32, uint8 is UINT8."""
    return dtype.upper().replace("FLOAT", "FP")


def _tensor(name: str, kind: str, shape: list[int]) -> str:
    return f'name: "{name}" data_type: TYPE_{kind} dims: [ {", ".join(map(str, shape))} ]'


def _state(name: str, shape: list[int], kind: str) -> str:
    dims = f"data_type: TYPE_{kind} dims: [ {', '.join(map(str, shape))} ]"
    return (
        f'  state [ {{ input_name: "{state_input(name)}" output_name: "{state_output(name)}" {dims}\n'
        f'    initial_state: {{ name: "zeros" {dims} zero_data: true }} }} ]'
    )
