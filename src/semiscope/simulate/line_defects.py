"""Defects of line-space patterns, each with an exact outline.

Two sets of classes. The five of SEMI-DiffusionInst (Table I): thin bridge, single bridge, multi
bridge non-horizontal, multi bridge horizontal, line collapse. The five of Dehaerne et al. 2023
(YOLOv7 for line-space patterns): microbridge, gap, bridge, line collapse, probable gap.

"Horizontal" is as in the paper, where lines are vertical: along a straight row perpendicular to the
lines. It is meant relative to the lines, so a pattern that is turned keeps its class.

A defect is a change of the distance field (see line_space) together with an outline field that is
positive on the pixels of its mask:

- bridges: the material that the defect adds between its two outermost lines; for bridges over
  several spaces also the stretch of the lines between that its path crosses, so that the mask is
  one piece;
- line collapse: between the outer sides of the place where the leaning line is and the place where
  it should be, over the rows where it has moved by more than a tenth of its way; both lines when
  both lean;
- gap: the material that is missing;
- probable gap: the line's material over the rows where the pinch is more than a third of what it is
  at its deepest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from semiscope.simulate.line_space import FloatArray, LineSpace, line_distance


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


Draw = Callable[[np.random.Generator, LineSpace, FloatArray, Place], Defect]


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


def thin_bridge(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """A faint narrow filament between two neighbouring lines."""
    half = max(1.6, lines.space * rng.uniform(0.13, 0.22))
    lean = lines.space * rng.uniform(-0.35, 0.35)
    shape = BridgeShape(
        ((-lean, lean),), (half,), rng.uniform(0.0, 0.35), rng.uniform(0.45, 0.8), 0.08
    )
    return bridge_over(rng, lines, distance, place, shape)


def single_bridge(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """A solid bridge over one space."""
    half = max(2.5, lines.space * rng.uniform(0.4, 1.1))
    lean = half * rng.uniform(-0.3, 0.3)
    shape = BridgeShape(
        ((-lean, lean),), (half,), rng.uniform(0.0, 0.3), rng.uniform(0.8, 1.0), 0.12
    )
    return bridge_over(rng, lines, distance, place, shape)


def multi_bridge_horizontal(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """Bridges over two to five neighbouring spaces, on one straight row."""
    spaces = min(int(rng.integers(2, 6)), place.room)
    half = max(2.0, lines.space * rng.uniform(0.25, 0.75))
    shift = rng.uniform(-0.08, 0.08, spaces) * lines.pitch
    shape = BridgeShape(
        tuple((float(s), float(s)) for s in shift),
        tuple(half * rng.uniform(0.8, 1.25, spaces)),
        rng.uniform(0.0, 0.3),
        rng.uniform(0.65, 1.0),
        0.1,
    )
    return bridge_over(rng, lines, distance, place, shape)


def multi_bridge_non_horizontal(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """Bridges over two to five neighbouring spaces, on a slanted, stepped or broken path."""
    spaces = min(int(rng.integers(2, 6)), place.room)
    half = max(2.0, lines.space * rng.uniform(0.25, 0.6))
    step = rng.uniform(0.6, 1.3, spaces) * lines.pitch * rng.choice((-1.0, 1.0))
    if rng.random() < 0.3:
        step[1::2] *= -1
    levels = np.concatenate([[0.0], np.cumsum(step)])
    levels -= levels.mean()
    if rng.random() < 0.5:
        rows = tuple((float(a), float(b)) for a, b in zip(levels[:-1], levels[1:], strict=True))
    else:
        rows = tuple((float(a), float(a)) for a in levels[:-1])
    shape = BridgeShape(
        rows,
        tuple(half * rng.uniform(0.8, 1.25, spaces)),
        rng.uniform(0.0, 0.3),
        rng.uniform(0.65, 1.0),
        0.1,
    )
    return bridge_over(rng, lines, distance, place, shape)


def line_collapse(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """A line that leans over and touches its neighbour over a long stretch; both may lean."""
    first, second = place.line, place.line + 1
    contact = lines.pitch * rng.uniform(1.0, 5.0)
    ramp = lines.pitch * rng.uniform(1.5, 3.5)
    # the left line's share of the way; what it leaves is the right line's
    share = float(rng.choice((0.0, rng.uniform(0.3, 0.7), 1.0), p=(0.3, 0.4, 0.3)))
    window = window_around(
        lines,
        place.row - contact / 2 - ramp,
        place.row + contact / 2 + ramp,
        float(lines.left[first].min()) - lines.space,
        float(lines.right[second].max()) + lines.space,
    )
    span = slice(window.top, window.bottom)
    y = window.y[:, 0]
    inside = np.clip((np.abs(y - place.row) - contact / 2) / ramp, 0, 1)
    lean = (np.float32(0.5) * (1 + np.cos(np.float32(np.pi) * inside))).astype(np.float32)
    gap = np.maximum(lines.left[second] - lines.right[first], 0)[span]
    # the tops stick together: where they touch, they overlap by about a pixel
    travel = lean * (gap + np.float32(rng.uniform(0.3, 1.5)))
    moved = (np.float32(share) * travel, np.float32(share - 1) * travel)
    columns = window.right - window.left
    base = distance[window.slices]
    others = np.full_like(base, -lines.pitch)
    pair = []
    for line, shift in ((first, moved[0]), (second, moved[1])):
        pair.append(
            line_distance(
                lines.left[line, span] + shift,
                lines.right[line, span] + shift,
                window.left,
                columns,
            )
        )
    for line in (first - 1, second + 1):
        if 0 <= line < len(lines.left):
            others = np.maximum(
                others,
                line_distance(
                    lines.left[line, span], lines.right[line, span], window.left, columns
                ),
            )
    joined = smooth_maximum(pair[0], pair[1], max(1.5, 0.12 * lines.space))
    changed = np.maximum(joined, others) * np.float32(lines.cos_tilt)
    x = window.x
    low = lines.left[first, span] if share > 0 else lines.left[second, span] + moved[1]
    high = lines.right[second, span] if share < 1 else lines.right[first, span] + moved[0]
    outline = np.minimum(
        np.minimum(x - low[:, None], high[:, None] - x),
        ((lean - np.float32(0.1)) * np.float32(lines.space))[:, None],
    )
    return Defect(window, changed, 1.0, outline)


def _cut(
    lines: LineSpace, distance: FloatArray, place: Place, window: Window
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What gap and probable gap share: the base field, x from the line's middle, own territory."""
    span = slice(window.top, window.bottom)
    x = window.x
    territory = np.minimum(
        x - (lines.left[place.line, span, None] - np.float32(lines.space / 2)),
        (lines.right[place.line, span, None] + np.float32(lines.space / 2)) - x,
    )
    across = x - lines.centre(place.line)[span, None]
    return distance[window.slices], across, territory


