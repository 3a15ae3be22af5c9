"""What light and camera make of a scene: pose, uneven light, blur, colour filter, noise, 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.simulate.line_space import FloatArray
from semiscope.simulate.package_paint import Points, clouds, moved
from semiscope.simulate.package_settings import CameraSettings, PoseSettings

# lengths of the package from camera to board
DISTANCE = 4.0
# the package keeps so far from the border of the photograph, share of the smaller side
MARGIN = 0.015
# light is worked out on a grid of so many cells and then spread
LIGHT_CELLS = 48
READ_NOISE = 0.6
LEAST_BLUR_PX = 0.15
# which channel a pixel sees, by its place in each 2 x 2
BAYER = tuple(
    ((slice(row, None, 2), slice(column, None, 2)), channel)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2))
)

# mean of the strongest channel in a dark field, and of red, green and blue over it: the rule that
# tells the lights apart (section 3.3.1 of the thesis) holds for all of them, since where the ratio
# is lowest the mean stays below 15
DARK_MEAN = (14.0, 32.0)
DARK_RATIOS = {
    "dark_field_white": ((1.0, 1.0), (0.45, 0.65), (0.28, 0.40)),
    "dark_field_blue": ((0.08, 0.20), (0.30, 0.50), (1.0, 1.0)),
}
LEAST_BRIGHT_MEAN = 24.0


def turned(angle_deg: float, x: float = 0.0, y: float = 0.0) -> Points:
    """(3, 3): a counter-clockwise turn as seen on the screen, then a shift."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return np.array([[c, s, x], [-s, c, y], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Where a package is in the photograph.

    Attributes:
        homography: (3, 3) from the package's frame to pixels.
        angle_deg: Counter-clockwise turn.
        scale: Pixels a length of the package, in its middle.
    """

    homography: Points
    angle_deg: float
    scale: float


def draw_pose(
    rng: np.random.Generator, settings: PoseSettings, aspect: float, height: int, width: int
) -> Pose:
    """A pose in which the whole package is in view."""
    angle = float(rng.uniform(*settings.angle_deg))
    scale = min(height, width / aspect) * float(rng.uniform(*settings.size))
    tilt = math.radians(rng.uniform(*settings.tilt_deg))
    direction = rng.uniform(0, 2 * math.pi)
    shift = rng.uniform(-1, 1, 2) * settings.shift * min(height, width)
    # points further down the tilt's direction are further from the camera
    away = np.array([math.cos(direction), math.sin(direction)]) * math.sin(tilt) / DISTANCE
    flat = np.eye(2) - (1 - math.cos(tilt)) * np.outer(away, away) / max(float(away @ away), 1e-12)
    tilted = np.eye(3)
    tilted[:2, :2] = flat
    tilted[2, :2] = away
    plane = tilted @ turned(angle)
    seen = moved(plane, package_rectangle(aspect))
    low, high = seen.min(axis=0), seen.max(axis=0)
    size = np.array([width, height])
    margin = MARGIN * min(height, width)
    scale = min(scale, float(((size - 2 * margin) / (high - low)).min()))
    middle = np.clip(size / 2 + shift, margin - scale * low, size - margin - scale * high)
    place = np.array([[scale, 0, middle[0]], [0, scale, middle[1]], [0, 0, 1]])
    return Pose(place @ plane, angle, scale)


def package_rectangle(aspect: float) -> Points:
    """(4, 2) corners in the package's frame, clockwise from the top left."""
    w, h = aspect / 2, 0.5
    return np.array([(-w, -h), (w, -h), (w, h), (-w, h)])


