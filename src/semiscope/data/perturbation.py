"""What a perturbation of an image is, and how truth follows the pixels that one moves.

A displacement d, (2, H, W) float32 in pixels, x first, says where a perturbed pixel comes from:
``new[y, x] = old[y + d[1, y, x], x + d[0, y, x]]``. Beyond its border an image goes on as its own
mirror image, for pixels and truth alike, so that nothing needs to be left out.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.config import Settings

FloatArray = NDArray[np.float32]

Perturbed = tuple[FloatArray, FloatArray | None]
"""New pixels, and the displacement when they have moved."""


class Perturbation(Settings):
    """One way in which an image is disturbed; its fields are what it does at strength 1.

    The chance drawn does not depend on the strength: the same generator gives the same disturbance,
    fainter or stronger.
    """

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """The disturbed image.

        Args:
            pixels: (H, W) float32 in [0, 1]; left as they are.
            rng: Decides everything.
            strength: 0 (nothing changes) to 1.

        Returns:
            (H, W) float32 in [0, 1], and the displacement, or None where nothing moves.
        """
        raise NotImplementedError


def displaced(pixels: FloatArray, displacement: FloatArray) -> FloatArray:
    """The pixels after they have moved, interpolated linearly."""
    height, width = pixels.shape
    x = displacement[0] + np.arange(width, dtype=np.float32)
    y = displacement[1] + np.arange(height, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(pixels, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101))


def chained(first: FloatArray, second: FloatArray) -> FloatArray:
    """The displacement of two movements, the first before the second."""
    return second + np.stack([displaced(axis, second) for axis in first])


def source_index(displacement: FloatArray) -> NDArray[np.int64]:
    """(H, W) flat index of the pixel that each perturbed pixel comes from, the nearest one.

    ``plane.reshape(-1)[source_index(d)]`` moves a class map or a confidence map as the pixels were
    moved; gather does the same in torch.
    """
    _, height, width = displacement.shape
    x = _mirrored(np.rint(displacement[0] + np.arange(width, dtype=np.float32)), width)
    y = _mirrored(np.rint(displacement[1] + np.arange(height, dtype=np.float32)[:, None]), height)
    return np.asarray(y * width + x)


def follow(plane: NDArray[Any], displacement: FloatArray | None) -> NDArray[Any]:
    """A class map or a confidence map, moved as the pixels were.

    Args:
        plane: (H, W) of any type; values are taken as they are, never mixed.
        displacement: Of the perturbation; None moves nothing.
    """
    return plane if displacement is None else plane.reshape(-1)[source_index(displacement)]


def _mirrored(place: FloatArray, size: int) -> NDArray[np.int64]:
    if size == 1:
        return np.zeros(place.shape, np.int64)
    period = 2 * size - 2
    folded = np.abs(place.astype(np.int64)) % period
    return np.asarray(np.minimum(folded, period - folded))
