import cv2
import numpy as np
import pytest

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.files.video_write import recode
from steadydepth.synthetic.effects import SUBFRAMES, Extras, at_moments, draw_shutter, dress
from steadydepth.synthetic.scene import TEXELS, draw_scene
from steadydepth.synthetic.world import make_clip, make_world
from steadydepth.types import InputError

SIZES = {"n_frames": 4, "height": 44, "width": 60}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    (folder / "deeper").mkdir()
    cv2.imwrite(str(folder / "noise.png"), noise)
    cv2.imwrite(str(folder / "deeper" / "orange.png"), np.full((9, 14, 3), (51, 127, 255), np.uint8))
    return folder


def dressed(seed, extras, *, fixed_camera):
    scene = draw_scene(np.random.default_rng(seed), fps=15.0, fixed_camera=fixed_camera, **SIZES)
    return dress(scene, extras, seed, fps=15.0, fixed_camera=fixed_camera)


def slow_hit(scene, t, x, y):
    """Depth of what is first on the ray of one pixel, the solid, and the point in its axes; each face by itself."""
    ray = np.linalg.inv(scene.K) @ [x, y, 1.0]
    best = (np.inf, None, None)
    for solid in scene.solids:
        to_local = np.linalg.inv(solid.local_to_world[t]) @ scene.cam_to_world[t]
        origin, along = to_local[:3, 3], to_local[:3, :3] @ ray
        if solid.shape == "ball":
            lengths = np.roots([along @ along, 2 * along @ origin, origin @ origin - solid.half[0] ** 2])
            lengths = [one.real for one in lengths if abs(one.imag) < 1e-12]
        else:
            faces = [(axis, side * solid.half[axis]) for axis in range(3) for side in (-1, 1)]
            lengths = [(at - origin[axis]) / along[axis] for axis, at in faces]
            lengths = [z for z in lengths if (np.abs(origin + z * along) <= solid.half + 1e-9).all()]
        for length in lengths:
            if 1e-6 < length < best[0]:
                best = (length, solid, origin + length * along)
    return best


def test_depth_objects_and_flow_are_those_of_a_slow_ray_to_each_face():
    extras = Extras(deform=True, shake=True)
    clip = make_clip(8, fixed_camera=False, extras=extras, **SIZES)
    scene = dressed(8, extras, fixed_camera=False)
    generator = np.random.default_rng(0)
    n_moving = 0
    for t in range(SIZES["n_frames"] - 1):
        moving = np.argwhere(clip.objects[t] > 0)
        anywhere = generator.integers(0, clip.depth.shape[1:], (8, 2))
        for y, x in np.concatenate((anywhere, generator.choice(moving, 8))):
            depth, solid, local = slow_hit(scene, t, x, y)
            np.testing.assert_allclose(clip.depth[t, y, x], depth, rtol=1e-6)
            assert clip.objects[t, y, x] == solid.object_id
            there = np.linalg.inv(scene.cam_to_world[t + 1]) @ solid.local_to_world[t + 1] @ np.append(local, 1)
            landed = scene.K @ there[:3] / there[2]
            np.testing.assert_allclose(clip.flow[t, y, x], landed[:2] - [x, y], atol=1e-4)
            n_moving += solid.object_id > 0
    assert n_moving >= 24


def test_what_deforms_changes_its_shape_and_keeps_its_volume_and_its_foot():
    plain, bent = (dressed(8, Extras(deform=deform), fixed_camera=True) for deform in (False, True))
    before = next(solid for solid in plain.solids if solid.object_id == 1)
    body, *arms = (solid for solid in bent.solids if solid.object_id == 1)
    assert len(arms) == 2
    stretch = np.linalg.svd(body.local_to_world[:, :3, :3], compute_uv=False)
    assert np.ptp(stretch[:, 0]) > 0.01
    np.testing.assert_allclose(stretch.prod(axis=1), 1)
    foot = np.array([0, before.half[1], 0, 1])
    np.testing.assert_allclose(body.local_to_world @ foot, before.local_to_world @ foot)


def test_a_fixed_camera_stays_fixed_whatever_is_added(images):
    extras = Extras(textures=images, shake=True, deform=True, blur=True, compress=30)
    clip = make_clip(9, fixed_camera=True, extras=extras, **SIZES)
    static = (clip.objects == 0).all(axis=0)
    assert static.mean() > 0.4
    assert np.ptp(clip.cam_to_world, axis=0).max() == 0
    assert np.ptp(clip.depth, axis=0)[static].max() == 0
    assert np.abs(clip.flow[:, static]).max() < 1e-4


