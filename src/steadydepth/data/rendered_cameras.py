"""What a camera makes of rendered clips: it stands still, turns, exposes and codes, one draw for each clip."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.data.geometric import View, look
from steadydepth.files.video_write import recode
from steadydepth.ops.photometric import blur
from steadydepth.types import Frames


def hold(rendered: dict[str, Tensor], chosen: Bool[Tensor, "b"]) -> dict[str, Tensor]:
    """Of the chosen clips the first frame throughout: nothing moves, and nothing is hidden.

    Args:
        rendered: light, depth, motion and visible of clips, each (b, t or t - 1, ...).
        chosen: which clips.
    """
    held = {name: rendered[name][:, :1].expand_as(rendered[name]) for name in ("light", "depth")}
    held["motion"] = torch.zeros_like(rendered["motion"])
    held["visible"] = torch.ones_like(rendered["visible"])
    chosen = chosen.to(rendered["light"].device)
    return {
        name: torch.where(chosen.view(-1, *(1,) * (one.ndim - 1)), one, rendered[name]) for name, one in held.items()
    }


def view_clips(rendered: dict[str, Tensor], draw: Callable[[], View]) -> dict[str, Tensor]:
    """Clips as the cameras of views would have taken them; depth is NaN where they see nothing that was rendered.

    Args:
        rendered: light, depth, motion and visible of clips, as of `hold`.
        draw: gives the view of the next clip.
    """
    seen: dict[str, list[np.ndarray]] = {name: [] for name in ("light", "depth", "motion", "visible")}
    height, width = rendered["depth"].shape[-2:]
    for light, depth, motion, visible in zip(*(rendered[name].cpu() for name in seen), strict=True):
        lookup = look(draw(), height, width)
        seen["light"].append(np.moveaxis(lookup.frames(np.ascontiguousarray(light.movedim(1, -1).numpy())), -1, 1))
        seen["depth"].append(np.where(lookup.inside, lookup.nearest(depth.numpy()), np.float32(np.nan)))
        for name, part in zip(("motion", "visible"), lookup.motion(motion.numpy(), visible.numpy()), strict=True):
            seen[name].append(part)
    device = rendered["depth"].device
    return {name: torch.from_numpy(np.stack(parts)).to(device) for name, parts in seen.items()}


def code_clips(frames: Float[Tensor, "b t h w 3"], crfs: Sequence[int]) -> Float[Tensor, "b t h w 3"]:
    """Each clip after H.264 of that quality.

    Args:
        frames: RGB in [0, 1].
        crfs: constant rate factor of each clip, 0 (no loss) to 51.
    """
    in_bytes = (frames * 255).round().byte().cpu().numpy()
    coded = np.stack([recode(clip, crf=crf) for clip, crf in zip(in_bytes, crfs, strict=True)])
    return torch.from_numpy(coded).to(frames.device).float() / 255


def photograph(light: Frames, generator: torch.Generator) -> Frames:
    """One camera for each clip: exposure by the mean, tone curve, saturation, sometimes a negative, and sharpness.

    Args:
        light: (b, t, 3, h, w), at least 0, as it was rendered.
        generator: of the draws.

    Returns: RGB in [0, 1].
    """
    b, t = light.shape[:2]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (low + torch.rand(b, *shape, generator=generator) * (high - low)).view(b, *(1,) * 4).to(light.device)

    bright = light.mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-4)
    encoded = (light * uniform(0.12, 0.5) / bright).clamp(0, 1) ** (1 / uniform(1.7, 2.6))
    grey = encoded.mean(dim=2, keepdim=True)
    frames = (grey + (encoded - grey) * uniform(0.1, 1.2)).clamp(0, 1)
    # Some clips are negatives: what is dark must not come to mean far.
    frames = torch.where(uniform(0.0, 1.0) < 0.15, 1 - frames, frames)
    sigma = uniform(-0.8, 1.0).clamp(min=0).view(b, 1).expand(b, t)
    return blur(frames, sigma)
