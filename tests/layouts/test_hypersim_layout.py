"""Cameras of Hypersim as its authors' list has them: many are tilted or shifted, as those of photographers of rooms."""

import cv2
import h5py
import numpy as np
import pytest

from steadydepth.data.checks import check_data
from steadydepth.data.conversion import convert_layout
from steadydepth.data.sequence_folder import open_sequence

# Lines of metadata_camera_parameters.csv: rays from u, v of -1 to 1 (v up), and the first, second and last row of the
# projection, which is its inverse but for a factor.
CAMERAS = {
    "ai_001_001": ([[0.57735, 0, 0], [0, 0.433013, 0], [0, 0, -1]], [[1.732051, 0, 0], [0, 2.309401, 0], [0, 0, -1]]),
    "ai_024_004": (
        [[0.7314824887, 0, 0], [0, 0.4395839870, 0], [0, -0.3282390874, -1.2669647922]],
        [[1.3670867251, 0, 0], [0, 2.2748781340, 0], [0, -0.5893643828, -0.7892879156]],
    ),
    "ai_055_005": (
        [[0.5804407057, 0, -0.1160881256], [0, 0.4340309028, 0], [-0.0116088030, 0.0347224715, -1.0078025956]],
        [
            [1.7188689570, 0.0158396314, -0.1979953973],
            [0, 2.3039834110, 0],
            [-0.0197995235, 0.0791981678, -0.9899771193],
        ],
    ),
}


def line_of(scene, projection, h, w):
    numbers = {f"M_proj_{row}{column}": projection[i][column] for i, row in enumerate("013") for column in range(3)}
    return {"scene_name": scene, "settings_output_img_height": h, "settings_output_img_width": w} | numbers


@pytest.mark.parametrize("scene", CAMERAS)
def test_points_of_a_tilted_camera_lie_where_they_are(tmp_path, write_jpg_at, scene):
    h, w, metres = 24, 32, 0.0254
    from_uv, projection = CAMERAS[scene]
    place = tmp_path / "in" / scene
    u, v = np.meshgrid((np.arange(w) + 0.5) * 2 / w - 1, 1 - (np.arange(h) + 0.5) * 2 / h)
    rays = np.stack((u, v, np.ones_like(u)), axis=-1) @ np.array(from_uv).T  # x right, y up, z backward
    points = 3 * rays / (np.array([0.1, 0.2, -1.0]) @ rays[..., None])  # on a slanted wall, about 3 m away
    turn, position = cv2.Rodrigues(np.array([0.3, -0.5, 0.1]))[0], np.array([2.0, -1.0, 4.0])
    images = place / "images"
    write_jpg_at(images / "scene_cam_00_final_preview" / "frame.0000.tonemap.jpg", np.full((h, w, 3), 9, np.uint8))
    arrays = {
        images / "scene_cam_00_geometry_hdf5" / "frame.0000.depth_meters.hdf5": np.linalg.norm(points, axis=-1),
        place / "_detail" / "cam_00" / "camera_keyframe_positions.hdf5": position[None] / metres,
        place / "_detail" / "cam_00" / "camera_keyframe_orientations.hdf5": turn[None],
    }
    for path, array in arrays.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["dataset"] = array.astype(np.float32)
    (place / "_detail" / "metadata_scene.csv").write_text(
        f"parameter_name,parameter_value\nmeters_per_asset_unit,{metres}\n", encoding="utf-8"
    )
    line = line_of(scene, projection, h, w)
    (tmp_path / "in" / "metadata_camera_parameters.csv").write_text(
        ",".join(line) + "\n" + ",".join(map(str, line.values())) + "\n", encoding="utf-8"
    )
    (folder,) = convert_layout("hypersim", tmp_path / "in", tmp_path / "out")
    assert check_data(folder) == []
    clip = open_sequence(folder).read()
    y, x = np.mgrid[:h, :w]
    seen = clip.depth[0][..., None] * (np.stack((x, y, np.ones_like(x)), axis=-1) @ np.linalg.inv(clip.K).T)
    pose = clip.cam_to_world[0]
    np.testing.assert_allclose(seen @ pose[:3, :3].T + pose[:3, 3], points @ turn.T + position, atol=0.002)
