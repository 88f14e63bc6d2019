"""The samples for phones beside the files that export writes: names and types of tensors, keys of web.json."""

import json
import re
from pathlib import Path

import pytest

from steadydepth.exporters import web

HOME = Path(__file__).parent.parent.parent / "integrations" / "phone"
HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site, with empty files in place of ONNX Runtime Web."""
    pytest.importorskip("onnxscript", reason="needs steadydepth[onnx]")
    from steadydepth.models.depth_net import DepthNet

    root = tmp_path_factory.mktemp("phone")
    (root / "ort" / "dist").mkdir(parents=True)
    (root / "ort" / "package.json").write_text('{"name": "onnxruntime-web", "version": "1.2.3"}', encoding="utf-8")
    for name in web._WASM:
        (root / "ort" / "dist" / name).write_text("", encoding="utf-8")
    network = DepthNet("test_efficientnet", decoder_width=8).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)  # torch.export cannot trace checked functions
        web.export_web(network, root / "site", height=HEIGHT, width=WIDTH, ort=root / "ort")
    return root / "site"


@pytest.mark.parametrize("name", ["SteadyDepth.kt", "SteadyDepth.swift"])
def test_a_sample_names_every_tensor_of_the_files(name, site):
    onnxruntime = pytest.importorskip("onnxruntime")
    source, about = (
        (HOME / name).read_text(encoding="utf-8"),
        json.loads((site / "web.json").read_text(encoding="utf-8")),
    )
    session = onnxruntime.InferenceSession(str(site / "filter.onnx"), providers=["CPUExecutionProvider"])
    inputs = {each.name: each for each in session.get_inputs()}
    state = about["filter_state"]
    assert set(inputs) == {"image", "raw", "strength"} | {f"state_{name}" for name in state}
    assert {each.name for each in session.get_outputs()} == {"depth"} | {f"next_{name}" for name in state} - {
        "next_unit"
    }
    for word in ('"image"', '"raw"', '"strength"', '"depth"', '"unit"', '"state_', '"next_'):
        assert word in source, word
    # Bytes and floats alone, and shapes as web.json has them.
    assert inputs["image"].type == "tensor(uint8)"
    assert {each.type for name, each in inputs.items() if name != "image"} == {"tensor(float)"}
    assert inputs["image"].shape == [1, HEIGHT, WIDTH, 3]
    assert inputs["raw"].shape == [1, HEIGHT, WIDTH]
    assert {name: inputs[f"state_{name}"].shape for name in state} == {
        name: each["shape"] for name, each in state.items()
    }
    assert state["unit"]["shape"] == [1, 2]
    for key in re.findall(r'get\w+\("(\w+)"\)|filterState = "(\w+)"', source):
        assert "".join(key) in about | state["unit"], key
    for key in ("height", "width", "claims", "strength", "filter_state"):
        assert re.search(rf"\b{key}\b", source)
        assert key in about
