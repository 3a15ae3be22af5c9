"""Which light a photograph was taken under, by its mean colour.

Wong, *Die defect detection for integrated circuit* (2023), section 3.3.1: a photograph whose blue,
green and red means all exceed 15 of 255 is of a bright field; else one with more red than blue is
of a dark field with white light; else of a dark field with blue light.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.types import Pixels

Illumination = Literal["bright_field", "dark_field_white", "dark_field_blue"]

_SATURATED = 0.996  # of white: a camera's full wells differ a little
_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


class IlluminationSettings(Settings):
    """How the illumination and the exposure are told."""

    bright_mean: float = Field(
        15.0, ge=0, le=255, description="A bright field's channels all exceed this mean, of 255"
    )
    full_scale: float | None = Field(
        None, gt=0, description="Pixel value that is white; by default 255, 65535 or 1 by the depth"
    )
    most_saturated: float = Field(
        0.3, ge=0, le=1, description="A larger share of saturated pixels is over-exposed"
    )


def illumination(
    pixels: Pixels,
    settings: IlluminationSettings = IlluminationSettings(),  # noqa: B008
) -> Illumination:
    """The light that a photograph was taken under.

    A grey image has no colour to tell the two dark fields apart; its light is called white.

    Args:
        pixels: (H, W) or (H, W, 3) RGB, any depth. A camera of 10 to 14 bits in 16 needs
            ``full_scale``.
        settings: The thresholds.
    """
    means = _channel_means(pixels) * (255 / _white(pixels, settings))
    if (means > settings.bright_mean).all():
        return "bright_field"
    return "dark_field_white" if len(means) == 1 or means[0] > means[2] else "dark_field_blue"


def exposure(pixels: Pixels, settings: IlluminationSettings) -> tuple[float, float]:
    """How well a photograph is exposed.

    Args:
        pixels: (H, W) or (H, W, 3), any depth.
        settings: Which value is white.

    Returns:
        The share of pixels with a saturated channel, and the brightest value, 1 being white.
    """
    white = _white(pixels, settings)
    brightest = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    saturated = np.count_nonzero(brightest >= _SATURATED * white)
    return saturated / brightest.size, float(brightest.max()) / white


def _channel_means(pixels: Pixels) -> NDArray[np.float64]:
    means: NDArray[np.float64] = pixels.reshape(
        -1, 1 if pixels.ndim == 2 else pixels.shape[2]
    ).mean(axis=0, dtype=np.float64)
    return means


def _white(pixels: Pixels, settings: IlluminationSettings) -> float:
    return settings.full_scale or _FULL_SCALE[pixels.dtype.name]