def photograph(
    light: np.random.Generator,
    noise: np.random.Generator,
    scene: FloatArray,
    settings: CameraSettings,
    illumination: str,
) -> NDArray[np.uint8]:
    """The photograph of a scene.

    Args:
        light: Chance of illumination and optics.
        noise: Chance of the sensor.
        scene: (H, W, 3) float32 RGB, about 0 to 255; it is changed.
        settings: Light and camera.
        illumination: bright_field, dark_field_white or dark_field_blue.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    blur = float(light.uniform(*settings.blur_px))
    if blur > LEAST_BLUR_PX:
        scene = np.asarray(cv2.GaussianBlur(scene, (0, 0), blur))
    # one colour a pixel from here on, as the sensor's filter lets it through; uneven light is so
    # smooth that it may come after the blur
    mosaic = np.empty(scene.shape[:2], np.float32)
    for place, channel in BAYER:
        mosaic[place] = scene[..., channel][place]
    height, width = scene.shape[:2]
    gain, glare = _light(light, settings, height, width, illumination == "bright_field")
    mosaic *= gain
    if glare is not None:
        mosaic += glare
    _expose(light, mosaic, settings, illumination)
    _add_noise(noise, mosaic, float(light.uniform(*settings.noise)))
    return np.asarray(cv2.cvtColor(np.rint(mosaic).astype(np.uint8), cv2.COLOR_BayerRGGB2RGB))


def _light(
    rng: np.random.Generator, settings: CameraSettings, height: int, width: int, bright: bool
) -> tuple[FloatArray, FloatArray | None]:
    """Gain of each pixel, and a reflection of the lamp where there is one."""
    n = LIGHT_CELLS
    x = np.linspace(-0.5, 0.5, n, dtype=np.float32)[None]
    y = x.T
    cx, cy = rng.uniform(-0.15, 0.15, 2)
    fall = 2 * float(rng.uniform(*settings.vignetting))
    slope = rng.standard_normal(2) * rng.uniform(*settings.unevenness) * 1.5
    slow = clouds(rng, 4, n, n, float(rng.uniform(*settings.unevenness)))
    gain = 1 + slow + slope[0] * x + slope[1] * y - fall * ((x - cx) ** 2 + (y - cy) ** 2)
    gain = np.maximum(gain, 0.15).astype(np.float32)
    place, size, strength = rng.uniform(-0.4, 0.4, 2), rng.uniform(0.06, 0.2), rng.uniform(8, 38)
    size_px = (width, height)
    spread = np.asarray(cv2.resize(gain, size_px, interpolation=cv2.INTER_CUBIC))
    if rng.random() > 0.35 or not bright:
        return spread, None
    spot = strength * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * size**2))
    return spread, np.asarray(
        cv2.resize(spot.astype(np.float32), size_px, interpolation=cv2.INTER_CUBIC)
    )


def _expose(
    rng: np.random.Generator, mosaic: FloatArray, settings: CameraSettings, illumination: str
) -> None:
    """Gives each channel the mean that the light makes it have, and the contrast asked for."""
    contrast = float(rng.uniform(*settings.contrast))
    level, tint = rng.uniform(*settings.brightness), rng.uniform(0.96, 1.04, 3)
    dark = rng.uniform(*DARK_MEAN)
    red, green, other, blue = (float(mosaic[place].mean()) for place, _ in BAYER)
    means = np.array([red, (green + other) / 2, blue]) + 1e-6
    if illumination == "bright_field":
        wanted = np.maximum(means * tint * level / (means * tint).mean(), LEAST_BRIGHT_MEAN)
    else:
        wanted = dark * np.array([rng.uniform(*r) for r in DARK_RATIOS[illumination]])
    factor = (wanted / means * contrast).astype(np.float32)
    veil = (wanted * (1 - contrast)).astype(np.float32)
    for place, channel in BAYER:
        mosaic[place] *= factor[channel]
        mosaic[place] += veil[channel]
    np.clip(mosaic, 0, 255, out=mosaic)


def _add_noise(rng: np.random.Generator, mosaic: FloatArray, deviation: float) -> None:
    """Shot noise, whose deviation is given at half the range, and the sensor's read noise."""
    if deviation == 0:
        return
    spread = mosaic * np.float32(deviation**2 / 128)
    spread += np.float32(READ_NOISE**2)
    np.sqrt(spread, out=spread)
    spread *= rng.standard_normal(mosaic.shape, dtype=np.float32)
    mosaic += spread
    np.clip(mosaic, 0, 255, out=mosaic)
