"""A canvas of class indices on which a cross-section is drawn in nanometres, finer than an image.

x goes to the right and y down, from the canvas's top left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

ClassMap = NDArray[np.uint8]
Window = tuple[slice, slice]

# canvas pixels around an outline on its own
BORDER = 6

# OpenCV takes polygons in fractions of a pixel: 1 / 16
_SHIFT = 4


@dataclass(frozen=True, slots=True)
class Shell:
    """A film that lines a trench: its class, its thickness and the y at which it ends above, nm."""

    class_id: int
    thickness: float
    top: float


class Canvas:
    """Class indices of an ideal cross-section.

    Attributes:
        classes: (rows, columns) uint8.
        scale: Canvas pixels a nanometre.
    """

    def __init__(self, rows: int, columns: int, scale: float, class_id: int) -> None:
        self.classes: ClassMap = np.full((rows, columns), class_id, np.uint8)
        self.scale = scale

    @property
    def height(self) -> float:
        """In nanometres."""
        return float(self.classes.shape[0] / self.scale)

    @property
    def width(self) -> float:
        """In nanometres."""
        return float(self.classes.shape[1] / self.scale)

    def layer(self, top: float, bottom: float, class_id: int) -> None:
        """A layer over the whole width."""
        first, last = (max(0, round(y * self.scale)) for y in (top, bottom))
        self.classes[first:last] = class_id

    def polygon(self, points: ArrayLike, class_id: int) -> None:
        """A filled outline, (k, 2) nm."""
        whole = np.rint(self._corners(points) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(self.classes, [whole], class_id, shift=_SHIFT)

    def trench(
        self, outline: ArrayLike, top: float, shells: Sequence[Shell], core: Shell, above: int
    ) -> None:
        """An outline lined by films of even thickness, then filled.

        Args:
            outline: (k, 2) nm; it goes on above ``top``, where the trench is open, so that no film
                crosses its opening.
            top: y of the opening.
            shells: From the wall inwards.
            core: What fills the rest; its thickness has no meaning.
            above: Class of what lies above films and core that end below the opening.
        """
        mask, window, part = self.rasterised(outline)
        # films are even beside the canvas's border as well: the whole outline is measured
        whole = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        y = np.arange(window[0].start, window[0].stop)[:, None]
        depth = np.where(y >= round(top * self.scale), np.asarray(whole)[part], np.float32(0))
        classes = self.classes[window]
        classes[depth > 0] = above
        reached = 0.5
        for shell in shells:
            end = reached + shell.thickness * self.scale
            film = (depth > reached) & (depth <= end) & (y >= shell.top * self.scale)
            classes[film] = shell.class_id
            reached = end
        classes[(depth > reached) & (y >= core.top * self.scale)] = core.class_id

    def rasterised(self, points: ArrayLike) -> tuple[ClassMap, Window, Window]:
        """A filled outline on its own.

        Args:
            points: (k, 2) nm.

        Returns:
            Bits of the whole outline with a border of BORDER canvas pixels around it; the window of
            the canvas that they cover; and the window of the bits that is on the canvas.
        """
        corners = self._corners(points)
        left, up = (int(v) - BORDER for v in np.floor(corners.min(axis=0)))
        right, down = (int(v) + BORDER + 1 for v in np.ceil(corners.max(axis=0)))
        mask = np.zeros((down - up, right - left), np.uint8)
        local = np.rint((corners - (left, up)) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(mask, [local], 1, shift=_SHIFT)
        rows, columns = self.classes.shape
        top, bottom = (min(max(v, 0), rows) for v in (up, down))
        first, last = (min(max(v, 0), columns) for v in (left, right))
        return (
            mask,
            (slice(top, bottom), slice(first, last)),
            (slice(top - up, bottom - up), slice(first - left, last - left)),
        )

    def _corners(self, points: ArrayLike) -> NDArray[np.float64]:
        """Canvas pixels as OpenCV counts them: from the centre of the first."""
        return np.asarray(points, np.float64) * self.scale - 0.5
