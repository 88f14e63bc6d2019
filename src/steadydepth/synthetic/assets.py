"""Furniture, people and vehicles of model catalogues, with their own textures, packed for the batched renderer."""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float16, Float32, Int64, UInt8, UInt16

from steadydepth.errors import InputError, import_extra
from steadydepth.files.atomic_writes import new_file
from steadydepth.files.damage import UNREADABLE, reading

TEXELS = 64  # texture side
MOST_FACES = 1500  # of a model; more are merged
# Where Debian's package puts its catalogues.
SWEETHOME3D = Path("/usr/share/sweethome3d/furniture")
_PLAIN = 0  # texture 0 is white: of materials with a colour alone
# Of catalogues that say nothing else: the licence file stands beside the models.
LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC BY 3.0, the Blend Swap contributors",
    "KatorLegaz": "CC BY 3.0 US, Andrew Kator and Jennifer Legaz",
    "Reallusion": "CC BY 3.0 US, Reallusion",
    "Scopia": "CC BY 3.0, Scopia Visual Interfaces Systems, s.l.",
}


@dataclass(frozen=True)
class Assets:
    """Models in one set of arrays: model i has the faces `first_face[i]` to `first_face[i + 1]`.

    In the axes of a model x points to its right, y down and z away from its front; it stands on y = 0, centred.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    credits: tuple[str, ...]  # licence and author of each model
    size_m: Float32[np.ndarray, "model 3"]  # width, height, depth
    first_face: Int64[np.ndarray, "model_and_one"]
    corners: Float16[np.ndarray, "face 3 3"]  # metres
    uv: Float16[np.ndarray, "face 3 2"]
    material: UInt16[np.ndarray, "face"]
    colour: Float32[np.ndarray, "material 3"]  # linear reflectance, multiplied with the texture's
    texture: Int64[np.ndarray, "material"]  # number of the texture; 0 is white
    textures: UInt8[np.ndarray, "texture texel texel 3"]  # encoded for the eye (sRGB)


def pack_assets(
    out: str | Path, *catalogues: str | Path, on_model: Callable[[int, int], None] = lambda done, of: None
) -> Assets:
    """Pack models with their textures, sizes and credits into one file, for the rendered world.

    Args:
        out: an .npz file.
        catalogues: Sweet Home 3D catalogues (.sh3f) or folders of them; without any, those of Debian's package
            `sweethome3d-furniture`, which has 820 models.
        on_model: called after each model that was read, with their number so far and the number in the catalogues.

    Returns: the models, as `load_assets(out)` reads them.

    Raises:
        InputError: there is no catalogue, one cannot be read or holds no model that can, or trimesh is not installed.
    """
    paths = [Path(one) for one in catalogues] or [SWEETHOME3D]
    files = [one for path in paths for one in (sorted(path.glob("*.sh3f")) if path.is_dir() else [path])]
    if not files:
        raise InputError(
            f"{', '.join(map(str, paths))}: no .sh3f catalogue; on Debian and Ubuntu: apt install sweethome3d-furniture"
        )
    packer = _Packer()
    listed = {file: _list_models(file) for file in files}
    count = sum(len(numbers) for _, numbers in listed.values())
    models = chain.from_iterable(_read_catalogue(file, *found) for file, found in listed.items())
    for done, model in enumerate(models, 1):
        packer.add(*model)
        on_model(done, count)
    if not packer.models:
        raise InputError(f"{', '.join(map(str, files))}: no model in it can be read: give other catalogues")
    assets = packer.finish()
    with new_file(Path(out)) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **vars(assets))
    return assets


def load_assets(path: Path) -> Assets:
    """The models that `pack_assets` wrote; InputError when there is no such file, or it holds something else."""
    with reading(path, "as packed models", f"`steadydepth data assets {path}` writes them"), np.load(path) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in Assets.__dataclass_fields__}
    return Assets(**arrays | {name: tuple(map(str, arrays[name])) for name in ("names", "categories", "credits")})


class _Packer:
    """Gathers models one after another."""

    def __init__(self) -> None:
        self.models: list[tuple[str, str, str, np.ndarray, int]] = []
        self.faces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.materials: dict[tuple[float, ...], int] = {}
        self.textures: dict[bytes, int] = {np.full((TEXELS, TEXELS, 3), 255, np.uint8).tobytes(): _PLAIN}

    def add(self, name: str, category: str, credit: str, size_m: np.ndarray, scene: Any, turn: np.ndarray) -> None:
        parts = [self._part(mesh, turn) for mesh in scene.dump() if len(mesh.faces)]
        if not parts:
            return
        corners, uv, material = (np.concatenate(one) for one in zip(*parts, strict=True))
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        # OBJ has y up; the world's points down, and then the front of a model looks at the camera.
        scaled = (corners - (low + high) / 2) / np.maximum(high - low, 1e-9) * size_m * np.array([1, -1, -1])
        scaled[..., 1] -= size_m[1] / 2
        kept, scaled = _simplify(scaled, MOST_FACES)
        self.faces.append((scaled.astype(np.float16), uv[kept].astype(np.float16), material[kept].astype(np.uint16)))
        self.models.append((name, category, credit, size_m, len(scaled)))

    def _part(self, mesh: Any, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        corners = mesh.vertices[mesh.faces] @ turn.T
        uv = getattr(mesh.visual, "uv", None)
        uv = np.zeros((len(mesh.faces), 3, 2)) if uv is None or len(uv) == 0 else np.asarray(uv)[mesh.faces]
        uv = uv - np.floor(uv.min(axis=1, keepdims=True))  # textures repeat, and 16 bits hold small numbers best
        return corners, np.clip(uv, 0, 64), np.full(len(mesh.faces), self._material(mesh.visual))

    def _material(self, visual: Any) -> int:
        material = getattr(visual, "material", None)
        image = getattr(material, "image", None)
        texture, colour = _PLAIN, np.array([200, 200, 200])
        if image is not None:
            small = cv2.resize(np.asarray(image.convert("RGB")), (TEXELS, TEXELS), interpolation=cv2.INTER_AREA)
            texture, colour = self.textures.setdefault(small.tobytes(), len(self.textures)), np.array([255, 255, 255])
        elif material is not None:
            colour = np.asarray(material.diffuse[:3])
        key = (texture, *np.round((colour / 255) ** 2.2, 3))
        return self.materials.setdefault(key, len(self.materials))

    def finish(self) -> Assets:
        names, categories, credits, sizes, counts = zip(*self.models, strict=True)
        corners, uv, material = (np.concatenate(one) for one in zip(*self.faces, strict=True))
        materials = np.array(list(self.materials))
        return Assets(
            names=names,
            categories=categories,
            credits=credits,
            size_m=np.stack(sizes).astype(np.float32),
            first_face=np.concatenate(([0], np.cumsum(counts))),
            corners=corners,
            uv=uv,
            material=material,
            colour=materials[:, 1:].astype(np.float32),
            texture=materials[:, 0].astype(np.int64),
            textures=np.stack([np.frombuffer(one, np.uint8).reshape(TEXELS, TEXELS, 3) for one in self.textures]),
        )


def _simplify(corners: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the corners that fall into one cell of a grid, as coarse as it must be for `most` faces or fewer.

    Vertex clustering (Rossignac and Borrel 1993): thin legs and rims stay, where smoother methods remove them first.

    Returns: which faces are left, and their corners.
    """
    flat, kept = corners.reshape(-1, 3), np.arange(len(corners))
    low, extent = flat.min(axis=0), float(np.ptp(flat, axis=0).max())
    for cells in (512, 192, 128, 96, 64, 48, 32, 24, 16):
        _, cell = np.unique(_number(np.floor((flat - low) / extent * cells).astype(np.int64)), return_inverse=True)
        count = np.bincount(cell)
        middle = np.stack([np.bincount(cell, flat[:, axis]) for axis in range(3)], axis=-1) / count[:, None]
        faces = cell.reshape(-1, 3)
        ordered = np.sort(faces, axis=1)
        is_thick = (ordered[:, 0] != ordered[:, 1]) & (ordered[:, 1] != ordered[:, 2])
        _, first = np.unique(_number(ordered), return_index=True)
        kept = np.intersect1d(np.flatnonzero(is_thick), first)
        merged = middle[faces]
        if len(kept) <= most:
            break
    return kept[:most], merged[kept[:most]]


