"""One draw of geometry for a clip; light and noise drawn for each frame."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32


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


def smooth_field(generator: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "h w"]:
    """A random field of three low cosine waves with a standard deviation of about 1.

    Args:
        generator: draws three amplitudes.
        height: rows of the image.
        width: columns of the image.
    """
    y = np.linspace(0, np.pi, height, dtype=np.float32)[:, None]
    x = np.linspace(0, np.pi, width, dtype=np.float32)[None, :]
    a, b, c = generator.normal(size=3).astype(np.float32)
    return a * np.cos(x) + b * np.cos(y) + c * np.cos(x) * np.cos(y)


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
    gain = np.exp(log_gain + photometric.vignetting * smooth_field(generator, height, width)[..., None])
    lit = np.clip(frame * gain.astype(np.float32), 0, 1) ** np.float32(np.exp(photometric.gamma * generator.normal()))
    if photometric.noise > 0:
        # Shot noise grows with the square root of the signal; the floor is what the sensor reads in the dark.
        deviation = photometric.noise * np.sqrt(0.2 + 1.6 * lit)
        lit = lit + deviation * generator.standard_normal(lit.shape, dtype=np.float32)
    lit = np.clip(lit, 0, 1).astype(np.float32)
    return (
        lit
        if photometric.jpeg == 0
        else _compressed(lit, quality=round(95 * (1 - photometric.jpeg * generator.random())))
    )


def _blurred(frame: Float32[np.ndarray, "h w 3"], sigma_px: float) -> Float32[np.ndarray, "h w 3"]:
    # Below a fifth of a pixel OpenCV's kernel is one pixel wide: nothing to do.
    return frame if sigma_px < 0.2 else cv2.GaussianBlur(frame, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT_101)


def _compressed(frame: Float32[np.ndarray, "h w 3"], *, quality: int) -> Float32[np.ndarray, "h w 3"]:
    coded = np.ascontiguousarray(np.round(frame[..., ::-1] * 255).astype(np.uint8))
    _, data = cv2.imencode(".jpg", coded, [cv2.IMWRITE_JPEG_QUALITY, max(quality, 1)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / 255
