"""Images and video of a clip, of several models or predictions beside each other, each as it was scored."""

import logging
import tempfile
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image
from torch import nn

from steadydepth.data.sequence_folder import Sequence, open_sequence
from steadydepth.data.sequence_listing import find_sequences, name_of
from steadydepth.evaluation.alignment import Fitter, Prediction
from steadydepth.evaluation.footage import excerpt
from steadydepth.evaluation.sources import open_footage, open_stored, predict_sequence
from steadydepth.files.atomic_writes import new_file
from steadydepth.files.video_write import H264_SIDE, write_video
from steadydepth.inference.filters import choose_filter
from steadydepth.metrics.protocols import Protocol, choose_protocol, kb_part, valid_labels
from steadydepth.models.declare import claims_of
from steadydepth.ops.alignment import Alignment
from steadydepth.ops.resize import resize_depth
from steadydepth.reports.page import (
    COLUMN_FRAMES,
    GAP,
    ClipView,
    Images,
    MapView,
    colour_alike,
    shown_frames,
    side_by_side,
    video_url,
    view_clip,
    view_edges,
    view_errors,
)
from steadydepth.reports.run_charts import draw_clip
from steadydepth.types import Claims, Clip, InputError

LOG = logging.getLogger(__name__)
SHOWN_SIDE = 256  # pixels: the frames of videos are enlarged to about this, or they could not be watched
LONGEST = 150  # frames of a clip that the page shows
MOST_PIXELS = 50_000_000  # of those frames together, 24 of 1920 x 1080: all are in memory, for each depth in float64


@dataclass(frozen=True)
class Shown:
    """A model, or a folder of predictions, and the report of its evaluation."""

    source: nn.Module | Path
    report: Mapping[str, Any]


def choose_clips(data: Path, scored: Container[str]) -> list[Sequence]:
    """Of the scored clips the first of a fixed camera and the first of a moving one; else the first two.

    Raises:
        InputError: one of them is damaged, or there is none.
    """
    sequences = [open_sequence(path) for path in find_sequences(data) if name_of(path) in scored]
    first: dict[bool | None, Sequence] = {}
    for sequence in sequences:
        first.setdefault(sequence.fixed_camera, sequence)
    return list(first.values())[:2] if len(first) > 1 else sequences[:2]


def view_sequence(sequence: Sequence, shown: Mapping[str, Shown], moving_image: Path) -> list[ClipView]:
    """What the page shows of a sequence, a view for each way in which protocols take its frames.

    A protocol may cut frames, or leave some out: what was scored is shown, and the view says so. Sources without depth
    for each of its frames are left out.

    Args:
        sequence: at most LONGEST of its frames are shown, and fewer of large ones.
        shown: evaluations by name.
        moving_image: gets input and depths of a labelled sequence, if it is not there.
    """
    groups: dict[tuple[str | None, int, int | None], dict[str, Shown]] = {}
    for name, one in shown.items():
        groups.setdefault(_taken(_protocol_of(one.report)), {})[name] = one
    views = [_view_alike(sequence, group, moving_image) for group in groups.values()]
    return [view for view in views if view is not None]


def _view_alike(sequence: Sequence, shown: Mapping[str, Shown], moving_image: Path) -> ClipView | None:
    """The view of evaluations that took the same frames; None where no source has depth for each of them."""
    protocol = _protocol_of(next(iter(shown.values())).report)
    try:
        clip = scored_frames(sequence, protocol)
    except InputError as error:
        LOG.warning("no images of %s: %s", sequence.name, error)
        return None
    depths = {}
    for name, one in shown.items():
        try:
            depths[name] = scored_depth(one, sequence, clip)
        except InputError as error:
            LOG.warning("no images of %s on %s: %s", name, sequence.name, error)
    if not depths:
        return None
    label = {} if clip.depth is None else {"label": clip.depth}
    coloured = colour_alike(label | {name: depth.astype(np.float32) for name, depth in depths.items()})
    videos = {"input": clip.frames} | coloured
    larger = _enlarge(videos)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        path = Path(temporary) / "clip.mp4"
        write_video(path, side_by_side(list(larger.values())), clip.fps)
        url = video_url(path)
    if clip.depth is not None and not moving_image.exists():
        kept = [video for name, video in larger.items() if name != "label"]
        first, *others = (Image.fromarray(image) for image in side_by_side(kept))
        with new_file(moving_image) as part:
            first.save(part, save_all=True, append_images=others, duration=round(1000 / clip.fps), loop=0, quality=70)
    charts = draw_clip(clip.name, {name: one.report for name, one in shown.items()})
    errors, edges = _view_against_label(depths, shown, clip)
    title = sequence.name
    if _taken(protocol) != _taken(choose_protocol("plain")):
        names = dict.fromkeys(_protocol_of(shown[name].report).name for name in depths)
        title += f", frames as taken by {', '.join(names)}"
    return view_clip(title, videos, url, errors=errors, edges=edges, charts=charts)


def _taken(protocol: Protocol) -> tuple[str | None, int, int | None]:
    """Which frames a protocol takes, and what of each."""
    return protocol.cut, protocol.stride, protocol.max_frames


