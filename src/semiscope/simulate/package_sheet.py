"""Drawing the surfaces of a product: canvases with a frame of their own.

Colours are red, green and blue from 0 to 255; lengths are those of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Texture = NDArray[np.uint8]
Colour = Sequence[float] | NDArray[np.float64]
Place = Sequence[float] | NDArray[np.float64]

# what a dark field shows of flat parts and of edges
DARK_FLAT = 0.10
DARK_EDGES = 0.75
_SHIFT = 4


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A drawn surface.

    Attributes:
        bright: (h, w, 3) uint8 as a bright field shows it.
        dark: The same as a dark field shows it: flat parts dark, edges bright.
        to_units: (3, 3) from its pixels to its frame.
    """

    bright: Texture
    dark: Texture
    to_units: NDArray[np.float64]


class Sheet:
    """A canvas whose frame has its middle at (0, 0).

    Attributes:
        scale: Pixels a length of the frame.
        origin: (2,) of the canvas's top left corner, in the frame.
        pixels: (h, w, 3) uint8, what was drawn so far.
    """

    def __init__(self, width: float, height: float, scale: float, colour: Colour) -> None:
        self.scale = scale
        rows, columns = max(8, round(height * scale)), max(8, round(width * scale))
        self.origin = np.array([-columns, -rows]) / (2 * scale)
        self.pixels: Texture = np.full((rows, columns, 3), _scalar(colour), np.uint8)

    def _at(self, points: ArrayLike) -> NDArray[np.int32]:
        place = (np.asarray(points, np.float64) - self.origin) * self.scale - 0.5
        return np.asarray(np.rint(place * 2**_SHIFT), np.int32)

    def fill(self, points: ArrayLike, colour: Colour) -> None:
        """A filled polygon."""
        cv2.fillPoly(self.pixels, [self._at(points)], _scalar(colour), cv2.LINE_AA, _SHIFT)

    def box(self, centre: Place, size: Place, colour: Colour) -> None:
        """A filled rectangle of a width and a height."""
        (x, y), (w, h) = centre, (size[0] / 2, size[1] / 2)
        self.fill([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)], colour)

    def line(self, points: ArrayLike, width: float, colour: Colour) -> None:
        """A line through points."""
        path, thick = [self._at(points)], max(1, round(width * self.scale))
        cv2.polylines(self.pixels, path, False, _scalar(colour), thick, cv2.LINE_AA, _SHIFT)

    def disc(self, centre: Place, radius: float, colour: Colour) -> None:
        """A filled circle."""
        x, y = (int(v) for v in self._at(np.asarray(centre)))
        reach = round(radius * self.scale * 2**_SHIFT)
        cv2.circle(self.pixels, (x, y), reach, _scalar(colour), -1, cv2.LINE_AA, _SHIFT)

    def text(self, place: Place, height: float, text: str, colour: Colour) -> None:
        """Letters of a height, from a place on."""
        x, y = (int(v) >> _SHIFT for v in self._at(np.asarray(place)))
        size = height * self.scale / 22
        thick = max(1, round(size * 1.8))
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(self.pixels, text, (x, y), font, size, _scalar(colour), thick, cv2.LINE_AA)

    def grain(self, rng: np.random.Generator, deviation: float, cell: float = 1.0) -> None:
        """Fine texture of the material; `cell` is the size of its grains in pixels."""
        h, w = self.pixels.shape[:2]
        coarse = (max(2, int(h / cell)), max(2, int(w / cell)))
        noise = rng.standard_normal(coarse, dtype=np.float32) * np.float32(deviation)
        self._add(np.asarray(cv2.resize(noise, (w, h), interpolation=cv2.INTER_LINEAR)))

    def weave(self, deviation: float, across: float, down: float) -> None:
        """The glass cloth of a board, which shows faintly; the last two are its periods."""
        rows, columns = self.pixels.shape[:2]
        x = np.sin(2 * np.pi / (across * self.scale) * np.arange(columns, dtype=np.float32))
        y = np.sin(2 * np.pi / (down * self.scale) * np.arange(rows, dtype=np.float32))
        self._add(np.outer(y, x) * np.float32(deviation))

    def _add(self, relief: NDArray[np.float32]) -> None:
        added = self.pixels.astype(np.float32) + relief[..., None]
        self.pixels = np.clip(added, 0, 255).astype(np.uint8)

    def layer(self) -> Layer:
        """What was drawn, as either field shows it."""
        bright = cv2.GaussianBlur(self.pixels, (0, 0), 0.6)
        edges = cv2.morphologyEx(bright, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        dark = cv2.addWeighted(bright, DARK_FLAT, edges, DARK_EDGES, 0)
        to_units = np.diag([1 / self.scale, 1 / self.scale, 1.0])
        to_units[:2, 2] = self.origin
        return Layer(np.asarray(bright), np.asarray(dark), to_units)


def _scalar(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in colour)
    return red, green, blue
