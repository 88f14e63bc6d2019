import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from steadydepth.data.conversion import convert_layout
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError, SomeFailedError
from steadydepth.layouts.nyu import into_colour, splat

COLOUR_K = np.array([[518.857901, 0, 325.582449], [0, 519.469611, 253.736166], [0, 0, 1]])
DEPTH_K = np.array([[582.624482, 0, 313.044759], [0, 582.691033, 238.443896], [0, 0, 1]])


def write_pnm(path, header, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + pixels.tobytes())


def test_nyu_raw_is_paired_by_time_and_decoded(tmp_path):
    """A wall at 2 m fills the depth image: code 1092.5 - 351.3 / 2, its bytes swapped; far away it is not measured."""
    h, w = 480, 640
    colour = np.full((h, w, 3), (200, 100, 50), np.uint8)
    codes = np.full((h, w), round(1092.5 - 351.3 / 2.0), ">u2")
    codes[:100] = 2047
    scene = tmp_path / "in" / "kitchen_0001"
    for i, (r_time, d_time) in enumerate([(10.0, 10.01), (10.05, 10.04), (11.0, 10.99), (11.05, 11.2)]):
        write_pnm(scene / f"r-{r_time:.6f}-{i}.ppm", f"P6 {w} {h} 255\n".encode(), colour)
        write_pnm(scene / f"d-{d_time:.6f}-{i}.pgm", f"P5\n{w} {h}\n65535\n".encode(), codes.byteswap())
    made = list(convert_layout("nyu", tmp_path / "in", tmp_path / "out"))
    assert [(path.name, open_sequence(path).n_frames) for path in made] == [
        ("kitchen_0001_00000", 2),
        ("kitchen_0001_00002", 1),
    ]
    clip = open_sequence(made[0]).read(0, 1)
    assert clip.frames[0, h // 2, w // 2].tolist() == [200, 100, 50]
    measured = clip.depth[0][clip.depth[0] > 0]
    assert measured.size > 0.5 * h * w
    np.testing.assert_allclose(measured, 351.3 / (1092.5 - 917), atol=0.03)
    assert (clip.depth[0, :60] == 0).all()
    np.testing.assert_allclose(clip.K, COLOUR_K, atol=1e-5)


def test_a_point_moves_from_the_depth_camera_to_the_colour_camera():
    depth = np.zeros((480, 640), np.float32)
    depth[230:251, 310:331] = 1.5
    # Near the optical axis the lens distorts nothing; the colour camera stands 2.5 cm beside, hardly turned.
    point = 1.5 * np.linalg.inv(DEPTH_K) @ [320, 240, 1]
    turn = np.array(
        [[0.9999780, 0.0050518, 0.0043012], [-0.005036, 0.9999805, -0.003688], [-0.0043197, 0.0036662, 0.999984]]
    )
    point = np.linalg.inv(turn) @ point - [0.025031875, -0.00029342, 0.00066239]
    u, v, _ = COLOUR_K @ point / point[2]
    visible = into_colour(depth)
    rows, columns = np.nonzero(visible)
    assert abs(columns.mean() - u) < 1
    assert abs(rows.mean() - v) < 1
    np.testing.assert_allclose(visible[visible > 0], point[2], atol=0.002)


def test_of_points_on_one_pixel_the_nearest_counts():
    K = np.array([[2.0, 0, 1], [0, 2, 1], [0, 0, 1]])
    points = np.array([[0, 0, 0.5, 9, 0], [0, 0, 0, 0, 0], [3, 2, 1, 1, -1]], np.float64)
    assert splat(points, K, 3, 4).tolist() == [[0, 0, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]]


def test_a_raw_scene_of_nyu_without_depth_is_named(tmp_path):
    write_pnm(tmp_path / "kitchen_0001" / "r-10.0-0.ppm", b"P6 4 3 255\n", np.zeros((3, 4, 3), np.uint8))
    write_pnm(tmp_path / "kitchen_0001" / "d-11.0-0.pgm", b"P5 4 3 65535\n", np.zeros((3, 4), np.uint16))
    with pytest.raises(InputError, match=r"kitchen_0001: no image has depth, d-\*\.pgm, within 0\.03 s"):
        list(convert_layout("nyu", tmp_path, tmp_path / "out"))


def test_nyu_labelled_images_of_the_official_split(tmp_path):
    n, h, w = 4, 25, 33
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (h, w, 3, n), dtype=np.uint8)
    depths = random.uniform(0.8, 9, (h, w, n)).astype(np.float32)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:  # MATLAB writes the last axis first
        file["images"], file["depths"] = images.transpose(), depths.transpose()
    scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[1], [3]], "testNdxs": [[2], [4]]})
    made = list(convert_layout("nyu", tmp_path / "nyu_depth_v2_labeled.mat", tmp_path / "out", split="test"))
    assert [path.name for path in made] == ["nyu_0002", "nyu_0004"]
    clip = open_sequence(made[1]).read()
    np.testing.assert_array_equal(clip.frames[0], images[..., 3])
    np.testing.assert_allclose(clip.depth[0], depths[..., 3], atol=0.00051)


