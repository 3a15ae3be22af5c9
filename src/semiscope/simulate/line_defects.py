"""Defects of line-space patterns, each with an exact outline.

Two sets of classes. The five of SEMI-DiffusionInst (Table I): thin bridge, single bridge, multi
bridge non-horizontal, multi bridge horizontal, line collapse. The five of Dehaerne et al. 2023
(YOLOv7 for line-space patterns): microbridge, gap, bridge, line collapse, probable gap.

"Horizontal" is as in the paper, where lines are vertical: along a straight row perpendicular to the
lines. It is meant relative to the lines, so a pattern that is turned keeps its class.

What the masks cover (see line_change for how they are made):

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

import numpy as np

from semiscope.simulate.line_change import (
    BridgeShape,
    Defect,
    Place,
    Window,
    bridge_over,
    ripple,
    smooth_maximum,
    window_around,
)
from semiscope.simulate.line_space import FloatArray, LineSpace, line_distance

Draw = Callable[[np.random.Generator, LineSpace, FloatArray, Place], Defect]


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
