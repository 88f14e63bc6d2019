from dataclasses import replace

import numpy as np
import pytest

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.synthetic.effects import Extras, dress
from steadydepth.synthetic.meshes import MESH_SUFFIXES, meet_triangles, read_mesh, stand
from steadydepth.synthetic.rays import cast, make_grid
from steadydepth.synthetic.scene import draw_scene
from steadydepth.synthetic.world import make_clip, make_world
from steadydepth.types import InputError

trimesh = pytest.importorskip("trimesh")
K = np.array([[10.0, 0, 4], [0, 10.0, 3], [0, 0, 1]])
SIZES = {"n_frames": 3, "height": 44, "width": 60}


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """A tetrahedron, and in a folder below a ball of 80 triangles."""
    folder = tmp_path_factory.mktemp("meshes")
    corners = "v 0 2 0\nv 1 0 1\nv -1 0 1\nv 0 0 -1\n"
    (folder / "tetrahedron.obj").write_text(corners + "f 1 2 3\nf 1 3 4\nf 1 4 2\nf 2 4 3\n", encoding="utf-8")
    (folder / "deeper").mkdir()
    trimesh.creation.icosphere(subdivisions=1, radius=3.0).export(folder / "deeper" / "ball.ply")
    return folder


def dressed(seed, extras, *, fixed_camera=False):
    scene = draw_scene(np.random.default_rng(seed), fps=15.0, fixed_camera=fixed_camera, **SIZES)
    return dress(scene, extras, seed, fps=15.0, fixed_camera=fixed_camera)


def slow_lengths(triangles, origin, ray):
    """Of each triangle the length of the ray to it, by solving origin + z ray = a + p (b - a) + q (c - a)."""
    for a, b, c in triangles:
        matrix = np.stack([ray, a - b, a - c], axis=1)
        z, p, q = np.linalg.solve(matrix, a - origin) if np.linalg.det(matrix) else (np.inf, -1, -1)
        yield z if z > 1e-6 and p >= 0 and q >= 0 and p + q <= 1 else np.inf


def box_of(half):
    return stand(np.array(trimesh.creation.box(2 * half).triangles), half)


def test_a_tilted_triangle_has_the_depth_of_its_plane():
    # z = 2 + x / 2, met by the ray (X, Y, 1) at z = 2 / (1 - X / 2).
    plane = np.array([[[-1.0, -9, 1.5], [2, 9, 3], [-1, 9, 1.5]]])
    depth, number = meet_triangles(plane, K, np.arange(7.0), np.arange(8.0))
    for row in range(7):
        for column in range(8):
            x, y = (column - 4) / 10, (row - 3) / 10
            z = 2 / (1 - x / 2)
            # Its edges: x = -1, and from (-1, -9) to (2, 9): y = 6 x - 3.
            inside = x * z >= -1 and y * z >= 6 * x * z - 3
            assert number[row, column] == (0 if inside else -1)
            np.testing.assert_allclose(depth[row, column], z if inside else np.inf)
    assert 0 < (number == 0).sum() < number.size


def test_many_triangles_are_met_as_by_solving_for_each(monkeypatch):
    monkeypatch.setattr("steadydepth.synthetic.meshes.MOST_PAIRS", 50)
    triangles = np.random.default_rng(3).normal([0, 0, 2], [0.6, 0.5, 1.5], (23, 3, 3))  # some behind, some across
    assert (triangles[..., 2] < 0).any(axis=1).sum() > 3
    depth, number = meet_triangles(triangles, K, np.arange(6.0), np.arange(9.0))
    for row in range(6):
        for column in range(9):
            lengths = list(slow_lengths(triangles, np.zeros(3), np.array([(column - 4) / 10, (row - 3) / 10, 1.0])))
            np.testing.assert_allclose(depth[row, column], min(lengths))
            assert number[row, column] == (np.argmin(lengths) if np.isfinite(min(lengths)) else -1)
    assert len(np.unique(number)) > 4


def test_the_mesh_of_a_box_is_seen_as_the_box_is():
    boxes = dressed(8, Extras(deform=True, shake=True))
    assert sum(solid.shape == "box" for solid in boxes.solids) > 3
    solids = [
        replace(solid, shape="mesh", triangles=box_of(solid.half)) if solid.shape == "box" else solid
        for solid in boxes.solids
    ]
    grid = make_grid(boxes, np.arange(44.0), np.arange(60.0))
    for t in range(2):
        expected, got = (
            cast(scene, t, grid, list(range(len(solids)))) for scene in (boxes, replace(boxes, solids=solids))
        )
        np.testing.assert_allclose(got.depth, expected.depth, rtol=1e-9)
        np.testing.assert_array_equal(got.solid, expected.solid)