def scored_frames(sequence: Sequence, protocol: Protocol) -> Clip:
    """The first frames that a protocol takes of a sequence, cut as it says, with their depth: LONGEST, or MOST_PIXELS.

    Raises:
        InputError: the protocol is for frames of another size, or a file is damaged.
    """
    footage = excerpt(open_footage(sequence.path), protocol)
    most = max(MOST_PIXELS // (footage.height * footage.width), COLUMN_FRAMES)
    n_frames = min(footage.n_frames, LONGEST, most)
    frames = np.stack(list(islice(footage.images(), n_frames)))
    clip = Clip(footage.name, frames, footage.fps / protocol.stride)
    if footage.depth is None:
        return clip
    depth, measured = zip(*map(footage.depth, range(n_frames)), strict=True)
    return replace(clip, depth=np.stack(depth), valid=np.stack(measured))


def _protocol_of(report: Mapping[str, Any]) -> Protocol:
    header = report["header"]
    return choose_protocol(header.get("protocol", "plain"), max_depth=header.get("max_depth"))


def scored_depth(shown: Shown, sequence: Sequence, clip: Clip) -> Float64[np.ndarray, "t h w"]:
    """Depth of the frames of a clip, at their size, aligned and cleaned as the report says this clip was.

    A clip that was not aligned, for want of a label, has depth of unknown scale, inverted where the model claims
    disparity.

    Args:
        shown: report and source of the predictions.
        sequence: that the clip is of.
        clip: its first frames, as `scored_frames` gives them for the protocol of the report.

    Raises:
        InputError: the prediction is missing, of another number or shape of frames, or of a part of each (BTS's crop
            of KITTI); or its filter is gone.
    """
    raw, claims = _depth_in_units_of_claims(shown, sequence, len(clip.frames))
    fitted = shown.report["clips"].get(clip.name, {})
    scale, shift = fitted.get("scale"), fitted.get("shift") or 0.0
    align = shown.report["header"]["align"]
    # Of predictions that claim different things, each was aligned by its own.
    fitter = Fitter(align if isinstance(align, str) else "auto", claims, _protocol_of(shown.report))
    for one in raw:
        fitter.count(one)
    fit = fitter.result(has_label=False)
    if scale is not None:
        fit = replace(fit, has_label=True, alignment=Alignment.of(scale, shift))
    return fit.depth(np.stack([resize_depth(one, *clip.frames.shape[1:3]) for one in raw.astype(np.float64)]))


def _depth_in_units_of_claims(
    shown: Shown, sequence: Sequence, n_frames: int
) -> tuple[Float32[np.ndarray, "t i j"], Claims]:
    """What was scored of the first frames, behind its filter, and what it claims to be."""
    source, header, protocol = shown.source, shown.report["header"], _protocol_of(shown.report)
    filter = choose_filter(header.get("filter"), header.get("strength"))
    footage = excerpt(open_footage(sequence.path), protocol)
    if not isinstance(source, Path):
        stop = None if filter.is_offline else n_frames  # there and back is from the end
        return predict_sequence(source, footage, filter=filter, stop=stop)[:n_frames], claims_of(source)
    stored = open_stored(source, sequence.path, protocol, filter=filter)
    if kb_part(protocol, (stored.height, stored.width), footage.height, footage.width):
        raise InputError(f"{source}: predicts a part of each frame, as {protocol.name} has it, and is not shown")
    prediction = Prediction(stored, footage, sequence.n_frames, protocol)
    prediction.check()
    return np.stack(list(islice(prediction.read(), n_frames))), stored.claims


def _view_against_label(
    depths: Mapping[str, Float64[np.ndarray, "t h w"]], shown: Mapping[str, Shown], clip: Clip
) -> tuple[MapView | None, MapView | None]:
    """|ln d - ln g|, and the edges lost and gained, in the frames that are shown, of each depth scored on this clip."""
    scored = {name: shown[name] for name in depths if clip.name in shown[name].report["clips"]}
    if clip.depth is None or not scored:
        return None, None
    measured = clip.depth > 0 if clip.valid is None else clip.valid
    protocol = _protocol_of(next(iter(scored.values())).report)
    middle = shown_frames(len(clip.frames))
    truth, valid = clip.depth[middle], valid_labels(clip.depth, measured, protocol)[middle]
    log_truth = np.log(np.where(valid, truth, 1).astype(np.float64))
    logs = {name: np.log(depths[name][middle]) for name in scored}
    errors = {name: np.abs(log - log_truth) for name, log in logs.items()}
    return view_errors(errors, valid), view_edges(logs, log_truth, valid)


def _enlarge(videos: Mapping[str, Images]) -> dict[str, UInt8[np.ndarray, "t high wide 3"]]:
    """The videos enlarged, or shrunk where side by side they would be wider than a video can be."""
    h, w = next(iter(videos.values())).shape[1:3]
    room = H264_SIDE // len(videos) - GAP
    factor = min(max(1, round(SHOWN_SIDE / max(h, w))), room / w)
    size, how = (int(w * factor), max(1, int(h * factor))), cv2.INTER_NEAREST if factor >= 1 else cv2.INTER_AREA
    return {
        name: np.stack([cv2.resize(image, size, interpolation=how) for image in images])
        for name, images in videos.items()
    }