def _number(rows: Int64[np.ndarray, "n 3"]) -> Int64[np.ndarray, "n"]:
    """One number for each row, in the order of the rows, which NumPy sorts ten times as fast. None is negative."""
    most = int(rows.max()) + 1
    return (rows[:, 0] * most + rows[:, 1]) * most + rows[:, 2]


def _list_models(file: Path) -> tuple[dict[str, str], list[int]]:
    """What a catalogue says of its models, and their numbers."""
    kind, way_out = "as a Sweet Home 3D catalogue", "give .sh3f files, or folders of them"
    with reading(file, kind, way_out), zipfile.ZipFile(file) as archive:
        lines = archive.read("PluginFurnitureCatalog.properties").decode("latin-1").splitlines()
        pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        entries = {key.strip(): value.strip() for key, value in pairs}
        return entries, sorted({int(key.split("#")[1]) for key in entries if key.startswith("model#")})


def _read_catalogue(
    file: Path, entries: dict[str, str], numbers: list[int]
) -> Iterator[tuple[str, str, str, np.ndarray, Any, np.ndarray]]:
    """Name, category, credit, size in metres, trimesh scene and rotation of each model that can be read."""
    trimesh = import_extra("trimesh", "meshes", "models need trimesh")
    with zipfile.ZipFile(file) as archive:
        for number in numbers:
            credit = LICENCES.get(file.stem, entries.get("license", "unknown"))
            author, category = (entries.get(f"{key}#{number}", "") for key in ("creator", "category"))
            turn = entries.get(f"modelRotation#{number}", "1 0 0 0 1 0 0 0 1").split()
            try:
                name, path = entries[f"name#{number}"], entries[f"model#{number}"].lstrip("/")
                size = [float(entries[f"{side}#{number}"]) / 100 for side in ("width", "height", "depth")]
                folder = str(PurePosixPath(path).parent)
                beside = {one: BytesIO(archive.read(one)) for one in archive.namelist() if one.startswith(folder)}
                resolver = trimesh.resolvers.ZipResolver(beside, namespace=folder)
                scene = trimesh.load_scene(BytesIO(archive.read(path)), file_type="obj", resolver=resolver)
                rotation = np.array(turn, np.float64).reshape(3, 3)
            except UNREADABLE:
                continue  # a model that cannot be read costs the others nothing
            yield name, category, f"{credit}; {author}", np.maximum(np.array(size), 0.01), scene, rotation
