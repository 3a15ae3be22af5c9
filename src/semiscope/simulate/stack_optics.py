"""How a cross-section looks in the bright field of a transmission electron microscope.

I = exp(-d t): each material has an optical depth d in a lamella of usual thickness, t is the local
thickness over the usual. Crystals diffract as well: grains differ in depth, bend contours cross
single crystals. Amorphous material shows the speckle of phase contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from semiscope.simulate.line_space import FloatArray
from semiscope.simulate.optics import Optics
from semiscope.simulate.stack_canvas import ClassMap
from semiscope.simulate.stack_settings import (
    CLASSES,
    METAL,
    SILICON,
    MicroscopeSettings,
    SpecimenSettings,
)

GREY_BITS = (12, 16)
UNEVENNESS = 0.01
# share and size of the speckle of phase contrast, and of the mottling by the ion beam
SPECKLE_NM = ((1.0, 0.45), (0.8, 1.3))


@dataclass(frozen=True, slots=True)
class Contrast:
    """How a device's materials look; depths are optical depths.

    Attributes:
        depth: Of each class, in the order of CLASSES.
        spread: Relative standard deviation of each depth from image to image.
        speckle: Standard deviation of each class's depth by phase contrast and ion damage.
        grain_nm: Mean distance of the metal's grains.
        grains: Standard deviation of depth from grain to grain.
        bends: Depth of silicon's bend contours.
    """

    depth: tuple[float, ...]
    spread: float
    speckle: tuple[float, ...]
    grain_nm: float
    grains: float
    bends: float

    def __post_init__(self) -> None:
        if not len(self.depth) == len(self.speckle) == len(CLASSES):
            raise ValueError(f"expected a value for each of {len(CLASSES)} classes")


def draw_microscope(
    rng: np.random.Generator, settings: MicroscopeSettings, nm_per_px: float
) -> Optics:
    """One image's microscope; a parallel beam neither scans nor charges the specimen."""
    low, high = np.log(settings.electrons)
    return Optics(
        beam=rng.uniform(*settings.blur_nm) / nm_per_px,
        astigmatism=1.0,
        electrons=float(np.exp(rng.uniform(low, high))),
        detector_blur=0.0,
        drift=(0.0, 0.0),
        jitter=0.0,
        vibration=0.0,
        charging=0.0,
        streaks=0.0,
        vignetting=rng.uniform(*settings.vignetting),
        unevenness=UNEVENNESS,
        brightness=rng.uniform(*settings.brightness),
        contrast=rng.uniform(*settings.contrast),
        bits=int(rng.choice(GREY_BITS)),
    )


def transmitted(
    rng: np.random.Generator,
    fine: ClassMap,
    classes: ClassMap,
    contrast: Contrast,
    specimen: SpecimenSettings,
    nm_per_px: float,
) -> FloatArray:
    """The bright-field intensity behind a lamella, before the lens.

    Args:
        rng: Source of chance.
        fine: Classes on a grid that is finer by a whole factor.
        classes: (H, W), of the pixels.
        contrast: Of the device.
        specimen: Its wedge, curtains and contamination.
        nm_per_px: Width of a pixel.

    Returns:
        (H, W) float32 in (0, 1].
    """
    height, width = classes.shape
    depths = np.zeros(256, np.float32)
    jitter = 1 + contrast.spread * rng.standard_normal(len(CLASSES))
    depths[: len(CLASSES)] = np.array(contrast.depth) * np.clip(jitter, 0.6, 1.4)
    # a rough interface that the beam runs along mixes depths, not intensities
    mixed = cv2.resize(depths[fine], (width, height), interpolation=cv2.INTER_AREA)
    depth = np.asarray(mixed, np.float32)
    amplitude = np.zeros(256, np.float32)
    amplitude[: len(CLASSES)] = contrast.speckle
    for share, size in SPECKLE_NM:
        speckle = _speckle(rng, height, width, size / nm_per_px)
        depth += amplitude[classes] * np.float32(share) * speckle
    grains = _grains(rng, height, width, contrast.grain_nm / nm_per_px)
    depth += np.where(classes == METAL, grains * np.float32(contrast.grains), np.float32(0))
    bends = _bends(rng, height, width) * np.float32(contrast.bends * rng.uniform(0.3, 1))
    depth += np.where(classes == SILICON, bends, np.float32(0))
    np.maximum(depth, np.float32(0.01), out=depth)
    depth *= _thickness(rng, height, width, specimen, nm_per_px)
    if rng.random() < specimen.contamination:
        depth += _contamination(rng, height, width, nm_per_px)
    return np.exp(-depth)


