"""Depth of a shot in Blender: the compositor, and a relief of the first frame's size that moves with the depth.

    steadydepth predict shot/ --model M --out depth --format exr --keep-names
    blender --background --factory-startup --python blender_depth.py -- depth/shot/depth shot.blend
    blender shot.blend

Blender reads the channel Z of an EXR as *Depth* of the Image node alone, its colour is black. So the scene's compositor
takes that output, and for the relief, which needs a colour, writes the sequence once more, as 32-bit grey.
"""

import sys
from pathlib import Path

import bpy


def open_sequence(first: Path, n_frames: int) -> bpy.types.Image:
    """An image sequence whose numbers are read as they are."""
    image = bpy.data.images.load(str(first.resolve()))
    if n_frames > 1:
        image.source = "SEQUENCE"
    image.colorspace_settings.name = "Non-Color"
    return image


def number_of(path: Path) -> int:
    """The number at the end of the name of a frame."""
    digits = path.stem[len(path.stem.rstrip("0123456789")) :]
    return int(digits or 1)


def composite(scene: bpy.types.Scene, frames: list[Path]) -> bpy.types.Node:
    """The sequence in the compositor, with its depth as what is shown and rendered; returns its node."""
    first = number_of(frames[0])
    scene.use_nodes = True
    tree = scene.node_tree
    tree.nodes.clear()
    node = tree.nodes.new("CompositorNodeImage")
    node.image, node.label = open_sequence(frames[0], len(frames)), "depth"
    node.frame_start, node.frame_duration, node.frame_offset = first, len(frames), first - 1
    for kind, place in (("CompositorNodeComposite", (400, 100)), ("CompositorNodeViewer", (400, -100))):
        shown = tree.nodes.new(kind)
        shown.location = place
        tree.links.new(node.outputs["Depth"], shown.inputs["Image"])
    scene.render.resolution_x, scene.render.resolution_y = node.image.size
    scene.render.resolution_percentage = 100
    scene.frame_start = scene.frame_current = first
    scene.frame_end = first + len(frames) - 1
    scene.view_settings.view_transform = "Raw"
    return node


def write_grey(scene: bpy.types.Scene, folder: Path) -> list[Path]:
    """The depth of the compositor as a sequence of grey EXR, which textures can take."""
    tree = scene.node_tree
    output = tree.nodes.new("CompositorNodeOutputFile")
    output.base_path = str(folder)
    output.format.file_format, output.format.color_mode, output.format.color_depth = "OPEN_EXR", "RGB", "32"
    output.file_slots[0].path = "depth."
    node = next(node for node in tree.nodes if node.label == "depth")
    tree.links.new(node.outputs["Depth"], output.inputs[0])
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.filepath = str(folder / "render.")
    bpy.ops.render.render(animation=True)
    for path in folder.glob("render.*"):
        path.unlink()
    tree.nodes.remove(output)
    return sorted(folder.glob("depth.*.exr"))


def add_relief(scene: bpy.types.Scene, grey: list[Path]) -> bpy.types.Object:
    """A plane of 2 units' width, a vertex for each pixel, that lies as deep below itself as the depth says."""
    first = number_of(grey[0])
    width, height = scene.render.resolution_x, scene.render.resolution_y
    # A vertex in the middle of each pixel: the grid's border is half a pixel inside the image.
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=width - 1, y_subdivisions=height - 1, size=2, calc_uvs=True)
    relief = bpy.context.object
    relief.name = "relief"
    relief.scale = (1, height / width, 1)
    layer = relief.data.uv_layers.active.data
    for each in layer:
        u, v = each.uv
        each.uv = ((u * (width - 1) + 0.5) / width, (v * (height - 1) + 0.5) / height)
    texture = bpy.data.textures.new("depth", "IMAGE")
    texture.image = open_sequence(grey[0], len(grey))
    texture.image_user.frame_start, texture.image_user.frame_duration = first, len(grey)
    texture.image_user.frame_offset = first - 1
    texture.image_user.use_auto_refresh = True
    texture.use_clamp, texture.use_interpolation, texture.extension = False, False, "EXTEND"
    displace = relief.modifiers.new("depth", "DISPLACE")
    displace.texture, displace.texture_coords, displace.uv_layer = texture, "UV", relief.data.uv_layers.active.name
    displace.direction, displace.mid_level, displace.strength = "Z", 0.0, -1.0
    return relief


def main() -> None:
    folder, out = map(Path, sys.argv[sys.argv.index("--") + 1 :])
    frames = sorted(folder.glob("*.exr"), key=number_of)
    if not frames:
        raise SystemExit(f"{folder}: has no .exr: predict with --format exr")
    scene = bpy.context.scene
    composite(scene, frames)
    grey = write_grey(scene, out.resolve().with_suffix("") / "grey")
    for each in list(bpy.data.objects):
        if each.type == "MESH":
            bpy.data.objects.remove(each)
    add_relief(scene, grey)
    bpy.ops.wm.save_as_mainfile(filepath=str(out.resolve()))


if __name__ == "__main__":
    main()
