"""The camera of `photometric` for clips on a device: the same parts in the same order, but for compression."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from steadydepth.ops.photometric import Photometric
from steadydepth.types import Frames

_REACH = 4  # pixels of a blur to each side


def augment_clips(frames: Frames, photometric: Photometric, generator: torch.Generator) -> Frames:
    """Each frame as another exposure, white balance, gamma, vignetting and noise would have shown it.

    Args:
        frames: RGB in [0, 1], on any device.
        photometric: standard deviations; `jpeg` is not used.
        generator: on the CPU; the noise of each pixel is drawn on the device, from a seed of it.

    Returns: frames in [0, 1].
    """
    b, t, _, height, width = frames.shape
    device = frames.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(b, t, *shape, generator=generator).to(device)

    if photometric.blur > 0:
        frames = blur(frames, photometric.blur * normal().abs())
    log_gain = photometric.exposure * normal(1, 1, 1) + photometric.white_balance * normal(3, 1, 1)
    if photometric.vignetting > 0:
        y = torch.linspace(0, torch.pi, height, device=device).cos()[:, None]
        x = torch.linspace(0, torch.pi, width, device=device).cos()
        across, down, both = normal(3, 1, 1, 1).unbind(dim=2)
        log_gain = log_gain + photometric.vignetting * (across * x + down * y + both * x * y)
    lit = (frames * log_gain.exp()).clamp(0, 1) ** (photometric.gamma * normal(1, 1, 1)).exp()
    if photometric.noise > 0:
        of_pixels = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        noise = torch.randn(lit.shape, device=device, generator=of_pixels)
        lit = lit + photometric.noise * (0.2 + 1.6 * lit).sqrt() * noise
    return lit.clamp(0, 1)


def blur(frames: Frames, sigma_px: Float[Tensor, "b t"]) -> Frames:
    """Gaussian blur of each frame; the kernel reaches 4 px, and sigma is cut off at 2 px."""
    b, t = sigma_px.shape
    place = torch.arange(-_REACH, _REACH + 1, device=frames.device)
    kernel = torch.exp(-0.5 * (place / sigma_px.flatten().clamp(1e-3, 2)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)[:, None, None]
    rows = F.pad(frames.reshape(1, b * t * 3, *frames.shape[-2:]), (_REACH,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(rows, kernel, groups=b * t * 3), kernel.mT, groups=b * t * 3)
    return blurred.view_as(frames)
