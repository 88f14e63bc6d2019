"""What makes the synthetic world harder: meshes, images as textures, shake, deformation, blur, compression."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from steadydepth.files.images import FRAME_SUFFIXES, read_colour
from steadydepth.synthetic.meshes import MESH_SUFFIXES, read_mesh, stand
from steadydepth.synthetic.scene import Scene, Solid, draw_texture, pose, seamless, swing
from steadydepth.types import InputError

SUBFRAMES = 5  # exposures that a blurred frame is the mean of; odd, so that the middle one is where the labels are


@dataclass(frozen=True)
class Extras:
    """What to add; how much of each a clip gets follows from its seed, and everything else of the clip stays as it is.

    textures: surfaces show crops of the images of that folder. shake: a moving camera shakes and rolls as in a hand.
    deform: moving objects squash and stretch, and swing arms. blur: the shutter is open for part of a frame, and
    the labels are those of the middle of that time. rolling: rows are exposed one after the other, and the labels of
    each are those of its moment. compress: constant rate factor of H.264 that the frames go through. meshes: half of
    all things have the shape of one of the mesh files of that folder.
    """

    textures: Path | None = None
    shake: bool = False
    deform: bool = False
    blur: bool = False
    rolling: bool = False
    compress: int | None = None
    meshes: Path | None = None

    def __post_init__(self) -> None:
        if self.compress is not None and not 0 <= self.compress <= 51:
            raise InputError(f"compress {self.compress}: a constant rate factor of H.264 is 0 to 51: try 30")
        if self.textures is not None:
            find_textures(self.textures)
        if self.meshes is not None and not find_files(self.meshes, MESH_SUFFIXES):
            raise InputError(
                f"{self.meshes}: no mesh; a folder with {', '.join(MESH_SUFFIXES)} at any depth: check the path"
            )

    def describe(self) -> str:
        """The parts that are on, as text; empty without any."""
        names = [name for name in ("meshes", "textures", "shake", "deform", "blur", "rolling") if getattr(self, name)]
        return ", ".join(names + ([] if self.compress is None else [f"compress {self.compress}"]))


def find_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in `folder` at any depth that end so, in order of their names; none that is hidden, as `._a.jpg`."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def find_textures(folder: Path) -> list[Path]:
    """The images in `folder` at any depth.

    Raises:
        InputError: there is none.
    """
    if images := find_files(folder, FRAME_SUFFIXES):
        return images
    raise InputError(
        f"{folder}: no image for textures; a folder with {', '.join(FRAME_SUFFIXES)} at any depth: check the path"
    )


def dress(scene: Scene, extras: Extras, seed: int, *, fps: float, fixed_camera: bool) -> Scene:
    """The scene of a seed with the extras that change what stands in it and how it and the camera move.

    Args:
        scene: without them.
        extras: what is asked for.
        seed: of the scene.
        fps: frames a second.
        fixed_camera: whether the camera stands still, which is never shaken.
    """
    seconds = np.arange(len(scene.cam_to_world)) / fps
    # A stream for each extra: none changes what another draws.
    streams = [np.random.default_rng((seed, number)) for number in (1, 2, 3, 5)]
    solids, poses = scene.solids, scene.cam_to_world
    if extras.meshes is not None:
        paths = find_files(extras.meshes, MESH_SUFFIXES)
        solids = [solids[0], *(_reshape(solid, paths, streams[3]) for solid in solids[1:])]
    if extras.deform:
        solids = [part for solid in solids for part in _bend(solid, seconds, streams[0])]
    if extras.textures is not None:
        images = find_textures(extras.textures)
        solids = [replace(solid, texture=_draw_crop(images, streams[1])) for solid in solids]
    if extras.shake and not fixed_camera:
        poses = poses @ _draw_shake(streams[2], seconds)
    return replace(scene, solids=solids, cam_to_world=poses)


def draw_shutter(seed: int) -> Float64[np.ndarray, "m"]:
    """SUBFRAMES moments while the shutter is open, in frames: for 0.2 to 0.8 of the time to the next one."""
    share = np.random.default_rng((seed, 4)).uniform(0.2, 0.8)
    return np.linspace(-share / 2, share / 2, SUBFRAMES)


def draw_readout(seed: int, height: int) -> Float64[np.ndarray, "h"]:
    """The moment of each row, in frames, the middle of the image at 0: 0.3 to 0.9 of the time to the next frame."""
    share = np.random.default_rng((seed, 6)).uniform(0.3, 0.9)
    return share * ((np.arange(height) + 0.5) / height - 0.5)


def at_moments(scene: Scene, moments: Float64[np.ndarray, "m"]) -> Scene:
    """The scene at so many moments around each frame, one after another; everything moves on in a straight line."""
    solids = [replace(solid, local_to_world=_move_on(solid.local_to_world, moments)) for solid in scene.solids]
    return replace(
        scene,
        solids=solids,
        cam_to_world=_move_on(scene.cam_to_world, moments),
        lamp_power=np.repeat(scene.lamp_power, len(moments)),
    )


def _move_on(
    poses: Float64[np.ndarray, "t 4 4"], moments: Float64[np.ndarray, "m"]
) -> Float64[np.ndarray, "t_times_m 4 4"]:
    speed = np.gradient(poses, axis=0) if len(poses) > 1 else np.zeros_like(poses)
    return (poses[:, None] + moments[:, None, None] * speed[:, None]).reshape(-1, 4, 4)


def _reshape(solid: Solid, meshes: list[Path], generator: np.random.Generator) -> Solid:
    """Half of the time the solid as one of the meshes, on the same ground and within the same box."""
    number, is_mesh = generator.integers(len(meshes)), generator.random() < 0.5
    return replace(solid, shape="mesh", triangles=stand(read_mesh(meshes[number]), solid.half)) if is_mesh else solid


def _draw_crop(images: list[Path], generator: np.random.Generator) -> Float32[np.ndarray, "texel texel 3"]:
    """A square crop of one of the images (`seamless`)."""
    image = read_colour(images[generator.integers(len(images))])
    height, width = image.shape[:2]
    side = max(1, int(min(height, width) * generator.uniform(0.25, 1)))
    top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
    crop = image[top : top + side, left : left + side]
    # Images are encoded for the eye; a reflectance is linear.
    return (seamless(crop).astype(np.float32) / 255) ** np.float32(2.2)


def _draw_shake(generator: np.random.Generator, seconds: Float64[np.ndarray, "t"]) -> Float64[np.ndarray, "t 4 4"]:
    """Small motions in the camera's axes: a slow roll, and the tremor of a hand in every direction."""
    roll = swing(generator, seconds, 0.02, 0.12, 0.1, 0.5) + swing(generator, seconds, 0.002, 0.01, 3.0, 8.0)
    yaw, pitch = (swing(generator, seconds, 0.002, 0.012, 3.0, 8.0) for _ in range(2))
    position = np.stack([swing(generator, seconds, 0.002, 0.01, 2.0, 6.0) for _ in range(3)], axis=-1)
    turn = np.tile(np.eye(4), (len(seconds), 1, 1))
    turn[:, 0, 0], turn[:, 0, 1] = np.cos(roll), -np.sin(roll)
    turn[:, 1, 0], turn[:, 1, 1] = np.sin(roll), np.cos(roll)
    return pose(yaw, pitch, position) @ turn


