"""Cracks, scratches and chips of a die, as lines and polygons in the die's own frame.

Lengths are shares of the package's length; the die's frame has its middle at (0, 0), y down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semiscope.simulate.package_paint import Points

STEP = 0.008
TRIES = 50


@dataclass(frozen=True, slots=True, eq=False)
class Flaw:
    """One annotated defect of a die's surface.

    Attributes:
        kind: "crack", "scratch" or "chipping".
        strokes: Lines, each (k, 2) points and half the width at each.
        ring: (k, 2) the piece that is missing, of a chip.
        rim: (k, 2) where the chip ends inside the die.
        strength: Contrast, 0 to 1.
        bright: Whether a bright field shows it brighter than the die.
    """

    kind: str
    strokes: tuple[tuple[Points, Points], ...] = ()
    ring: Points | None = None
    rim: Points | None = None
    strength: float = 1.0
    bright: bool = False


Size = tuple[float, float]


def crack(rng: np.random.Generator, size: Size, length: float, strength: float) -> Flaw:
    """A thin jagged crack with branches, mostly from an edge."""
    start, heading = _edge(rng, size) if rng.random() < 0.75 else _inside(rng, size)
    half = float(rng.uniform(0.0009, 0.0017))
    trunk = _walk(rng, size, start, heading, length, 0.32)
    strokes = [(trunk, np.linspace(half, 0.5 * half, len(trunk)))]
    for _ in range(int(rng.integers(0, 4))):
        at = int(rng.integers(0, len(trunk) - 1))
        ahead = trunk[at + 1] - trunk[at]
        turn = rng.choice((-1, 1)) * rng.uniform(0.4, 1.1)
        direction = float(np.arctan2(ahead[1], ahead[0])) + turn
        branch = _walk(rng, size, trunk[at], direction, length * rng.uniform(0.15, 0.5), 0.32)
        strokes.append((branch, np.linspace(0.75 * half, 0.4 * half, len(branch))))
    return Flaw("crack", tuple(strokes), strength=strength, bright=bool(rng.random() < 0.12))


def scratch(rng: np.random.Generator, size: Size, length: float, strength: float) -> Flaw:
    """One to three nearly straight lines side by side."""
    start, heading = _inside(rng, size)
    half = float(rng.uniform(0.0009, 0.002))
    across = np.array([-np.sin(heading), np.cos(heading)])
    strokes = []
    for k in range(int(rng.choice((1, 1, 1, 2, 3)))):
        at = start + k * across * rng.uniform(0.005, 0.009)
        at = np.clip(at, *_limits(size, 0.01))
        path = _walk(rng, size, at, heading, length * rng.uniform(0.7, 1.3), 0.035)
        # pressed hard in the middle, lightly where it begins and ends
        press = 0.6 + 0.4 * np.sin(np.linspace(0, np.pi, len(path)))
        strokes.append((path, half * press))
    return Flaw("scratch", tuple(strokes), strength=strength, bright=bool(rng.random() < 0.65))


def chipping(rng: np.random.Generator, size: Size, length: float, strength: float) -> Flaw:
    """A piece broken off an edge or a corner; its size is drawn apart from the length of lines."""
    side = min(size) * rng.uniform(0.07, 0.22)
    depth = side * rng.uniform(0.3, 0.75)
    if rng.random() < 0.5:
        # from one side's corner to the other's, in the frame of a corner
        t = np.linspace(0, 1, 8)[:, None]
        arc = (1 - t) * (side, 0) + t * (0, 1.4 * depth)
        arc[1:-1] *= rng.uniform(0.72, 1.12, (6, 1))
        corner = np.array(size) / 2 * rng.choice((-1, 1), 2)
        inwards = -np.sign(corner)
        rim = corner + arc * inwards
        ring = np.concatenate([rim, corner[None]])
    else:
        t = np.linspace(0, np.pi, 10)
        arc = np.stack([-np.cos(t) * side / 2, np.sin(t) * depth], axis=1)
        arc[1:-1] *= rng.uniform(0.75, 1.15, (8, 1))
        upright = rng.random() < 0.5
        along, across = (1, 0) if upright else (0, 1)
        place = np.zeros(2)
        place[along] = (size[along] / 2 - side) * rng.uniform(-1, 1)
        sign = rng.choice((-1, 1))
        place[across] = sign * size[across] / 2
        rim = np.zeros_like(arc)
        rim[:, along] = place[along] + arc[:, 0]
        rim[:, across] = place[across] - sign * arc[:, 1]
        ring = rim
    return Flaw("chipping", (), ring, rim, strength)


Drawing = Callable[[np.random.Generator, Size, float, float], Flaw]

FLAWS: dict[str, Drawing] = {"crack": crack, "scratch": scratch, "chipping": chipping}


def _limits(size: Size, inset: float) -> tuple[Points, Points]:
    corner = np.array(size) / 2 - inset
    return -corner, corner


def _edge(rng: np.random.Generator, size: Size) -> tuple[Points, float]:
    """A place on an edge, and a heading into the die."""
    side = int(rng.integers(0, 4))
    place = rng.uniform(-0.46, 0.46)
    w, h = size
    inset = 0.0005
    at, normal = {
        0: ((place * w, -h / 2 + inset), 0.5),
        1: ((w / 2 - inset, place * h), 1.0),
        2: ((place * w, h / 2 - inset), 1.5),
        3: ((-w / 2 + inset, place * h), 0.0),
    }[side]
    return np.array(at), float(normal * np.pi + rng.uniform(-0.9, 0.9))


def _inside(rng: np.random.Generator, size: Size) -> tuple[Points, float]:
    low, high = _limits(size, 0.03)
    return rng.uniform(low, high), float(rng.uniform(-np.pi, np.pi))


def _walk(
    rng: np.random.Generator,
    size: Size,
    start: Points,
    heading: float,
    length: float,
    unrest: float,
) -> Points:
    """A path from start that ends at its length, or where it would leave the die."""
    steps = max(2, round(length / STEP))
    step = length / steps
    low, high = _limits(size, 0.0004)
    for _ in range(TRIES):
        turns = heading + 0.35 * unrest * np.cumsum(rng.standard_normal(steps))
        turns += unrest * rng.standard_normal(steps)
        moves = step * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        path = np.concatenate([start[None], start + np.cumsum(moves, axis=0)])
        out = ((path < low) | (path > high)).any(axis=1)
        count = int(np.argmax(out)) if out.any() else len(path)
        if count >= 3:
            return np.asarray(path[:count])
        heading = float(np.arctan2(-start[1], -start[0]) + rng.uniform(-0.5, 0.5))
    return np.stack([start, 0.9 * start])
