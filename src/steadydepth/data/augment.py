"""One draw of geometry for a clip; light and noise drawn for each frame."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Light:
    """How strongly the camera and the light change from frame to frame; 0 switches a part off.

    Each is a standard deviation: of the log of exposure, of the log gain of each colour, of the log of gamma, of the
    log gain of a smooth field over the image (uneven light), and of sensor noise at mid grey in [0, 1].
    """

    exposure: float = 0.0
    white_balance: float = 0.0
    gamma: float = 0.0
    unevenness: float = 0.0
    noise: float = 0.0


def smooth_field(generator: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "h w"]:
    """A random field of three low cosine waves with a standard deviation of about 1."""
    y = np.linspace(0, np.pi, height, dtype=np.float32)[:, None]
    x = np.linspace(0, np.pi, width, dtype=np.float32)[None, :]
    a, b, c = generator.normal(size=3).astype(np.float32)
    return a * np.cos(x) + b * np.cos(y) + c * np.cos(x) * np.cos(y)


def relight(
    frame: Float32[np.ndarray, "h w 3"], light: Light, generator: np.random.Generator
) -> Float32[np.ndarray, "h w 3"]:
    """One frame, RGB in [0, 1], as another exposure, white balance, gamma, unevenness and noise would have shown it."""
    height, width = frame.shape[:2]
    log_gain = light.exposure * generator.normal() + light.white_balance * generator.normal(size=3)
    gain = np.exp(log_gain + light.unevenness * smooth_field(generator, height, width)[..., None])
    lit = np.clip(frame * gain.astype(np.float32), 0, 1) ** np.float32(np.exp(light.gamma * generator.normal()))
    if light.noise > 0:
        # Shot noise grows with the square root of the signal; the floor is what the sensor reads in the dark.
        deviation = light.noise * np.sqrt(0.2 + 1.6 * lit)
        lit = lit + deviation * generator.standard_normal(lit.shape, dtype=np.float32)
    return np.clip(lit, 0, 1).astype(np.float32)