def test_scannet_colour_takes_the_size_of_depth_and_lost_tracking_ends_a_sequence(
    tmp_path, make_scene, write_png_at, write_jpg_at, assert_same
):
    scene = make_scene(np.array([[40.0, 0, 21.5], [0, 40, 16.0], [0, 0, 1]]))
    place = tmp_path / "in" / "scene0000_01"
    wide = np.eye(4)
    wide[:3, :3] = scene.K
    for folder in ("pose", "intrinsic"):
        (place / folder).mkdir(parents=True)
    np.savetxt(place / "intrinsic" / "intrinsic_depth.txt", wide)
    for number, i in ((0, 0), (1, 1), (2, 2), (3, 0), (4, 1)):
        flat = np.full((2 * 31, 2 * 45, 3), (200 + 9 * number, 100, 50), np.uint8)
        write_jpg_at(place / "color" / f"{number}.jpg", flat)
        write_png_at(place / "depth" / f"{number}.png", np.rint(scene.depth[i] * 1000).astype(np.uint16))
        np.savetxt(place / "pose" / f"{number}.txt", scene.poses[i] if number != 3 else np.full((4, 4), -np.inf))
    (tmp_path / "in" / "scannetv2_val.txt").write_text("scene0000_01\nscene0999_00\n", encoding="utf-8")
    whole, rest = convert_layout("scannet", tmp_path / "in", tmp_path / "out", split="val")
    assert (whole.name, rest.name) == ("scene0000_01_00000", "scene0000_01_00003")
    assert_same(whole, scene, step_m=0.001, exact_frames=False)
    np.testing.assert_allclose(open_sequence(whole).read().frames[0, 5, 5], [200, 100, 50], atol=3)
    assert open_sequence(rest).n_frames == 1


def test_diode_images_keep_only_what_their_mask_says(tmp_path, write_png_at):
    place = tmp_path / "in" / "val" / "indoors" / "scene_00019" / "scan_00183"
    frame = np.random.default_rng(2).integers(0, 256, (21, 35, 3), dtype=np.uint8)
    write_png_at(place / "00019_00183_indoors_330_010.png", frame)
    depth = np.full((21, 35, 1), 7.25, np.float32)
    mask = np.ones((21, 35))
    mask[3, 4], depth[5, 6] = 0, 400.0  # beyond 16 bits of 5 mm
    np.save(place / "00019_00183_indoors_330_010_depth.npy", depth)
    np.save(place / "00019_00183_indoors_330_010_depth_mask.npy", mask)
    (folder,) = convert_layout("diode", tmp_path / "in", tmp_path / "out")
    clip = open_sequence(folder).read()
    expected = np.full((21, 35), 7.25, np.float32)
    expected[3, 4] = expected[5, 6] = 0
    np.testing.assert_array_equal(clip.depth[0], expected)
    np.testing.assert_array_equal(clip.frames[0], frame)


def test_a_mask_of_diode_of_another_size_costs_no_other_image(tmp_path, write_png_at):
    place = tmp_path / "in/val/indoors/scene_0/scan_0"
    for name, rows in (("a", 5), ("b", 6)):
        write_png_at(place / f"{name}.png", np.zeros((6, 8, 3), np.uint8))
        np.save(place / f"{name}_depth.npy", np.ones((6, 8, 1), np.float32))
        np.save(place / f"{name}_depth_mask.npy", np.ones((rows, 8)))
    with pytest.raises(SomeFailedError, match=r"a_depth_mask\.npy: 5 x 8") as raised:
        list(convert_layout("diode", tmp_path / "in", tmp_path / "out"))
    assert [path.name for path in raised.value.written] == ["b"]


def test_max_side_scales_camera_and_depth_together(tmp_path, write_png_at):
    """Through the list of pairs, which has no camera, and DIODE, which has one."""
    place = tmp_path / "in" / "train" / "outdoor" / "scene_0" / "scan_0"
    write_png_at(place / "a.png", np.zeros((768, 1024, 3), np.uint8))
    np.save(place / "a_depth.npy", np.full((768, 1024, 1), 12.0, np.float32))
    np.save(place / "a_depth_mask.npy", np.ones((768, 1024)))
    (folder,) = convert_layout("diode", tmp_path / "in", tmp_path / "out", max_side=64)
    clip = open_sequence(folder).read()
    assert clip.frames.shape == (1, 48, 64, 3)
    assert (clip.depth == 12).all()
    np.testing.assert_allclose(clip.K[0], [886.81 / 16, 0, (512 + 0.5) / 16 - 0.5])
    assert cv2.imread(str(folder / "depth" / "0000.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
