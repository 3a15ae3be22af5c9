"""What preparing a lamella does to a TEM image: contamination, curtains, wedge, bending.

Thickness acts as it does in a bright field, by absorption: I = I0 exp(-t / lambda). An image's
white is not the empty beam, so that white material is given some optical depth as well.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from pydantic import Field

from semiscope.data.perturbation import (
    FloatArray,
    Perturbation,
    Perturbed,
    displaced,
)

# optical depth that is given to white, and the grey value below which depth rises no further
WHITE_DEPTH = 0.5
LEAST_GREY = 0.02
_BLOTS_AREA = 512 * 512  # px


class Contamination(Perturbation):
    """Dark blots of irregular outline: redeposited metal, hydrocarbons."""

    blots: int = Field(6, ge=1, description="Most blots in 512 x 512 px; one at least.")
    diameter_px: tuple[float, float] = Field((8.0, 80.0), description="Of a blot.")
    depth: float = Field(1.4, gt=0, description="Optical depth of the darkest blot.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        depth = np.zeros((height, width), np.float32)
        # by the area, so that a crop is as clean as the image it is from
        share = height * width / _BLOTS_AREA
        for _ in range(max(1, round(int(rng.integers(1, self.blots + 1)) * share))):
            radius = _evenly_in_log(rng, self.diameter_px) / 2
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            darkness = rng.uniform(0.4, 1) * self.depth
            lobes = rng.normal(0, 0.15, (2, 5)) / np.arange(1, 6)
            soft = rng.uniform(0.1, 0.6)
            reach = 2 * radius
            top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
            left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
            dy = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y))[:, None]
            dx = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)
            angle = np.arctan2(dy, dx)
            outline = 1 + sum(
                a * np.cos(k * angle) + b * np.sin(k * angle) for k, (a, b) in enumerate(lobes.T, 2)
            )
            inside = (outline - np.hypot(dx, dy) / np.float32(radius)) / np.float32(soft)
            part = depth[top:bottom, left:right]
            np.maximum(part, darkness * np.clip(inside, 0, 1), out=part, casting="same_kind")
        return pixels * np.exp(depth * np.float32(-strength)), None


class Curtaining(Perturbation):
    """Stripes of changing thickness along the ion beam, which come and go on their way down."""

    change: float = Field(0.45, gt=0, le=1, description="Largest relative change of thickness.")
    width_px: tuple[float, float] = Field((2.0, 30.0), description="Of a stripe.")
    tilt_deg: float = Field(8.0, ge=0, le=45, description="Of the stripes to the columns, at most.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        slope = math.tan(math.radians(rng.uniform(-1, 1) * self.tilt_deg))
        beyond = math.ceil(abs(slope) * height) + 1
        profile = np.zeros(width + 2 * beyond, np.float32)
        for _ in range(3):
            stripe = _evenly_in_log(rng, self.width_px)
            noise = rng.standard_normal((1, len(profile)), dtype=np.float32)
            wave = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=stripe / 2, sigmaY=1)[0])
            profile += wave / max(float(np.abs(wave).max()), 1e-6) * rng.uniform(0.3, 1)
        profile /= np.float32(max(float(np.abs(profile).max()), 1e-6))
        rows = np.arange(height, dtype=np.float32)[:, None]
        place = np.arange(width, dtype=np.float32) + slope * rows + beyond
        # they begin under something that mills badly, anywhere in the image or above it
        begin = rng.uniform(-1, 0.5) * height
        fade = np.clip((rows - begin) / (0.3 * height), 0.15, 1) * (self.change * strength)
        change = profile[place.astype(np.int32)] * fade
        return thickened(pixels, change.astype(np.float32))


class ThicknessGradient(Perturbation):
    """A lamella that is a wedge, a little hollow or bulged."""

    change: float = Field(
        1.0, gt=0, le=2, description="Largest relative change of thickness from side to side."
    )

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        angle, bulge = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)
        change = rng.uniform(0.5, 1) * self.change * strength
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
        across = x + y
        wedge = across + np.float32(bulge) * (across**2 - np.float32(0.08))
        return thickened(pixels, wedge.astype(np.float32) * np.float32(change))


class Bending(Perturbation):
    """A lamella that is bent: what it shows is shifted, and dark bend contours cross it."""

    shift_px: float = Field(10.0, gt=0, description="Largest shift.")
    depth: float = Field(0.6, ge=0, description="Optical depth of a bend contour.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        y = np.linspace(0, 2 * np.pi, height, dtype=np.float32)[:, None]
        x = np.linspace(0, 2 * np.pi, width, dtype=np.float32)
        waves = []
        for _ in range(2):
            # up to one wave over the image in each direction
            fx, fy, phase = (float(v) for v in rng.uniform(-1, 1, 3))
            waves.append(np.sin(fx * x + fy * y + np.float32(np.pi * phase)))
        displacement = np.stack(waves) * np.float32(self.shift_px * strength)
        # contours lie where the crystal has one certain tilt: along a level of the bending
        tilt = waves[0] + waves[1]
        level, sharp = np.quantile(tilt[::8, ::8], rng.uniform(0.1, 0.9)), rng.uniform(0.05, 0.3)
        contour = np.exp(-(((tilt - np.float32(level)) / np.float32(sharp)) ** 2))
        contour *= np.float32(rng.uniform(0.3, 1))
        moved = displaced(pixels, displacement)
        return moved * np.exp(contour * np.float32(-self.depth * strength)), displacement


def thickened(pixels: FloatArray, change: FloatArray) -> Perturbed:
    """The image of a lamella whose thickness changes by these shares of itself."""
    depth = WHITE_DEPTH - np.log(np.maximum(pixels, np.float32(LEAST_GREY)))
    seen = pixels * np.exp(-change * depth)
    return np.minimum(seen, np.float32(1)), None


def _evenly_in_log(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))


SAMPLE: dict[str, Perturbation] = {
    "contamination": Contamination(),
    "curtaining": Curtaining(),
    "thickness_gradient": ThicknessGradient(),
    "bending": Bending(),
}
