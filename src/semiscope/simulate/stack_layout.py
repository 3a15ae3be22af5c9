"""What a layout tells of itself besides its materials: where to measure and where defects arise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Gauge:
    """A window that holds one film, from before it to behind it.

    Attributes:
        layer: Name of the film.
        class_id: Of the film.
        direction: "x" when its thickness is counted along rows, "y" along columns.
        box: Left, top, right, bottom, nm on the canvas.
    """

    layer: str
    class_id: int
    direction: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Seam:
    """Where a filling may close too early: a void's middle, and the most it may extend, nm."""

    x: float
    y: float
    half_width: float
    half_height: float
    class_id: int


@dataclass(frozen=True, slots=True)
class Floor:
    """Where a residue may lie: the middle of its bottom, nm, and the room to each side."""

    x: float
    y: float
    half_width: float


@dataclass(frozen=True, slots=True)
class Root:
    """Where a crack may begin, nm, and its direction, radians from the right, downwards."""

    x: float
    y: float
    angle: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Of one cross-section; see the classes of its parts."""

    gauges: list[Gauge] = field(default_factory=list)
    seams: list[Seam] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    roots: list[Root] = field(default_factory=list)

    def across(
        self, layer: str, class_id: int, one: float, other: float, y: float, height: float
    ) -> None:
        """A gauge along rows about y, from one x to the other."""
        box = (min(one, other), y - height / 2, max(one, other), y + height / 2)
        self.gauges.append(Gauge(layer, class_id, "x", box))

    def down(
        self, layer: str, class_id: int, top: float, bottom: float, x: float, width: float
    ) -> None:
        """A gauge along columns about x."""
        self.gauges.append(Gauge(layer, class_id, "y", (x - width / 2, top, x + width / 2, bottom)))


def taper(
    x: float, top: float, bottom: float, half_top: float, half_bottom: float
) -> list[tuple[float, float]]:
    """An upright trapezium about x."""
    return [
        (x - half_top, top),
        (x + half_top, top),
        (x + half_bottom, bottom),
        (x - half_bottom, bottom),
    ]


def round_trench(
    x: float, top: float, bottom: float, half_top: float, half_bottom: float
) -> list[tuple[float, float]]:
    """A trench with a round bottom, going on above its top with straight walls."""
    above = 40.0
    angle = np.linspace(0, np.pi, 17)[1:-1]
    middle = bottom - half_bottom
    arc = zip(x + half_bottom * np.cos(angle), middle + half_bottom * np.sin(angle), strict=True)
    return [
        (x - half_bottom, middle),
        (x - half_top, top),
        (x - half_top, top - above),
        (x + half_top, top - above),
        (x + half_top, top),
        (x + half_bottom, middle),
        *((float(a), float(b)) for a, b in arc),
    ]


def flat_trench(
    x: float, top: float, bottom: float, half_top: float, half_bottom: float
) -> list[tuple[float, float]]:
    """A trench with a flat bottom, going on above its top with straight walls."""
    above = 40.0
    return [
        (x - half_bottom, bottom),
        (x - half_top, top),
        (x - half_top, top - above),
        (x + half_top, top - above),
        (x + half_top, top),
        (x + half_bottom, bottom),
    ]


def places(rng: np.random.Generator, pitch: float, width: float, spread: float) -> Sequence[float]:
    """Middles of structures a pitch apart over a width and beyond, each a little off."""
    first = rng.uniform(-pitch, 0)
    x = np.arange(first, width + pitch, pitch)
    return [float(v) for v in x + rng.normal(0, spread, len(x))]
