"""Samples rendered while training: models from a catalogue, the same clips for the same numbers, exact resume."""

import json
import pickle
import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from steadydepth.config import Config, SourceConfig
from steadydepth.data import rendered
from steadydepth.data.checks import check_data
from steadydepth.data.commands import make
from steadydepth.data.geometric import View
from steadydepth.data.rendered import CLIPS_AT_ONCE, RenderedSamples
from steadydepth.data.rendered_cameras import view_clips
from steadydepth.data.samples import Augmentation
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.files import tensors
from steadydepth.ops.photometric import Photometric, augment_clips, blur
from steadydepth.synthetic.assets import _simplify, load_assets, pack_assets
from steadydepth.training.loop import train
from steadydepth.training.samples import open_samples

SIZE = {"length": 2, "height": 32, "width": 48}

CUBE = "\n".join(
    [f"v {x} {y} {z}" for x in (0, 1) for y in (0, 2) for z in (0, 4)]
    + ["vt 0 0", "vt 1 0", "vt 1 1", "usemtl wood"]
    + [f"f {a}/1 {b}/2 {c}/3" for a, b, c in ((1, 2, 4), (1, 4, 3), (5, 6, 8), (5, 8, 7), (1, 2, 6), (1, 6, 5))]
)
PROPERTIES = """# a comment
id=Test
license=CC0 1.0
id#1=crate
name#1=Crate
category#1=Living room
model#1=/models/crate.obj
width#1=50
depth#1=100
height#1=200
creator#1=Someone
id#2=broken
name#2=Broken
model#2=/models/missing.obj
width#2=10
depth#2=10
height#2=10
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    wood = np.zeros((8, 8, 3), np.uint8)
    wood[..., 2] = 200
    with zipfile.ZipFile(folder / "test.sh3f", "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", PROPERTIES)
        archive.writestr("models/crate.obj", f"mtllib crate.mtl\n{CUBE}\n")
        archive.writestr("models/crate.mtl", "newmtl wood\nKd 1 1 1\nmap_Kd wood.png\n")
        archive.writestr("models/wood.png", cv2.imencode(".png", wood)[1].tobytes())
    pack_assets(folder / "assets.npz", folder)
    return folder / "assets.npz"


@pytest.fixture
def few(monkeypatch) -> int:
    """Clips that are rendered at once, fewer than in use; processes that render ahead would not know of it."""
    monkeypatch.setattr(rendered, "CLIPS_AT_ONCE", 2)
    return 2


def samples(
    packed: Path | None = None, *, seed: int = 1, numbers: range = range(8), flip: bool = True, **options
) -> RenderedSamples:
    chosen = {"seed": seed, "numbers": numbers, **SIZE, **options}
    augmentation = Augmentation(flip=flip, photometric=Photometric(noise=0.02))
    return RenderedSamples(torch.device("cpu"), assets=packed, augmentation=augmentation, **chosen)


def test_models_have_their_size_their_texture_and_their_author(packed):
    assets = load_assets(packed)
    assert assets.names == ("Crate",)  # the other one has no file
    assert assets.credits == ("CC0 1.0; Someone",)
    corners = assets.corners.astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(np.ptp(corners, axis=0), [0.5, 2.0, 1.0], atol=1e-3)
    assert corners[:, 1].max() == pytest.approx(0, abs=1e-3)  # it stands on the ground
    texture = assets.textures[assets.texture[assets.material[0]]]
    assert texture[..., 0].min() == 200
    assert texture[..., 1:].max() == 0


def test_packing_tells_how_far_it_is(packed, tmp_path):
    told = []
    pack_assets(tmp_path / "again.npz", packed.parent, on_model=lambda *one: told.append(one))
    assert told == [(1, 2)]  # of two models the second has no file
    assert (tmp_path / "again.npz").read_bytes() == packed.read_bytes()


def test_what_is_no_catalogue_is_refused(tmp_path):
    with pytest.raises(InputError, match="apt install"):
        pack_assets(tmp_path / "x.npz", tmp_path)
    (tmp_path / "no.sh3f").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"no\.sh3f: cannot be read as a Sweet Home 3D catalogue"):
        pack_assets(tmp_path / "x.npz", tmp_path)
    for number, what in (("1", "no model in it can be read"), ("one", "cannot be read as a Sweet Home 3D catalogue")):
        with zipfile.ZipFile(tmp_path / "no.sh3f", "w") as archive:
            archive.writestr("PluginFurnitureCatalog.properties", f"model#{number}=/models/chair.obj")
        with pytest.raises(InputError, match=rf"no\.sh3f: {what}"):
            pack_assets(tmp_path / "x.npz", tmp_path)
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"x\.npz.*data assets"):
        load_assets(tmp_path / "x.npz")


def test_many_faces_become_few_and_keep_their_place():
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 60), [0.0]), -1)[:, :, 0]
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    faces = np.concatenate([np.stack(one, 2).reshape(-1, 3, 3) for one in ((a, b, c), (d, c, b))])
    kept, corners = _simplify(faces, 1500)
    assert len(kept) == len(corners) <= 1500
    assert np.abs(corners[..., 2]).max() == 0
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    assert 0.9 < area <= 1.0


def test_a_number_gives_the_same_sample_however_it_is_asked_for(packed, few):
    row = samples(packed)
    (batch,) = samples(packed).batches(8)
    for number in (0, 5):
        for name in ("frames", "depth", "valid", "motion", "visible"):
            assert torch.equal(row.sample(number)[name], batch[name][number]), name
    (other,) = samples(packed, seed=2).batches(8)
    assert not torch.equal(other["depth"], batch["depth"])
    later = next(samples(packed, numbers=range(4, 8)).batches(4))
    assert torch.equal(later["frames"], batch["frames"][4:])
    sent = pickle.loads(pickle.dumps(row))  # to a loader process
    assert torch.equal(sent.sample(5)["frames"], row.sample(5)["frames"])


def test_a_clip_that_is_shown_again_has_the_same_depth_in_another_light(few):
    row = samples(numbers=range(10 * few), repeats=2, flip=False)
    # Chunks 0, 2, 4 are fresh; 5 shows again what 0 showed.
    first, again = row.sample(0), row.sample(5 * few)
    assert torch.equal(first["depth"], again["depth"])
    assert not torch.equal(first["frames"], again["frames"])


def test_a_share_of_the_clips_is_one_frame_in_different_light(few):
    moving, held = (
        samples(numbers=range(10 * few), flip=False),
        samples(numbers=range(10 * few), flip=False, stills=0.5),
    )
    stills = 0
    for number in range(10 * few):
        one, before = held.sample(number), moving.sample(number)
        assert torch.equal(one["depth"][0], before["depth"][0])
        if torch.equal(one["depth"], before["depth"]) and torch.equal(one["motion"], before["motion"]):
            continue
        stills += 1
        assert one["is_still"]
        assert not before["is_still"]
        assert torch.equal(one["depth"], one["depth"][:1].expand_as(one["depth"]))
        assert not one["motion"].any()
        assert one["visible"].all()
        assert not torch.equal(one["frames"][0], one["frames"][1])
        assert (one["frames"][0] - one["frames"][1]).abs().mean() < 0.1  # noise, of the same picture
    assert 0.25 < stills / (10 * few) < 0.75


def test_clips_that_are_kept_are_read_again_and_shown_over_the_complete_row(tmp_path, few):
    numbers = range(12 * few)
    row = samples(numbers=numbers, seed=0, repeats=4, flip=False, keep=tmp_path)
    fresh = [row.sample(n * few)["depth"] for n in (0, 4, 8)]
    seen = [row.sample(n * few)["depth"] for n in (5, 6, 7, 9, 10, 11)]
    found = [next(i for i, one in enumerate(fresh) if torch.equal(one, depth)) for depth in seen]
    assert min(found) == 0  # what was rendered first comes again
    assert max(found[:3]) <= 1  # and nothing before its turn
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    written = [file.stat().st_mtime_ns for file in files]
    again = samples(numbers=numbers, seed=0, repeats=4, flip=False, keep=tmp_path)
    assert torch.equal(again.sample(5 * few)["depth"], seen[0])
    samples(numbers=range(few), seed=3, keep=tmp_path).sample(0)
    assert [file.stat().st_mtime_ns for file in files] == written
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4  # another seed has a folder of its own


def test_processes_that_render_ahead_give_the_same_batches(tmp_path):
    numbers, small = range(3 * CLIPS_AT_ONCE), {"height": 16, "width": 24}
    alone, ahead = (
        list(samples(numbers=numbers, repeats=2, keep=tmp_path / name, **options).batches(CLIPS_AT_ONCE))
        for name, options in (("alone", {**small, "workers": 0}), ("ahead", {**small, "workers": 1}))
    )
    assert len(ahead) == 3
    for one, other in zip(alone, ahead, strict=True):
        for name in ("frames", "depth", "motion", "visible"):
            assert torch.equal(one[name], other[name]), name


def test_a_process_that_cannot_render_says_why(tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be", encoding="utf-8")
    row = samples(numbers=range(CLIPS_AT_ONCE), keep=tmp_path / "kept", workers=1)
    with pytest.raises(InputError, match="kept"):
        list(row.batches(CLIPS_AT_ONCE))


def test_a_mirrored_clip_has_mirrored_motion(few):
    plain, mirrored = (samples(seed=2, numbers=range(few), flip=flip) for flip in (False, True))
    pairs = [(plain.sample(n), mirrored.sample(n)) for n in range(few)]
    turned = [(a, b) for a, b in pairs if not torch.equal(a["depth"], b["depth"])]
    assert 0 < len(turned) < few
    a, b = turned[0]
    assert torch.equal(a["depth"].flip(-1), b["depth"])
    torch.testing.assert_close(a["motion"].flip(2) * torch.tensor([-1.0, 1.0]), b["motion"])


def test_written_clips_pass_the_check_and_are_complete(packed, tmp_path, few):
    paths = make(tmp_path / "data", clips=2, frames=3, seed=4, assets=packed, height=48, width=64)
    assert check_data(tmp_path / "data") == []
    clip = open_sequence(paths[0]).read()
    assert clip.frames.shape == (3, 48, 64, 3)
    assert clip.depth is not None
    assert clip.flow is not None
    assert clip.K is not None
    assert clip.cam_to_world is not None
    # The points of a still world, moved by the poses, land where the flow says.
    y, x = np.mgrid[:48, :64].astype(np.float64)
    there = np.stack(((x - clip.K[0, 2]) / clip.K[0, 0], (y - clip.K[1, 2]) / clip.K[1, 1], np.ones_like(x)), -1)
    moved = np.linalg.inv(clip.cam_to_world[1]) @ clip.cam_to_world[0]
    seen = (there * clip.depth[0, ..., None]) @ moved[:3, :3].T + moved[:3, 3]
    landed = seen[..., :2] / seen[..., 2:] * np.diag(clip.K)[:2] + clip.K[:2, 2]
    is_still = (clip.objects[0] == 0) & clip.flow_valid[0]
    error = np.abs(landed - np.stack((x, y), -1) - clip.flow[0]).max(axis=-1)[is_still]
    assert np.median(error) < 0.05
    made = make(tmp_path / "data", clips=3, frames=3, seed=4, assets=packed, height=48, width=64)
    assert made[:2] == paths


def test_a_street_longer_than_16_bits_of_millimetres_is_written_in_coarser_steps(packed, tmp_path, monkeypatch, few):
    monkeypatch.setattr(rendered, "DEPTH_SCALE_M", 2e-5)  # as if the world were fifty times larger
    (path,) = make(tmp_path / "data", clips=1, frames=2, seed=4, assets=packed, height=48, width=64)
    stored = open_sequence(path).read().depth
    (truth,) = [samples(packed, seed=4, height=48, width=64, flip=False).clip(0, "x").depth[:2]]
    step_m = json.loads((path / "meta.json").read_text(encoding="utf-8"))["depth_scale_m"]
    assert step_m > 2e-5
    np.testing.assert_allclose(stored, truth, atol=step_m)


def config(folder: Path, packed: Path, **optim) -> Config:
    return Config.model_validate(
        {
            "data": {"sources": [{"synthetic": {"assets": packed}}], "clip_length": 2, "height": 32, "width": 48},
            "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 8, "claims": "scale"},
            "loss": {"relative_weight": 0.5},
            "optim": {"steps": 3, "batch": 2, **optim},
            "run": {"folder": folder, "checkpoint_every": 2, "device": "cpu"},
        }
    )


def test_a_run_on_rendered_clips_goes_on_where_it_was_cut(packed, tmp_path, monkeypatch, few):
    complete = train(config(tmp_path / "complete", packed))
    from steadydepth.training import loop

    save = loop.save_checkpoint

    def cut(content, folder):
        save(content, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", cut)
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "cut", packed))
    monkeypatch.setattr(loop, "save_checkpoint", save)
    train(config(tmp_path / "cut", packed))
    first, second = ((folder / "model.safetensors").read_bytes() for folder in (complete, tmp_path / "cut"))
    assert first == second
    assert "CC0 1.0" in (complete / "README.md").read_text(encoding="utf-8")


def test_a_full_disk_and_a_damaged_file_of_what_is_kept_are_named(tmp_path, monkeypatch, few):
    def fail(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as full:
        full.setattr(tensors, "save_file", fail)
        with pytest.raises(
            InputError, match=f"{re.escape(str(tmp_path))}.*cannot be written: .*No space left.*make room"
        ):
            samples(keep=tmp_path).sample(0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    samples(keep=tmp_path).sample(0)
    (kept,) = tmp_path.rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{re.escape(str(kept))}: cannot be read .*remove it"):
        samples(keep=tmp_path).sample(0)


def test_a_config_shows_as_many_rendered_stills_as_its_strides_say(packed, tmp_path):
    asked = config(tmp_path / "run", packed)
    assert open_samples(asked, 0, 0, 1).stills == 0
    with_stills = asked.model_copy(update={"data": asked.data.model_copy(update={"strides": (0, 0, 1)})})
    assert open_samples(with_stills, 0, 0, 1).stills == pytest.approx(2 / 3)


def test_a_rendered_clip_is_turned_with_all_that_is_known_of_it(few):
    whole = samples(flip=False)._render(0)
    turned = view_clips(vars(whole), lambda: View(turn_rad=np.pi))
    torch.testing.assert_close(turned["light"], whole.light.flip(-2, -1), atol=0.02, rtol=0)
    torch.testing.assert_close(turned["depth"], whole.depth.flip(-2, -1))
    torch.testing.assert_close(turned["motion"], -whole.motion.flip(-3, -2), atol=1e-4, rtol=1e-5)
    height, width = whole.depth.shape[-2:]
    column, row = (
        np.arange(width) + whole.motion[..., 0].numpy(),
        np.arange(height)[:, None] + whole.motion[..., 1].numpy(),
    )
    stays = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    seen, was_seen = turned["visible"].numpy()[..., ::-1, ::-1], whole.visible.numpy() & stays
    assert np.array_equal(seen[..., 1:-1, 1:-1], was_seen[..., 1:-1, 1:-1])  # at the edge the last digit decides
    zoomed = view_clips(vars(whole), lambda: View(turn_rad=np.pi / 4))
    assert torch.isnan(zoomed["depth"][..., 0, 0]).all()
    assert not zoomed["visible"][..., 0, 0].any()


def test_rendered_clips_are_zoomed_turned_coded_and_paired_as_the_config_says(packed, tmp_path, few):
    asked = config(tmp_path / "run", packed)
    keys = {"max_zoom": 2.0, "max_rotation_deg": 20.0, "max_crf": 51, "motion": "none", "flip": False}
    plain, changed = (
        open_samples(asked.model_copy(update={"data": asked.data.model_copy(update=keys)}), 0, 0, 1).sample(1)
        for keys in ({"flip": False}, keys)
    )
    assert not torch.equal(plain["depth"].nan_to_num(), changed["depth"].nan_to_num())
    assert torch.equal(changed["frames"] * 255, (changed["frames"] * 255).round())
    assert torch.equal(changed["valid"], changed["depth"].isfinite())
    assert {"motion", "visible"} == plain.keys() - changed.keys()
    with pytest.raises(
        ValueError, match="synthetic: rendered clips have their exact flow: motion must be flow or none"
    ):
        SourceConfig.model_validate({"synthetic": {}, "motion": "dis"})


def test_the_camera_of_a_batch_changes_light_as_asked():
    frames = torch.full((2, 3, 3, 32, 48), 0.4)
    same = augment_clips(frames, Photometric(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(same, frames)
    brighter = augment_clips(frames, Photometric(exposure=0.2), torch.Generator().manual_seed(0))
    assert torch.equal(brighter.amin((2, 3, 4)), brighter.amax((2, 3, 4)))
    assert brighter[:, :, 0, 0, 0].unique().numel() == 6
    noisy = augment_clips(frames, Photometric(noise=0.05), torch.Generator().manual_seed(0))
    assert (noisy - frames).std() == pytest.approx(0.05 * np.sqrt(0.2 + 1.6 * 0.4), rel=0.05)


def test_blur_keeps_the_light_and_spreads_a_point():
    frames = torch.zeros(1, 1, 3, 33, 33)
    frames[..., 16, 16] = 1
    blurred = blur(frames, torch.tensor([[1.0]]))
    torch.testing.assert_close(blurred.sum((-1, -2)), torch.ones(1, 1, 3))
    torch.testing.assert_close(blurred[0, 0, 0, 16, 17] / blurred[0, 0, 0, 16, 16], torch.tensor(np.exp(-0.5)).float())
    torch.testing.assert_close(blur(frames, torch.zeros(1, 1)), frames)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "either root"),
        ({"root": "x", "synthetic": {}}, "either root"),
        ({"synthetic": {}, "labels": "none"}, "rendered clips have depth"),
    ],
)
def test_a_source_is_a_folder_or_rendered(source, message):
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"data": {"sources": [source]}, "optim": {"steps": 1}, "run": {"folder": "x"}})


def test_an_image_for_textures_that_cannot_be_read_is_named_and_a_hidden_one_passed_over(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    (tmp_path / "._a.png").write_bytes(b"\0\5\26\7")  # what macOS leaves beside files on other disks
    assert len(samples(textures=tmp_path).world.free.texels) > len(samples().world.free.texels)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"b\.png: truncated PNG"):
        samples(textures=tmp_path)
