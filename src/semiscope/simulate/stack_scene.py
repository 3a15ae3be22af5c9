"""One simulated TEM image of a cross-section, with its exact truth.

A scene depends on its settings, the seed and its index alone, so any process may render any of them
in any order, and more images change nothing in those before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.errors import SettingsError
from semiscope.simulate import optics
from semiscope.simulate.line_space import FloatArray
from semiscope.simulate.stack_canvas import Canvas, ClassMap
from semiscope.simulate.stack_defects import draw_defects
from semiscope.simulate.stack_gates import draw_gates
from semiscope.simulate.stack_layout import Gauge, Layout
from semiscope.simulate.stack_optics import Contrast, draw_microscope, transmitted, with_fringes
from semiscope.simulate.stack_settings import OXIDE, TemStackSettings, plan
from semiscope.simulate.stack_trenches import draw_trenches

# the canvas is finer than the image by this; odd, so that one canvas pixel is a pixel's centre
FINER = 3
# the canvas goes on around the image, for what tilt and roughness bring into view
LEAST_MARGIN_PX = 12
# shares of the roughness that is as long as its correlation length, and a quarter of it
LONG, SHORT = 0.85, 0.53


@dataclass(frozen=True, slots=True)
class Device:
    """A product: its geometry, its magnification and its materials' contrast."""

    draw: Callable[[np.random.Generator, Canvas], Layout]
    nm_per_px: tuple[float, float]
    contrast: Contrast


