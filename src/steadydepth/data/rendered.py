"""Samples that are rendered while training: no files, and no clip twice."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from steadydepth.data.call_cache import CallCache
from steadydepth.data.geometric import mirror
from steadydepth.data.kept_renders import Render, read_render, write_render
from steadydepth.data.rendered_cameras import code_clips, hold, photograph, view_clips
from steadydepth.data.samples import NO_AUGMENTATION, Augmentation, Item
from steadydepth.files.pools import make_ahead
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.ops.photometric import Photometric, augment_clips
from steadydepth.synthetic.assets import load_assets, pack_assets
from steadydepth.synthetic.batched import Rendered, World
from steadydepth.synthetic.device import check_device
from steadydepth.synthetic.effects import find_textures
from steadydepth.synthetic.places import FPS, Scenes, draw_scenes
from steadydepth.synthetic.textures import read_textures
from steadydepth.synthetic.world import FRAME_AUGMENTATION
from steadydepth.types import Clip

DEPTH_SCALE_M = 0.001  # 16 bits reach 65 m; where a street is longer its clips have coarser steps
WORLD = 4  # counted up when the same numbers give other clips, so that kept ones are of one world
CLIPS_AT_ONCE = 16  # that are drawn and rendered together; what a sample is depends on it


class RenderedSamples(Dataset[Item]):
    """Samples `numbers` of an endless row of rendered clips: what sample n shows follows from (seed, source, n) alone.

    Args:
        device: of torch, where clips are rendered.
        assets: file of models that `pack_assets` wrote; None leaves simple bodies.
        textures: folder of images that surfaces take as well.
        repeats: times that each clip is shown, by another camera each time.
        keep: folder that takes what is rendered. What is in it is read in place of rendering, and `repeats` shows
            clips from the first on again, where without it they are of the latest.
        workers: processes that render ahead into `keep`, on the CPU.
        stills: share of clips that are their first frame throughout, in another light each time.
        motion: `flow`, which is exact; `none` leaves it out, and pairs are at the same pixel.
        length: frames of a clip.
        height: rows of a frame.
        width: columns.
        augmentation: what is drawn anew for each sample, on top of one draw of the camera for each clip.
        seed: of the run.
        numbers: which samples.
        source: number of this row in a run of several.

    Raises:
        InputError: the models or the images cannot be read.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        assets: Path | None = None,
        textures: Path | None = None,
        repeats: int = 1,
        keep: Path | None = None,
        workers: int = 0,
        stills: float = 0.0,
        motion: str = "flow",
        length: int,
        height: int,
        width: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int,
        numbers: Sequence[int] = (),
        source: int = 0,
    ) -> None:
        images = None if textures is None else read_textures(find_textures(textures))
        self.world = World(device, None if assets is None else load_assets(assets), images)
        self.length, self.height, self.width, self.motion = length, height, width, motion
        self.augmentation, self.seed, self.numbers, self.source = augmentation, seed, numbers, source
        self.repeats, self.keep, self.workers, self.stills = repeats, keep, workers, stills
        # What a process that renders ahead needs to make the same clips.
        self._same = {
            "assets": assets, "textures": textures, "length": length, "height": height, "width": width,
            "seed": seed, "source": source, "keep": keep,
        }  # fmt: skip
        self.clips: list[Any] = []  # none that could be listed
        self._chunk = CallCache(self._photographed, 2)
        self._clips = CallCache(self._render, 2 * repeats if keep is None else 1)

    def __len__(self) -> int:
        return len(self.numbers)

    def frames_to_watch(self, count: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """The first clips of the row."""
        return [_in_bytes(self._row(number)["frames"]).numpy() for number in range(count)]

    def describe(self, number: int) -> dict[str, Any]:
        """What makes sample `number` again."""
        return {"rendered": number, "seed": self.seed}

    def __getitem__(self, item: int) -> Item:
        return self.sample(self.numbers[item])

    def sample(self, number: int) -> Item:
        """Sample `number` of the row, on the CPU; frames are bytes where no light is drawn, as of `augment_sample`."""
        row = self._row(number)
        if self.augmentation.photometric == Photometric():
            row["frames"] = _in_bytes(row["frames"])
        return row | {"labels": "depth", "source": self.source}

    def _row(self, number: int) -> dict[str, Tensor]:
        chunk = self._chunk(number // CLIPS_AT_ONCE)
        return {name: part[number % CLIPS_AT_ONCE].cpu() for name, part in chunk.items()}

    def clip(self, number: int, name: str) -> Clip:
        """Sample `number` as a clip with all that is known of it."""
        chunk, row = divmod(number, CLIPS_AT_ONCE)
        rendered, scenes = self._clips(chunk), self._scenes(chunk)
        focal = float(scenes.focal_px[row]) * self.width
        # The label of a pixel is that of the first of its rays, a quarter of a pixel up and left of its middle.
        K = np.array([[focal, 0, (self.width - 0.5) / 2], [0, focal, (self.height - 0.5) / 2], [0, 0, 1]])
        poses = scenes.cam_to_world[row].double().numpy()

        def part(name: str) -> np.ndarray:
            return getattr(rendered, name)[row].cpu().numpy()

        return Clip(
            name=name,
            frames=_in_bytes(self._chunk(chunk)["frames"][row]).cpu().numpy(),
            fps=FPS,
            depth=part("depth").astype(np.float32),
            valid=np.isfinite(part("depth")),
            objects=part("objects").astype(np.uint8),
            flow=part("flow").astype(np.float32),
            flow_valid=part("flow_valid") & (np.abs(part("flow")) < 500).all(axis=-1),
            K=K,
            cam_to_world=poses,
            fixed_camera=bool(np.allclose(poses, poses[0])),
        )

    def batches(self, batch: int) -> Iterator[Item]:
        """The samples in order, `batch` at a time, on the device that renders them."""
        ahead: AbstractContextManager[Callable[[int], None]] = nullcontext(lambda number: None)
        if self.keep and self.workers:
            shown = dict.fromkeys(self._shown(number // CLIPS_AT_ONCE) for number in self.numbers)
            wanted = [clips for clips in shown if not self._file(clips).is_file()]
            ahead = make_ahead(_begin_rendering, (self._same,), wanted, self.workers)
        with ahead as wait_for:
            for first in range(0, len(self.numbers) - batch + 1, batch):
                numbers = self.numbers[first : first + batch]
                chunks = list(dict.fromkeys(number // CLIPS_AT_ONCE for number in numbers))
                for chunk in chunks:
                    wait_for(self._shown(chunk))
                parts = [self._chunk(chunk) for chunk in chunks]
                places = [chunks.index(n // CLIPS_AT_ONCE) * CLIPS_AT_ONCE + n % CLIPS_AT_ONCE for n in numbers]
                rows = torch.tensor(places, device=self.world.device)
                joined = {name: torch.cat([part[name] for part in parts])[rows] for name in parts[0]}
                yield joined | {"labels": ("depth",) * batch, "source": (self.source,) * batch}

    @torch.no_grad()
    def _render(self, clips: int) -> Rendered:
        return self.world.render(self._scenes(clips), height=self.height, width=self.width)

    def _shown(self, chunk: int) -> int:
        """Which clips a chunk shows: every `repeats`-th chunk new ones, the others such as were shown before.

        With `keep` any of them; without it a late one, which is still in memory, though not that of the chunk before.
        """
        fresh, again = divmod(chunk, self.repeats)
        if again and self.keep is not None:
            return self._seed(chunk, 2) % (fresh + 1)
        return max(fresh - 2 * again, 0)

    def _parts(self, clips: int) -> dict[str, Tensor]:
        if self.keep is None:
            return vars(self._clips(clips))
        self.keep_clips(clips)
        return read_render(self._file(clips), self.world.device)

    def keep_clips(self, clips: int) -> None:
        """Render the clips of this number into `keep`, unless they are there."""
        if not self._file(clips).is_file():
            write_render(self._file(clips), self._clips(clips))

    def _file(self, clips: int) -> Path:
        assert self.keep is not None
        return self.keep / self._name / f"{clips:07d}.safetensors"

    @cached_property
    def _name(self) -> str:
        """Of the folder of all clips that are rendered like these: another seed, size or pool has another one."""
        like = hashlib.sha256(repr((WORLD, self.length, self.height, self.width, self.seed, self.source)).encode())
        for part in (self.world.corners, self.world.own.texels, self.world.free.texels):
            like.update(part.cpu().numpy().tobytes())
        return like.hexdigest()[:16]

    def _scenes(self, clips: int) -> Scenes:
        return draw_scenes(self._seed(clips), self.world.pool, n_scenes=CLIPS_AT_ONCE, n_frames=self.length)

    def _seed(self, *of: int) -> int:
        return int(np.random.SeedSequence((self.seed, self.source, *of)).generate_state(1, np.uint64)[0] >> 2)

    @torch.no_grad()
    def _photographed(self, chunk: int) -> dict[str, Tensor]:
        """Clips in the light of their cameras."""
        rendered = self._parts(self._shown(chunk))
        generator = torch.Generator().manual_seed(self._seed(chunk, 1))
        is_still = torch.zeros(CLIPS_AT_ONCE, dtype=torch.bool)
        if self.stills:
            is_still = torch.rand(CLIPS_AT_ONCE, generator=generator) < self.stills
            rendered = hold(rendered, is_still)
        draws, augmentation = np.random.default_rng(self._seed(chunk, 3)), self.augmentation
        if augmentation.has_views:
            rendered = view_clips(rendered, partial(augmentation.draw_view, draws))
        light = photograph(rendered["light"], generator)
        frames = augment_clips(light, augmentation.photometric, generator).movedim(2, -1)
        if augmentation.max_crf:
            frames = code_clips(frames, [int(draws.integers(augmentation.max_crf + 1)) for _ in frames])
        parts = {"frames": frames, "depth": rendered["depth"], "valid": torch.isfinite(rendered["depth"])}
        if self.motion != "none":
            parts |= {"motion": rendered["motion"], "visible": rendered["visible"]}
        if augmentation.flip:
            is_mirrored = (torch.rand(CLIPS_AT_ONCE, generator=generator) < 0.5).to(frames.device)
            for name, part in parts.items():
                chosen = is_mirrored.view(-1, *(1,) * (part.ndim - 1))
                parts[name] = torch.where(chosen, mirror(name, part, columns=3), part)
        return parts | {"is_still": is_still.to(frames.device)}


def _in_bytes(frames: Tensor) -> Tensor:
    return (frames * 255).round().byte()


def _begin_rendering(same: dict[str, Any]) -> Render:
    return RenderedSamples(torch.device("cpu"), **same).keep_clips


def make_rendered(
    root: Path,
    *,
    n_clips: int,
    seed: int,
    assets: str | Path,
    n_frames: int = 12,
    height: int = 192,
    width: int = 256,
    textures: Path | None = None,
    device: str | None = None,
    on_clip: Callable[[Path], None] = lambda path: None,
) -> list[Path]:
    """Write `n_clips` sequence folders of rooms, tables, clutter and streets, with exact depth, flow and poses.

    A clip that is there already is kept. Clips of one seed are the same however many are asked for.

    Args:
        root: folder that gets the sequence folders.
        n_clips: number of clips.
        seed: of all of them; another seed gives other clips.
        assets: file of models that `pack_assets` wrote; or `sweethome3d`, the catalogues of Debian's package, which are
            packed into `root/.assets.npz` first.
        n_frames: of a clip, at least 2, at 15 frames a second.
        height: rows.
        width: columns.
        textures: folder of images that surfaces take as well.
        device: of torch; None is the CPU.
        on_clip: called with each folder as it is written.

    Returns: the folders.

    Raises:
        InputError: the models or the images cannot be read, or the device cannot be used.
    """
    place = torch.device("cpu") if device is None else check_device(device)
    root.mkdir(parents=True, exist_ok=True)
    if str(assets) == "sweethome3d":
        packed = root / ".assets.npz"
        if not packed.is_file():
            pack_assets(packed)
        assets = packed
    samples = RenderedSamples(
        place, assets=Path(assets), textures=textures, length=n_frames, height=height, width=width,
        augmentation=Augmentation(photometric=FRAME_AUGMENTATION), seed=seed,
    )  # fmt: skip
    credits = sorted({one.split(";")[0] for one in load_assets(Path(assets)).credits})
    source = f"steadydepth synthetic world, with models under {'; '.join(credits)}"
    names = [f"rendered_{seed}_{number:06d}" for number in range(n_clips)]
    for number, name in enumerate(names):
        if not (root / name / "meta.json").exists():
            clip = samples.clip(number, name)
            assert clip.depth is not None
            step_m = DEPTH_SCALE_M * math.ceil(float(clip.depth.max()) / (65535 * DEPTH_SCALE_M))
            on_clip(write_sequence(root, clip, depth_scale_m=step_m, source=source, licence=None))
    return [root / name for name in names]