def test_shake_rolls_the_camera_and_leaves_a_rigid_pose():
    plain, shaken = (dressed(8, Extras(shake=shake), fixed_camera=False).cam_to_world for shake in (False, True))
    rotation = (np.linalg.inv(plain) @ shaken)[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)
    assert np.ptp(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])) > 0.002


def test_blur_is_of_the_frames_alone_and_where_something_moves():
    sharp, blurred = (make_clip(9, fixed_camera=True, extras=Extras(blur=blur), **SIZES) for blur in (False, True))
    for name in ("depth", "objects", "flow", "cam_to_world"):
        np.testing.assert_array_equal(getattr(sharp, name), getattr(blurred, name))
    change = np.abs(sharp.frames.astype(int) - blurred.frames).max(axis=(0, 3))
    near_moving = cv2.dilate((sharp.objects > 0).any(axis=0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert change[~near_moving].max() <= 1
    assert change[near_moving].max() > 20


def test_the_middle_of_an_exposure_is_the_frame_and_the_others_lie_evenly_around_it():
    scene = dressed(8, Extras(), fixed_camera=False)
    opened = at_moments(scene, draw_shutter(8)).cam_to_world.reshape(4, SUBFRAMES, 4, 4)
    np.testing.assert_array_equal(opened[:, SUBFRAMES // 2], scene.cam_to_world)
    share = (opened[1, -1] - opened[1, 0])[:3, 3] / ((scene.cam_to_world[2] - scene.cam_to_world[0])[:3, 3] / 2)
    assert 0.2 < share[0] < 0.8
    np.testing.assert_allclose(share, share[0])


def test_compression_is_that_of_the_finished_frames():
    plain, coded = (make_clip(3, fixed_camera=False, extras=Extras(compress=crf), **SIZES) for crf in (None, 38))
    np.testing.assert_array_equal(coded.frames, recode(plain.frames, crf=38))
    np.testing.assert_array_equal(coded.depth, plain.depth)
    assert np.abs(coded.frames.astype(int) - plain.frames).mean() > 1


def test_textures_are_crops_of_the_images_without_a_seam(images):
    scene = dressed(8, Extras(textures=images), fixed_camera=False)
    orange = (np.array([255, 127, 51]) / 255) ** 2.2
    n_orange = 0
    for solid in scene.solids:
        half = TEXELS // 2
        np.testing.assert_array_equal(solid.texture[:, :half], solid.texture[:, : half - 1 : -1])
        is_orange = np.ptp(solid.texture, axis=(0, 1)).max() < 1e-5
        n_orange += is_orange
        if is_orange:
            np.testing.assert_allclose(solid.texture[0, 0], orange, rtol=1e-5)
    assert 0 < n_orange < len(scene.solids)


def test_one_extra_changes_nothing_that_another_draws(images):
    together = dressed(8, Extras(textures=images, shake=True, deform=True), fixed_camera=False)
    alone = dressed(8, Extras(shake=True), fixed_camera=False)
    np.testing.assert_array_equal(together.cam_to_world, alone.cam_to_world)
    bent = dressed(8, Extras(deform=True), fixed_camera=False)
    for one, other in zip(together.solids, bent.solids, strict=True):
        np.testing.assert_array_equal(one.local_to_world, other.local_to_world)


def test_a_world_with_extras_follows_from_its_seeds_and_says_what_it_is(images, tmp_path):
    extras = Extras(textures=images, shake=True, deform=True, blur=True, compress=30)
    sizes = {"n_frames": 2, "height": 33, "width": 40}
    path, _ = make_world(tmp_path, n_clips=2, seed=4, workers=2, extras=extras, **sizes)
    stored, again = open_sequence(path), make_clip(4, fixed_camera=True, extras=extras, **sizes)
    np.testing.assert_array_equal(stored.read().frames, again.frames)
    np.testing.assert_allclose(stored.read().depth, again.depth, atol=0.000126)
    assert stored.source == "steadydepth synthetic world: textures, shake, deform, blur, compress 30"
    assert stored.licence is None


def test_what_cannot_be_added_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(InputError, match="no image for textures"):
        Extras(textures=tmp_path)
    with pytest.raises(InputError, match="compress 52: a constant rate factor"):
        Extras(compress=52)