def test_a_mesh_stands_upright_on_the_ground_as_large_as_fits():
    # 2 wide, 4 high and 1 deep, into a box of 1 x 1 x 1: a quarter of the size, its top (y up) at the least y.
    mesh = np.array([[[5.0, 0, 7], [7, 0, 7], [6, 4, 8]]])
    placed = stand(mesh, np.full(3, 0.5))
    np.testing.assert_allclose(placed, [[[-0.25, 0.5, 0.125], [0.25, 0.5, 0.125], [0, -0.5, -0.125]]])


def test_labels_of_meshes_are_those_of_a_slow_ray_to_each_triangle(meshes):
    extras = Extras(meshes=meshes, deform=True)
    scene = dressed(4, extras)
    clip = make_clip(4, fixed_camera=False, extras=extras, **SIZES)
    ids = {solid.object_id for solid in scene.solids if solid.triangles is not None and solid.object_id}
    n_met = 0
    for t in range(SIZES["n_frames"] - 1):
        for y, x in np.random.default_rng(t).permutation(np.argwhere(np.isin(clip.objects[t], list(ids))))[:12]:
            ray = np.linalg.inv(scene.K) @ [x, y, 1.0]
            for solid in scene.solids:
                if solid.triangles is None or solid.object_id != clip.objects[t, y, x]:
                    continue
                view = np.linalg.inv(solid.local_to_world[t]) @ scene.cam_to_world[t]
                length = min(slow_lengths(solid.triangles, view[:3, 3], view[:3, :3] @ ray))
                assert length > clip.depth[t, y, x] * (1 - 1e-6)
                if length < clip.depth[t, y, x] * (1 + 1e-6):
                    local = view @ np.append(ray * length, 1)
                    there = np.linalg.inv(scene.cam_to_world[t + 1]) @ solid.local_to_world[t + 1] @ local
                    landed = scene.K @ there[:3] / there[2]
                    np.testing.assert_allclose(clip.flow[t, y, x], landed[:2] - [x, y], atol=1e-4)
                    n_met += 1
    assert n_met >= 10


def test_the_same_seed_gives_the_same_meshes_and_they_change_nothing_else(meshes, tmp_path):
    extras = Extras(meshes=meshes, blur=True)
    plain, shaped = dressed(6, Extras()), dressed(6, extras)
    for one, other in zip(plain.solids, shaped.solids, strict=True):
        np.testing.assert_array_equal(one.local_to_world, other.local_to_world)
        np.testing.assert_array_equal(one.texture, other.texture)
    assert 0 < sum(solid.shape == "mesh" for solid in shaped.solids) < len(shaped.solids)
    (path,) = make_world(tmp_path, n_clips=1, seed=6, extras=extras, workers=1, **SIZES)
    again = make_clip(6, fixed_camera=True, extras=extras, **SIZES)
    stored = open_sequence(path)
    np.testing.assert_array_equal(stored.read().frames, again.frames)
    assert (stored.source, stored.licence) == ("steadydepth synthetic world: meshes, blur", None)


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_each_format_is_read(suffix, tmp_path):
    path = tmp_path / f"box{suffix}"
    box = trimesh.creation.box((1.0, 2.0, 3.0))
    if suffix == ".gltf":
        for name, data in trimesh.exchange.gltf.export_gltf(box.scene()).items():
            (tmp_path / name.replace("model", "box")).write_bytes(data)
    else:
        box.export(path)
    triangles = read_mesh(path)
    assert triangles.shape == (12, 3, 3)
    np.testing.assert_allclose(np.abs(triangles), np.broadcast_to([0.5, 1, 1.5], (12, 3, 3)))


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_a_broken_file_is_named(suffix, tmp_path):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"rubbish \x00\x01 and more")
    with pytest.raises(InputError, match=f"broken{suffix}: .*copy the file again or take it away"):
        read_mesh(path)


def test_a_folder_without_meshes_is_refused(tmp_path):
    with pytest.raises(InputError, match="no mesh; a folder with"):
        Extras(meshes=tmp_path)
