"""Which way up a package lies: its crop against a reference in the eight symmetries of a rectangle.

The crops' fine structure is correlated, so that brightness and the slow course of the light do not
matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.capture.upright import Corners
from semiscope.measure.edges import grey
from semiscope.types import Pixels

_SIDE = 96
_LEAST_LEAD = 0.05
"""Correlation by which one symmetry must be ahead of all others."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a crop lies against a reference.

    Attributes:
        quarter_turns: Counter-clockwise turns of the crop, after unmirroring, that make it lie like
            the reference, 0 to 3.
        mirrored: Whether it shows the package mirrored, left to right.
        correlation: With the reference, once it lies like it; at most 1.
    """

    quarter_turns: int
    mirrored: bool
    correlation: float

    def reorder(self, corners: Corners) -> Corners:
        """The corners (4, 2) of the crop in the order of the package's own upright view."""
        if self.mirrored:
            corners = corners[[1, 0, 3, 2]]
        return np.roll(corners, -self.quarter_turns, axis=0)


def orient(pixels: Pixels, reference: Pixels) -> Orientation | None:
    """How an upright crop must be turned or mirrored to lie like a reference.

    Args:
        pixels: (H, W) or (H, W, 3), any depth.
        reference: Likewise, of a package of the same product that lies the right way up; of any
            size.

    Returns:
        The orientation, or None when no symmetry is clearly ahead of the others.
    """
    own, other = _fine(pixels), _fine(reference)
    found: list[tuple[float, int, bool]] = []
    for mirrored in (False, True):
        view = own[:, ::-1] if mirrored else own
        for turns in range(4):
            found.append((float((np.rot90(view, turns) * other).mean()), turns, mirrored))
    found.sort(reverse=True)
    (best, turns, mirrored), (second, _, _) = found[:2]
    return Orientation(turns, mirrored, best) if best - second >= _LEAST_LEAD else None


def _fine(pixels: Pixels) -> NDArray[np.float32]:
    """(96, 96) fine structure with mean 0 and deviation 1."""
    small = cv2.resize(grey(pixels), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    fine = cv2.GaussianBlur(small, (0, 0), 1) - cv2.GaussianBlur(small, (0, 0), _SIDE / 8)
    deviation = float(fine.std())
    # without structure nothing is like anything
    scaled: NDArray[np.float32] = (fine - fine.mean()) / deviation if deviation > 0 else fine
    return scaled