# optical depth of oxide, silicon, nitride, metal, liner, void, crack, residue
DEVICES: dict[str, Device] = {
    "A": Device(
        draw_gates,
        (0.5, 0.56),
        Contrast(
            depth=(0.32, 0.72, 0.52, 1.7, 2.3, 0.06, 0.1, 1.05),
            spread=0.05,
            speckle=(0.035, 0.05, 0.04, 0.06, 0.08, 0.02, 0.02, 0.07),
            grain_nm=9.0,
            grains=0.22,
            bends=0.3,
        ),
    ),
    "B": Device(
        draw_trenches,
        (0.6, 0.68),
        Contrast(
            depth=(0.45, 1.0, 0.62, 1.9, 1.45, 0.12, 0.18, 1.1),
            spread=0.05,
            speckle=(0.05, 0.05, 0.05, 0.08, 0.07, 0.03, 0.03, 0.09),
            grain_nm=13.0,
            grains=0.32,
            bends=0.45,
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Thickness:
    """The truth of one film in view, of the specimen without its defects.

    Attributes:
        layer: Name of the film.
        class_id: Index of its class.
        direction: "x" when it is measured along rows, "y" along columns.
        box: Left, top, right, bottom, px: each of its rows (or columns) crosses the film once,
            from before it to behind it.
        nm: Mean over those rows (or columns).
    """

    layer: str
    class_id: int
    direction: str
    box: tuple[float, float, float, float]
    nm: float


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One simulated image with its truth.

    Attributes:
        pixels: (height, width) uint16.
        classes: (height, width) uint8, indices of CLASSES: what is at each pixel's centre.
        materials: The same without defects.
        nm_per_px: Width of a pixel.
        thicknesses: Of the films in view.
        electrons: Mean electrons a pixel.
        split: "train", "val", "test" or "unlabelled".
    """

    pixels: NDArray[np.uint16]
    classes: ClassMap
    materials: ClassMap
    nm_per_px: float
    thicknesses: tuple[Thickness, ...]
    electrons: float
    split: str


def render_scene(settings: TemStackSettings, index: int) -> Scene:
    """One scene, the same whenever and wherever it is rendered.

    Args:
        settings: What to simulate.
        index: 0 to settings.count - 1.

    Raises:
        SettingsError: There is no such index.
    """
    if not 0 <= index < settings.count:
        raise SettingsError(f"scene {index}: expected an index from 0 to {settings.count - 1}")
    device = DEVICES[settings.device]
    seeds = np.random.SeedSequence((settings.seed, ord(settings.device), index)).spawn(5)
    rng_layout, rng_warp, rng_defects, rng_look, rng_noise = map(np.random.default_rng, seeds)
    height, width = settings.height, settings.width
    nm_per_px = round(float(rng_layout.uniform(*device.nm_per_px)), 4)
    margin = LEAST_MARGIN_PX + ceil(0.5 * max(height, width) * _largest_sine(settings))
    rows, columns = ((n + 2 * margin) * FINER for n in (height, width))
    canvas = Canvas(rows, columns, FINER / nm_per_px, OXIDE)
    layout = device.draw(rng_layout, canvas)
    x, y = _positions(rng_warp, settings, nm_per_px, margin)
    view = np.zeros(canvas.classes.shape, bool)
    view[margin * FINER : rows - margin * FINER, margin * FINER : columns - margin * FINER] = True
    defects = draw_defects(rng_defects, settings.specimen, canvas, layout, view)
    fine_x, fine_y = (cv2.resize(axis, None, fx=FINER, fy=FINER) for axis in (x, y))
    materials, flaws = (
        np.asarray(cv2.remap(plane, fine_x, fine_y, cv2.INTER_NEAREST), np.uint8)
        for plane in (canvas.classes, defects)
    )
    both = np.where(flaws > 0, flaws, materials)
    centre = (slice(FINER // 2, None, FINER),) * 2
    classes = np.ascontiguousarray(both[centre])

    microscope = draw_microscope(rng_look, settings.microscope, nm_per_px)
    fringe = rng_look.uniform(*settings.microscope.fringe)
    seen = transmitted(rng_look, both, classes, device.contrast, settings.specimen, nm_per_px)
    seen = with_fringes(optics.blur(seen, microscope), fringe, nm_per_px)
    found = (_measure(g, materials, x, y, canvas.scale) for g in layout.gauges)
    return Scene(
        optics.detect(rng_noise, seen, microscope),
        classes,
        np.ascontiguousarray(materials[centre]),
        nm_per_px,
        tuple(t for t in found if t is not None),
        microscope.electrons,
        plan(settings)[index],
    )


def _largest_sine(settings: TemStackSettings) -> float:
    return float(np.sin(np.radians(max(map(abs, settings.specimen.tilt_deg)))))


def _positions(
    rng: np.random.Generator, settings: TemStackSettings, nm_per_px: float, margin: int
) -> tuple[FloatArray, FloatArray]:
    """Where on the canvas each pixel lies: x and y, (height, width) float32 canvas pixels."""
    height, width = settings.height, settings.width
    specimen = settings.specimen
    angle = np.radians(rng.uniform(*specimen.tilt_deg))
    sigma = rng.uniform(*specimen.roughness_nm) / nm_per_px
    length = rng.uniform(*specimen.correlation_length_nm) / nm_per_px
    y = (np.arange(height, dtype=np.float32) + np.float32(0.5 - height / 2))[:, None]
    x = np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    turned = cos * x + sin * y + np.float32(width / 2), cos * y - sin * x + np.float32(height / 2)
    rough = (_wander(rng, height, width, length) * np.float32(sigma) for _ in range(2))
    # OpenCV counts from the centre of the first canvas pixel
    at = [(t + r + np.float32(margin)) * FINER - 0.5 for t, r in zip(turned, rough, strict=True)]
    return np.asarray(at[0], np.float32), np.asarray(at[1], np.float32)


def _wander(rng: np.random.Generator, height: int, width: int, length: float) -> FloatArray:
    """A random field of deviation 1 with two sizes of features."""
    total = np.zeros((height, width), np.float32)
    for share, size in ((LONG, length), (SHORT, length / 4)):
        cells = (ceil(width / size) + 3, ceil(height / size) + 3)
        coarse = rng.standard_normal(cells[::-1], dtype=np.float32)
        field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        total += field * np.float32(share / max(float(field.std()), 1e-6))
    return total


def _measure(
    gauge: Gauge, materials: ClassMap, x: FloatArray, y: FloatArray, scale: float
) -> Thickness | None:
    """The film's thickness where the gauge has come to lie.

    None when it is not wholly in view, or holds more than its film.
    """
    left, top, right, bottom = (v * scale for v in gauge.box)
    height, width = x.shape
    goal = (left + right) / 2, (top + bottom) / 2
    column, row = width / 2, height / 2
    for _ in range(4):
        i, j = int(np.clip(row, 0, height - 1)), int(np.clip(column, 0, width - 1))
        column = j + (goal[0] - float(x[i, j])) / FINER
        row = i + (goal[1] - float(y[i, j])) / FINER
    # pixels count from the centre here; boxes from the corner
    half = (right - left) / 2, (bottom - top) / 2
    x0, x1 = (round((column + 0.5) * FINER + s * half[0]) for s in (-1, 1))
    y0, y1 = (round((row + 0.5) * FINER + s * half[1]) for s in (-1, 1))
    if x0 < 0 or y0 < 0 or x1 > width * FINER or y1 > height * FINER:
        return None
    film = materials[y0:y1, x0:x1] == gauge.class_id
    if gauge.direction == "y":
        film = film.T
    changes = np.count_nonzero(film[:, 1:] != film[:, :-1], axis=1)
    if film[:, 0].any() or film[:, -1].any() or not (changes == 2).all():
        return None
    box = (x0 / FINER, y0 / FINER, x1 / FINER, y1 / FINER)
    thickness = float(film.sum(axis=1).mean()) / scale
    return Thickness(gauge.layer, gauge.class_id, gauge.direction, box, thickness)