def with_fringes(signal: FloatArray, height: float, nm_per_px: float) -> FloatArray:
    """Fresnel fringes of a slight underfocus: each edge a little steeper than it is."""
    far = cv2.GaussianBlur(signal, (0, 0), sigmaX=1.1 / nm_per_px, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(signal + np.float32(height) * (signal - far), np.float32)


def _speckle(rng: np.random.Generator, height: int, width: int, sigma: float) -> FloatArray:
    """Noise of one size, deviation 1."""
    white = rng.standard_normal((height, width), dtype=np.float32)
    near, far = (
        np.asarray(cv2.GaussianBlur(white, (0, 0), sigmaX=s), np.float32)
        for s in (sigma, 2 * sigma)
    )
    band = near - far
    return band / np.float32(max(float(band.std()), 1e-6))


def _grains(rng: np.random.Generator, height: int, width: int, distance: float) -> FloatArray:
    """A value about 0, deviation 1, for each grain: the pixels nearest to one of random points."""
    count = max(1, round(height * width / distance**2))
    free = np.full((height, width), 255, np.uint8)
    free[rng.integers(height, size=count), rng.integers(width, size=count)] = 0
    _, labels = cv2.distanceTransformWithLabels(
        free, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = rng.standard_normal(count + 2).astype(np.float32)
    # a few grains are near a zone axis and nearly black
    values[rng.random(count + 2) < 0.12] += 1.5
    mottled = np.float32(0.35) * np.abs(_speckle(rng, height, width, distance / 6))
    return np.asarray(values[labels] + mottled, np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> FloatArray:
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def _bends(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Dark bands along the levels of a smooth bending."""
    bending = _clouds(rng, height, width, 4)
    bands = np.zeros((height, width), np.float32)
    for level in rng.uniform(-1, 1, 2):
        sharp = np.float32(rng.uniform(0.12, 0.45))
        bands += np.exp(-(((bending - np.float32(level)) / sharp) ** 2))
    return bands + 0.25 * _clouds(rng, height, width, 9)


def _thickness(
    rng: np.random.Generator,
    height: int,
    width: int,
    specimen: SpecimenSettings,
    nm_per_px: float,
) -> FloatArray:
    angle, wedge = rng.uniform(0, 2 * np.pi), rng.uniform(*specimen.wedge)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
    white = rng.standard_normal((1, width), dtype=np.float32)
    sigma = rng.uniform(1.5, 6) / nm_per_px
    stripes = np.asarray(cv2.GaussianBlur(white, (0, 0), sigmaX=sigma, sigmaY=1), np.float32)
    stripes *= np.float32(rng.uniform(*specimen.curtains) / max(float(stripes.std()), 1e-6))
    # the beam comes from above: stripes grow on their way down
    fade = np.linspace(0.3, 1, height, dtype=np.float32)[:, None]
    return np.maximum(1 + np.float32(wedge) * (x + y) + stripes * fade, np.float32(0.3))


def _contamination(
    rng: np.random.Generator, height: int, width: int, nm_per_px: float
) -> FloatArray:
    depth = np.zeros((height, width), np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)
    uneven = 1 + 0.3 * _clouds(rng, height, width, 16)
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(6, 25) / nm_per_px
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        distance = np.hypot(x - np.float32(cx), y - np.float32(cy)) / np.float32(radius)
        edge = np.clip((uneven - distance) / np.float32(rng.uniform(0.3, 0.8)), 0, 1)
        depth = np.maximum(depth, edge * np.float32(rng.uniform(0.25, 0.8)))
    return depth
