"""Voids, cracks and residues of a cross-section, where its layout says that they arise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.simulate.stack_canvas import BORDER, Canvas, ClassMap
from semiscope.simulate.stack_layout import Layout
from semiscope.simulate.stack_settings import (
    CRACK,
    NITRIDE,
    OXIDE,
    RESIDUE,
    SILICON,
    VOID,
    SpecimenSettings,
)

Points = NDArray[np.float64]

# smaller than this, a defect could not be told from the roughness
LEAST_NM2 = 20.0
TRIES = 12


@dataclass(frozen=True, slots=True)
class Outline:
    """A defect's outline, (k, 2) nm, and the classes that it replaces; others stay."""

    points: Points
    replaces: tuple[int, ...]


def draw_defects(
    rng: np.random.Generator,
    settings: SpecimenSettings,
    canvas: Canvas,
    layout: Layout,
    view: NDArray[np.bool_],
) -> ClassMap:
    """Defects on an ideal cross-section.

    Args:
        rng: Source of chance.
        settings: How many.
        canvas: The materials.
        layout: Where defects arise.
        view: As large as the canvas: what an image shows.

    Returns:
        As large as the canvas, uint8: a defect's class, or 0 where there is none.
    """
    defects = np.zeros_like(canvas.classes)
    drawn: tuple[tuple[int, float, Callable[[np.random.Generator, Layout], Outline]], ...] = (
        (VOID, settings.voids, _void),
        (CRACK, settings.cracks, _crack),
        (RESIDUE, settings.residues, _residue),
    )
    for class_id, mean, outline in drawn:
        for _ in range(int(rng.poisson(mean))):
            for _ in range(TRIES):
                if _paint(defects, canvas, outline(rng, layout), class_id, view):
                    break
    return defects


def _paint(
    defects: ClassMap, canvas: Canvas, outline: Outline, class_id: int, view: NDArray[np.bool_]
) -> bool:
    """Whether the defect had room: enough of it in view, and none there before."""
    mask, window, part = canvas.rasterised(outline.points)
    near = cv2.dilate(mask, np.ones((2 * BORDER - 1, 2 * BORDER - 1), np.uint8))
    inside = (mask[part] > 0) & np.isin(canvas.classes[window], outline.replaces)
    there = defects[window]
    seen = inside & view[window]
    if there[np.asarray(near)[part] > 0].any():
        return False
    if np.count_nonzero(seen) < LEAST_NM2 * canvas.scale**2:
        return False
    there[inside] = class_id
    return True


def _blob(rng: np.random.Generator, half_width: float, half_height: float, rough: float) -> Points:
    """An ellipse about the origin whose radius wanders."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angle)
    for k in range(2, 6):
        a, b = rng.normal(0, rough / k, 2)
        radius += a * np.cos(k * angle) + b * np.sin(k * angle)
    radius = np.maximum(radius, 0.3)
    return np.stack(
        [half_width * radius * np.cos(angle), half_height * radius * np.sin(angle)], axis=1
    )


def _void(rng: np.random.Generator, layout: Layout) -> Outline:
    """A seam that the filling left, mostly long and upright."""
    seam = layout.seams[int(rng.integers(len(layout.seams)))]
    half_width = max(1.6, seam.half_width * rng.uniform(0.45, 0.85))
    half_height = min(seam.half_height, half_width * rng.uniform(1.0, 4.0))
    points = _blob(rng, half_width, max(half_height, 2.0), 0.15)
    y = seam.y + rng.uniform(-0.6, 0.6) * max(0.0, seam.half_height - half_height)
    # a key-hole is thinner at its upper end
    points[:, 0] *= 1 + rng.uniform(0, 0.4) * points[:, 1] / max(half_height, 2.0)
    return Outline(points + (seam.x + rng.normal(0, 0.3), y), (seam.class_id,))


def _crack(rng: np.random.Generator, layout: Layout) -> Outline:
    """A thin ribbon that wanders away from an interface and ends in a point."""
    root = layout.roots[int(rng.integers(len(layout.roots)))]
    length, width = rng.uniform(35, 110), rng.uniform(1.8, 3.4)
    steps = int(length / 3)
    # it wanders about its direction, with a kink now and then, as at a change of material
    turns = rng.normal(0, 0.22, steps) + rng.choice((0, 0, 0, 0, 0, 0.7, -0.7), steps)
    lag = np.arange(steps)
    memory = np.tril(0.8 ** np.abs(lag[:, None] - lag))
    heading = root.angle + rng.normal(0, 0.25) + memory @ turns
    path = np.cumsum(3 * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    path = np.concatenate([[(0.0, 0.0)], path]) + (root.x, root.y)
    along = np.linspace(0, 1, len(path))
    half = 0.5 * width * (1 - along**3) * (1 + rng.normal(0, 0.15, len(path)))
    direction = np.gradient(path, axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    offset = normal * np.maximum(half, 0.4)[:, None]
    return Outline(
        np.concatenate([path + offset, (path - offset)[::-1]]), (OXIDE, NITRIDE, SILICON)
    )


def _residue(rng: np.random.Generator, layout: Layout) -> Outline:
    """An irregular lump on a surface."""
    floor = layout.floors[int(rng.integers(len(layout.floors)))]
    half_width = rng.uniform(3.5, max(4.5, min(12.0, floor.half_width)))
    half_height = half_width * rng.uniform(0.5, 1.1)
    points = _blob(rng, half_width, half_height, 0.25)
    x = floor.x + rng.uniform(-0.3, 0.3) * floor.half_width
    return Outline(points + (x, floor.y - 0.6 * half_height), (OXIDE,))
