"""What a transmission electron microscope and its camera add to an image.

Counts, gain and dark current follow a camera: electrons are counted (Poisson), each pixel
multiplies them by its own gain and adds its own offset.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from pydantic import Field

from semiscope.data.perturbation import FloatArray, Perturbation, Perturbed, displaced

LEAST_BLUR_PX = 0.1


class Drift(Perturbation):
    """A specimen that moves: during an exposure, which blurs, and from row to row of a scan."""

    blur_px: float = Field(6.0, gt=0, description="Way during an exposure.")
    shift_px: float = Field(10.0, gt=0, description="Way from the first to the last row.")
    jitter_px: float = Field(0.5, ge=0, description="Of rows, standard deviation.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        time = np.linspace(-0.5, 0.5, height)
        way, curve = rng.uniform(-1, 1, 2) * self.shift_px, rng.uniform(-0.5, 0.5)
        across = way[0] * (time + curve * (4 * time**2 - 0.5))
        across = across + rng.normal(0, self.jitter_px, height)
        rows = np.stack([across, way[1] * time]) * strength
        displacement = np.repeat(rows.astype(np.float32)[:, :, None], width, axis=2)
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.3, 1) * self.blur_px * strength
        kernel = _line(length * math.cos(angle), length * math.sin(angle))
        moved = displaced(pixels, displacement)
        blurred = cv2.filter2D(moved, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(blurred, np.float32), displacement


class Defocus(Perturbation):
    """Blur with Fresnel fringes at edges: bright in underfocus, dark in overfocus."""

    blur_px: float = Field(2.2, gt=0, description="Standard deviation of the blur.")
    fringe: float = Field(1.2, ge=0, description="Height of a fringe over the step at its edge.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        sigma = rng.uniform(0.4, 1) * self.blur_px * strength
        fringe = rng.uniform(-1, 1) * self.fringe * strength
        if sigma < LEAST_BLUR_PX:
            return pixels.copy(), None
        near, far = (
            cv2.GaussianBlur(pixels, (0, 0), sigmaX=s, borderType=cv2.BORDER_REFLECT_101)
            for s in (sigma, 2 * sigma)
        )
        return np.clip(near + np.float32(fringe) * (near - far), 0, 1), None


class ShotNoise(Perturbation):
    """Few electrons: noise that grows with the square root of the grey value."""

    electrons: float = Field(20.0, gt=0, description="A pixel at white; strength s has 1 / s² more")
    spread_px: float = Field(
        0.8, ge=0, description="Largest standard deviation of an electron's spot on the camera."
    )

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        # from ten electrons on, counts are near enough to normal
        noise = np.sqrt(pixels) * rng.standard_normal(pixels.shape, dtype=np.float32)
        spread = rng.uniform(0, self.spread_px)
        if spread > LEAST_BLUR_PX:
            noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=spread), np.float32)
        noise *= np.float32(strength / math.sqrt(self.electrons))
        return np.clip(pixels + noise, 0, 1), None


class Gain(Perturbation):
    """A gain that was not corrected: of the whole, of the camera's four parts, of each pixel."""

    whole: float = Field(0.25, ge=0, le=0.9, description="Largest relative change of all.")
    parts: float = Field(0.08, ge=0, le=0.9, description="Of a part, standard deviation.")
    pixel: float = Field(0.05, ge=0, le=0.9, description="Of columns and pixels, likewise.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        gain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(self.pixel)
        gain += rng.standard_normal(width, dtype=np.float32) * np.float32(self.pixel / 2)
        row, column = (int(rng.uniform(0.1, 0.9) * n) for n in (height, width))
        parts = rng.normal(0, self.parts, (2, 2))
        for i, rows in enumerate((slice(row), slice(row, None))):
            for j, columns in enumerate((slice(column), slice(column, None))):
                gain[rows, columns] += np.float32(parts[i, j])
        gain += np.float32(rng.uniform(-1, 1) * self.whole)
        return np.clip(pixels * (1 + gain * np.float32(strength)), 0, 1), None


class DarkCurrent(Perturbation):
    """An offset that was not taken away: of the whole, of columns and pixels; hot pixels."""

    offset: float = Field(0.15, ge=0, le=1, description="Largest, of white.")
    pattern: float = Field(0.03, ge=0, le=1, description="Of columns and pixels, deviation.")
    hot: float = Field(0.002, ge=0, le=1, description="Share of pixels that are always white.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        offset = rng.standard_normal((height, width), dtype=np.float32) * np.float32(self.pattern)
        offset += rng.standard_normal(width, dtype=np.float32) * np.float32(self.pattern / 2)
        offset += np.float32(rng.uniform(0.2, 1) * self.offset)
        seen = np.clip(pixels + offset * np.float32(strength), 0, 1)
        seen[rng.random((height, width), dtype=np.float32) < self.hot * strength] = 1
        return seen, None


def _line(x: float, y: float) -> FloatArray:
    """Kernel of a straight movement by x and y pixels about its middle."""
    reach = math.ceil(max(abs(x), abs(y)) / 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    steps = 4 * reach + 1
    for t in np.linspace(-0.5, 0.5, steps):
        column, row = reach + t * x, reach + t * y
        left, top = math.floor(column), math.floor(row)
        for i, share in ((top, 1 - row + top), (top + 1, row - top)):
            for j, part in ((left, 1 - column + left), (left + 1, column - left)):
                if share * part > 0:
                    kernel[i, j] += share * part / steps
    return kernel


# in the order of cause: the specimen moves before the lens, the lens before the camera
INSTRUMENT: dict[str, Perturbation] = {
    "drift": Drift(),
    "defocus": Defocus(),
    "shot_noise": ShotNoise(),
    "gain": Gain(),
    "dark_current": DarkCurrent(),
}
