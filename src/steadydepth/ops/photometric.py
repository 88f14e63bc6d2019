"""A camera and a light that change from frame to frame, drawn anew for each one.

There are two of them, of the same parts in the same order and with the same formulas. `augment_photometric` draws with
NumPy for one frame, in the loader processes, where frames are read, and compresses it, which needs a codec;
`augment_clips` draws with torch for clips that were rendered on a device and are not to leave it. A generator of one
library cannot draw what the other's draws.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from steadydepth.types import Frames

Values = TypeVar("Values", np.ndarray, Tensor)

_REACH = 4  # pixels of a blur of clips to each side


@dataclass(frozen=True)
class Photometric:
    """How strongly the camera and the light change from frame to frame; 0 switches a part off.

    Each is a standard deviation: of the log of exposure, of the log gain of each colour, of the log of gamma, of the
    log gain of a smooth field over the image (uneven light), of sensor noise at mid grey in [0, 1], and of the Gaussian
    blur in pixels. But for `jpeg`: up to that share of the JPEG quality is lost, differently in each frame.
    """

    exposure: float = 0.0
    white_balance: float = 0.0
    gamma: float = 0.0
    vignetting: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    jpeg: float = 0.0


def _smooth_field(generator: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "h w"]:
    """A random field of three low cosine waves with a standard deviation of about 1."""
    y = np.linspace(0, np.pi, height, dtype=np.float32)[:, None]
    x = np.linspace(0, np.pi, width, dtype=np.float32)[None, :]
    a, b, c = generator.normal(size=3).astype(np.float32)
    return _waves(a, b, c, np.cos(x), np.cos(y))


def _waves(across: Any, down: Any, both: Any, x: Values, y: Values) -> Values:
    """The cosines `x` and `y` of columns and rows, each with its amplitude, and both together with theirs."""
    return across * x + down * y + both * x * y


def _noise_variance(signal: Values) -> Values:
    """Of a sensor's noise, 1 at mid grey: shot noise grows with the signal, and some is read in the dark."""
    return 0.2 + 1.6 * signal


def augment_photometric(
    frame: Float32[np.ndarray, "h w 3"], photometric: Photometric, generator: np.random.Generator
) -> Float32[np.ndarray, "h w 3"]:
    """One frame, RGB in [0, 1], as another exposure, white balance, gamma, vignetting and noise would have shown it.

    In the order of a camera: the lens blurs, the light is gathered, the sensor adds noise, the file loses detail.

    Args:
        frame: RGB in [0, 1].
        photometric: standard deviations of each effect.
        generator: draws how strong each one is.

    Returns: RGB in [0, 1].
    """
    height, width = frame.shape[:2]
    if photometric.blur > 0:
        frame = _blurred(frame, photometric.blur * abs(generator.normal()))
    log_gain = photometric.exposure * generator.normal() + photometric.white_balance * generator.normal(size=3)
    gain = np.exp(log_gain + photometric.vignetting * _smooth_field(generator, height, width)[..., None])
    lit = np.clip(frame * gain.astype(np.float32), 0, 1) ** np.float32(np.exp(photometric.gamma * generator.normal()))
    if photometric.noise > 0:
        deviation = photometric.noise * np.sqrt(_noise_variance(lit))
        lit = lit + deviation * generator.standard_normal(lit.shape, dtype=np.float32)
    lit = np.clip(lit, 0, 1).astype(np.float32)
    if photometric.jpeg == 0:
        return lit
    return _compressed(lit, quality=round(95 * (1 - photometric.jpeg * generator.random())))


def _blurred(frame: Float32[np.ndarray, "h w 3"], sigma_px: float) -> Float32[np.ndarray, "h w 3"]:
    # Below a fifth of a pixel OpenCV's kernel is one pixel wide: nothing to do.
    return frame if sigma_px < 0.2 else cv2.GaussianBlur(frame, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)


def _compressed(frame: Float32[np.ndarray, "h w 3"], *, quality: int) -> Float32[np.ndarray, "h w 3"]:
    coded = np.ascontiguousarray(np.round(frame[..., ::-1] * 255).astype(np.uint8))
    _, data = cv2.imencode(".jpg", coded, [cv2.IMWRITE_JPEG_QUALITY, max(quality, 1)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / 255


def augment_clips(frames: Frames, photometric: Photometric, generator: torch.Generator) -> Frames:
    """`augment_photometric` of each frame of clips, on their device.

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
        log_gain = log_gain + photometric.vignetting * _waves(across, down, both, x, y)
    lit = (frames * log_gain.exp()).clamp(0, 1) ** (photometric.gamma * normal(1, 1, 1)).exp()
    if photometric.noise > 0:
        of_pixels = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        noise = torch.randn(lit.shape, device=device, generator=of_pixels)
        lit = lit + photometric.noise * _noise_variance(lit).sqrt() * noise
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