def gap(rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place) -> Defect:
    """A line that is interrupted; its two ends are round."""
    half = max(1.5, lines.pitch * rng.uniform(0.15, 0.8))
    bulge = lines.cd * rng.uniform(0.2, 0.5)
    window = _line_window(lines, place, half + bulge + 0.5 * lines.pitch)
    base, across, territory = _cut(lines, distance, place, window)
    round_end = np.float32(bulge) * (across / np.float32(lines.cd / 2)) ** 2
    cut = np.float32(half) + round_end - np.abs(window.y - np.float32(place.row))
    cut += ripple(rng, window, max(3.0, lines.cd / 2), 0.06 * lines.cd)
    cut = np.minimum(cut, territory)
    changed = -smooth_maximum(-base, cut, 0.25 * lines.cd)
    return Defect(window, changed, rng.uniform(0.85, 1.0), np.minimum(-changed, base))


def probable_gap(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """A line that is nearly interrupted: pinched, with reduced contrast."""
    length = max(2.0, lines.pitch * rng.uniform(0.15, 0.4))
    window = _line_window(lines, place, 3 * length + 2)
    base, _, territory = _cut(lines, distance, place, window)
    pinch = np.exp(-0.5 * ((window.y - np.float32(place.row)) / np.float32(length)) ** 2)
    depth = lines.cd / 2 * rng.uniform(0.7, 1.05)
    own = np.clip(territory / np.float32(lines.space / 2), 0, 1)
    changed = base - np.float32(depth) * pinch * own
    outline = np.minimum(base, (pinch - np.float32(1 / 3)) * np.float32(lines.cd))
    outline = np.minimum(outline, territory)
    return Defect(window, changed, rng.uniform(0.6, 0.95), outline)


def _line_window(lines: LineSpace, place: Place, reach: float) -> Window:
    """The window about one line and half its spaces."""
    row = slice(max(0, int(place.row - reach)), max(1, int(place.row + reach)))
    return window_around(
        lines,
        place.row - reach,
        place.row + reach,
        float(lines.left[place.line, row].min()) - lines.space,
        float(lines.right[place.line, row].max()) + lines.space,
    )


def microbridge(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """A tiny faint bridge over one space."""
    half = max(1.6, lines.space * rng.uniform(0.12, 0.28))
    shape = BridgeShape(((0.0, 0.0),), (half,), rng.uniform(0.2, 0.55), rng.uniform(0.4, 0.8), 0.1)
    return bridge_over(rng, lines, distance, place, shape)


def bridge(
    rng: np.random.Generator, lines: LineSpace, distance: FloatArray, place: Place
) -> Defect:
    """A solid bridge over one space, or over two or three on one row."""
    spaces = min(int(rng.choice((1, 2, 3), p=(0.7, 0.2, 0.1))), place.room)
    half = max(2.5, lines.space * rng.uniform(0.4, 1.0))
    shape = BridgeShape(
        ((0.0, 0.0),) * spaces,
        tuple(half * rng.uniform(0.85, 1.2, spaces)),
        rng.uniform(0.0, 0.25),
        rng.uniform(0.8, 1.0),
        0.12,
    )
    return bridge_over(rng, lines, distance, place, shape)


DEFECTS: dict[str, Draw] = {
    "thin_bridge": thin_bridge,
    "single_bridge": single_bridge,
    "multi_bridge_non_horizontal": multi_bridge_non_horizontal,
    "multi_bridge_horizontal": multi_bridge_horizontal,
    "line_collapse": line_collapse,
    "microbridge": microbridge,
    "gap": gap,
    "bridge": bridge,
    "probable_gap": probable_gap,
}

SPACES_NEEDED = {"multi_bridge_horizontal": 2, "multi_bridge_non_horizontal": 2}
"""Spaces that a class cannot do without, where that is more than one."""
