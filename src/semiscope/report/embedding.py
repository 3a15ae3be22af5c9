"""A map of images by what a network sees in them: alike is near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

_MOST = 3000
_FOR_AXES = 256
_LEAST_NORM = 1e-6  # of an axis along which images differ
_SIDE, _EDGE = 560, 14
COLOURS = 10
"""How many classes have a colour of their own; the next begin again."""


@dataclass(frozen=True, slots=True)
class Dot:
    """An image on the map.

    Attributes:
        title: What is told where the pointer rests.
        kind: Class index.
        disposition: "accept", "review" or "unknown".
    """

    title: str
    kind: int
    disposition: str


def project(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Two numbers an image: its place along the two axes on which the images differ most (PCA).

    Args:
        levels: (n, d) features, n at least 1.

    Returns:
        (n, 2); an axis points to where its largest weight is positive, so that the same images give
        the same map.
    """
    values = levels.astype(np.float32)
    some = values[:: -(-len(values) // _FOR_AXES)]
    mean = some.mean(axis=0)
    centred = (some - mean).astype(np.float64)
    # fewer images than features: the axes come faster from the products of the images
    main = np.linalg.eigh(centred @ centred.T)[1][:, : -min(2, len(some)) - 1 : -1]
    axes = main.T @ centred
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), _LEAST_NORM)
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    places = np.zeros((len(values), 2))
    places[:, : len(axes)] = (values - mean) @ axes.T
    return places


def embedding_map(places: NDArray[np.float64], dots: Sequence[Dot]) -> str:
    """The map as SVG text: full dots are accepted, rings for review, crosses unknown.

    Args:
        places: (n, 2) from ``project``.
        dots: n. Of more than 3000 some are drawn, evenly taken, and all that are unknown.
    """
    every = -(-len(dots) // _MOST)
    drawn = [i for i, d in enumerate(dots) if i % every == 0 or d.disposition == "unknown"]
    low, high = places.min(axis=0), places.max(axis=0)
    inside = _SIDE - 2 * _EDGE
    scale = inside / float(max((high - low).max(), 1e-9))
    size = np.maximum((high - low) * scale, [inside, inside / 4])
    corner = _EDGE + (size - (low + high) * scale) / 2
    parts = []
    # what a person should see lies on top
    for i in sorted(drawn, key=lambda i: dots[i].disposition != "accept"):
        x, y = corner + places[i] * scale
        dot = dots[i]
        style = f'class="dot {dot.disposition} c{dot.kind % COLOURS}"'
        title = f"<title>{escape(dot.title)}</title>"
        if dot.disposition == "unknown":
            path = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
            parts.append(f'<path {style} d="{path}">{title}</path>')
        else:
            parts.append(f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="3.5">{title}</circle>')
    return (
        f'<svg class="chart embedding" viewBox="0 0 {_SIDE} {size[1] + 2 * _EDGE:.0f}" role="img" '
        f'aria-label="Images, alike near each other">{"".join(parts)}</svg>'
    )
