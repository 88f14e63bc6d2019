import numpy as np
import pytest
import torch
import trimesh

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.synthetic import device as renderer
from steadydepth.synthetic.effects import Extras
from steadydepth.synthetic.world import make_clip
from steadydepth.types import InputError

SIZES = {"n_frames": 3, "height": 36, "width": 52}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """A ball of 80 triangles, and a ring of more."""
    folder = tmp_path_factory.mktemp("meshes")
    trimesh.creation.icosphere(subdivisions=1).export(folder / "ball.ply")
    trimesh.creation.torus(1.0, 0.4, 12, 8).export(folder / "ring.ply")
    return folder


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fixed_camera", [True, False])
@pytest.mark.parametrize("kind", ["plain", "deform", "meshes", "rolling"])
def test_a_device_renders_the_clip_that_the_cpu_renders(kind, fixed_camera, device, meshes, monkeypatch):
    # So few at a time that a clip takes several goes.
    monkeypatch.setattr(renderer, "_RAYS", 3 * 36 * 52)
    extras = {
        "plain": Extras(),
        "deform": Extras(deform=True, shake=True, blur=True),
        "meshes": Extras(meshes=meshes),
        "rolling": Extras(rolling=True),
    }[kind]
    plain = make_clip(6, fixed_camera=fixed_camera, extras=extras, **SIZES)
    there = make_clip(6, fixed_camera=fixed_camera, extras=extras, device=device, **SIZES)
    # Where two surfaces meet, what is rounded decides which of them a ray is said to meet.
    same = there.objects == plain.objects
    assert same.mean() > 0.999
    np.testing.assert_allclose(there.depth[same], plain.depth[same], rtol=1e-6)
    known = there.flow_valid & plain.flow_valid & same[:-1]
    assert known.sum() > 0.99 * max(there.flow_valid.sum(), plain.flow_valid.sum())
    np.testing.assert_allclose(there.flow[known], plain.flow[known], atol=1e-4)
    difference = np.abs(there.frames.astype(int) - plain.frames)
    assert difference.max() <= 3
    assert (difference > 0).mean() < 0.001
    for array, other in zip((there.depth, there.objects, there.flow, there.frames), (
        plain.depth, plain.objects, plain.flow, plain.frames), strict=True):  # fmt: skip
        assert (array.dtype, array.shape) == (other.dtype, other.shape)


def test_a_single_frame_has_no_flow_there_either():
    clip = make_clip(6, fixed_camera=False, device="cpu", **SIZES | {"n_frames": 1})
    assert clip.flow.shape == (0, 36, 52, 2)
    assert clip.frames.shape == (1, 36, 52, 3)


def test_the_command_renders_on_the_device(tmp_path, monkeypatch, run):
    words = "--clips 1 --frames 3 --seed 6 --height 36 --width 52 --workers 1 --device cpu"
    used = []
    render = renderer.render_on
    monkeypatch.setattr(renderer, "render_on", lambda device, *rest: used.append(device) or render(device, *rest))
    assert run("data", "make", tmp_path / "world", *words.split())[0] == 0
    assert used == [torch.device("cpu")]
    made = open_sequence(tmp_path / "world" / "fixed_000006").read()
    np.testing.assert_array_equal(made.frames, make_clip(6, fixed_camera=True, device="cpu", **SIZES).frames)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_a_device_that_cannot_be_used_is_refused(name):
    with pytest.raises(InputError, match=f"device {name}: cannot be used .*: give cpu, or one that"):
        make_clip(6, fixed_camera=True, device=name, **SIZES)


def test_a_device_without_64_bits_is_refused(monkeypatch):
    monkeypatch.setattr(renderer, "has_float64", lambda device: False)
    with pytest.raises(InputError, match="device cpu: has no float64"):
        make_clip(6, fixed_camera=True, device="cpu", **SIZES)