def _bend(solid: Solid, seconds: Float64[np.ndarray, "t"], generator: np.random.Generator) -> list[Solid]:
    """A moving solid that squashes and stretches on its foot, its volume the same, with two arms; others unchanged."""
    if solid.object_id == 0:
        return [solid]
    height = np.exp(swing(generator, seconds, 0.05, 0.2, 0.5, 1.5))
    stretch = np.tile(np.eye(4), (len(seconds), 1, 1))
    stretch[:, 0, 0] = stretch[:, 2, 2] = height**-0.5
    stretch[:, 1, 1] = height
    stretch[:, 1, 3] = solid.half[1] * (1 - height)
    body = replace(solid, local_to_world=solid.local_to_world @ stretch)
    return [body] + [_draw_arm(body, side, seconds, generator) for side in (-1, 1)]


def _draw_arm(body: Solid, side: int, seconds: Float64[np.ndarray, "t"], generator: np.random.Generator) -> Solid:
    """A box that hangs from the upper end of one side of `body`, and swings there as an arm does."""
    half = np.array([0.05, 0.45 * body.half[1], 0.05])
    still = np.zeros(len(seconds))
    shoulder = np.array([side * (body.half[0] + half[0]), -0.5 * body.half[1], 0])
    hinge = pose(still, swing(generator, seconds, 0.3, 1.0, 0.4, 1.2), np.tile(shoulder, (len(seconds), 1)))
    hanging = pose(still, still, np.tile([0, half[1], 0], (len(seconds), 1)))
    return Solid("box", half, draw_texture(generator), body.local_to_world @ hinge @ hanging, body.object_id)
