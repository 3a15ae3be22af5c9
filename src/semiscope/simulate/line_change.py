"""How a defect changes a line-space pattern: windows of the distance field, and bridges.

A defect is a change of the distance field (see line_space) together with an outline field that is
positive on the pixels of its mask. Which classes there are is in line_defects.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from semiscope.simulate.line_space import FloatArray, LineSpace


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A rectangle of the field: rows top to bottom, columns left to right, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing an array of the whole field."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def x(self) -> FloatArray:
        """(1, columns) centres of the pixels."""
        return (np.arange(self.left, self.right, dtype=np.float32) + np.float32(0.5))[None]

    @property
    def y(self) -> FloatArray:
        """(rows, 1) centres of the pixels."""
        return (np.arange(self.top, self.bottom, dtype=np.float32) + np.float32(0.5))[:, None]

    def touches(self, other: Window) -> bool:
        """Whether two windows share a pixel."""
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )


@dataclass(frozen=True, slots=True, eq=False)
class Defect:
    """A change of the pattern inside a window.

    Attributes:
        window: Where; nothing changes outside.
        distance: The distance field of the window with the defect in it.
        strength: Share of the change in signal that is seen: below 1 for residues that are not as
            high as a line and for pinches that have not cut through.
        outline: Field of the window, positive on the pixels of the mask.
    """

    window: Window
    distance: FloatArray
    strength: float
    outline: FloatArray


@dataclass(frozen=True, slots=True)
class Place:
    """Where a defect is asked for.

    Attributes:
        line: The line on its left.
        row: The row of its middle.
        room: How many spaces to the right of that line are in view.
    """

    line: int
    row: float
    room: int


def smooth_maximum(a: FloatArray, b: FloatArray, fillet: float) -> FloatArray:
    """The larger of two distance fields, with inner corners rounded over `fillet` pixels."""
    near = np.maximum(np.float32(fillet) - np.abs(a - b), 0)
    return np.asarray(np.maximum(a, b) + near * near * np.float32(0.25 / fillet))


def window_around(lines: LineSpace, top: float, bottom: float, left: float, right: float) -> Window:
    """The window that holds these pixel coordinates, cut to the field."""
    return Window(
        int(np.clip(np.floor(top), 0, lines.rows - 1)),
        int(np.clip(np.ceil(bottom), 1, lines.rows)),
        int(np.clip(np.floor(left), 0, lines.columns - 1)),
        int(np.clip(np.ceil(right), 1, lines.columns)),
    )


def ripple(rng: np.random.Generator, window: Window, grain: float, height: float) -> FloatArray:
    """Smooth random field of a window, features of about `grain` pixels, deviation `height`."""
    rows, columns = window.bottom - window.top, window.right - window.left
    coarse = (max(2, round(rows / grain) + 1), max(2, round(columns / grain) + 1))
    field = rng.standard_normal(coarse, dtype=np.float32) * np.float32(height)
    return np.asarray(cv2.resize(field, (columns, rows), interpolation=cv2.INTER_CUBIC))


@dataclass(frozen=True, slots=True)
class BridgeShape:
    """A bridge over one or more spaces.

    Attributes:
        rows: Rows, relative to the place, at which the bridge leaves and reaches each space:
            a pair a space.
        half_width: Half its extent along the lines, pixels, one a space.
        waist: Share by which it is narrower in the middle of a space.
        strength: See Defect.
        irregularity: Deviation of its outline as a share of the half width.
    """

    rows: tuple[tuple[float, float], ...]
    half_width: tuple[float, ...]
    waist: float
    strength: float
    irregularity: float


def bridge_over(
    rng: np.random.Generator,
    lines: LineSpace,
    distance: FloatArray,
    place: Place,
    shape: BridgeShape,
) -> Defect:
    """Material that joins place.line to the lines right of it, over as many spaces as shape has."""
    first, last = place.line, place.line + len(shape.rows)
    row = int(np.clip(place.row, 0, lines.rows - 1))
    reach = max(shape.half_width)
    offsets = [offset for pair in shape.rows for offset in pair]
    margin = reach * (1.3 + 3 * shape.irregularity) + 0.5 * lines.cd + 3
    window = window_around(
        lines,
        place.row + min(offsets) - margin,
        place.row + max(offsets) + margin,
        float(lines.left[first, row]) - lines.space,
        float(lines.right[last, row]) + lines.space,
    )
    wobble = ripple(rng, window, max(3.0, reach), shape.irregularity * reach)
    x, y = window.x, window.y
    path = np.full(wobble.shape, -lines.pitch, np.float32)
    before: tuple[float, float] | None = None
    for k, (rows, half) in enumerate(zip(shape.rows, shape.half_width, strict=True)):
        start = (float(lines.centre(first + k)[row]), place.row + rows[0])
        end = (float(lines.centre(first + k + 1)[row]), place.row + rows[1])
        if before is not None:
            # inside the line between, from where one bridge ends to where the next begins
            path = np.maximum(path, _segment(x, y, before, start, min(half, 0.4 * lines.cd), 0.0))
        path = np.maximum(path, _segment(x, y, start, end, half, shape.waist))
        before = end
    path += wobble
    span = slice(window.top, window.bottom)
    inner_left, inner_right = lines.right[first, span, None], lines.left[last, span, None]
    # a wide bridge must not look out on the far sides of the outermost lines
    path = np.minimum(
        path, np.minimum(x - lines.centre(first)[span, None], lines.centre(last)[span, None] - x)
    )
    base = distance[window.slices]
    changed = smooth_maximum(base, path, min(0.45 * lines.cd, 0.35 * lines.space + reach * 0.3))
    between = np.minimum(x - inner_left, inner_right - x)
    added = np.minimum(changed, -base)
    outline = np.minimum(np.maximum(added, path), between)
    return Defect(window, changed, shape.strength, outline)


def _segment(
    x: FloatArray,
    y: FloatArray,
    start: tuple[float, float],
    end: tuple[float, float],
    half_width: float,
    waist: float,
) -> FloatArray:
    """Distance field of a thick segment, positive inside, narrower by `waist` in its middle."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (
        (x - np.float32(start[0])) * np.float32(dx) + (y - np.float32(start[1])) * np.float32(dy)
    ) / np.float32(dx * dx + dy * dy + 1e-9)
    t = np.clip(along, 0, 1)
    off = np.hypot(
        x - np.float32(start[0]) - t * np.float32(dx), y - np.float32(start[1]) - t * np.float32(dy)
    )
    radius = np.float32(half_width) * (1 - np.float32(waist) * np.sin(np.float32(np.pi) * t))
    return np.asarray(radius - off, np.float32)
