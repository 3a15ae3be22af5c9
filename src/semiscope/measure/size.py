"""How large an instance is, in pixels and in nanometres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import rasterise
from semiscope.types import Mask, Polygons, Shape


@dataclass(frozen=True, slots=True)
class Size:
    """The extent of one instance.

    Attributes:
        width: Of its box, px.
        height: Of its box, px.
        area: Of its outline where it has one, else of its box, px².
        nm_per_px: Width of a pixel in nm, or None when it is not known.
    """

    width: float
    height: float
    area: float
    nm_per_px: float | None

    @property
    def length(self) -> float:
        """The longer side of the box, px: what "the size of the defect" means in a figure."""
        return max(self.width, self.height)

    @property
    def width_nm(self) -> float | None:
        """Width of the box in nm, or None."""
        return None if self.nm_per_px is None else self.width * self.nm_per_px

    @property
    def height_nm(self) -> float | None:
        """Height of the box in nm, or None."""
        return None if self.nm_per_px is None else self.height * self.nm_per_px

    @property
    def area_nm2(self) -> float | None:
        """Area in nm², or None."""
        return None if self.nm_per_px is None else self.area * self.nm_per_px**2


def measure_size(
    box: NDArray[np.float32], shape: Shape | None, height: int, width: int, nm_per_px: float | None
) -> Size:
    """Measures one instance.

    Args:
        box: (4,) xyxy, px.
        shape: Its mask or outline, or None when only the box is known.
        height: Rows of the image; an outline is cut to it.
        width: Columns of the image.
        nm_per_px: Width of a pixel in nm, or None.
    """
    left, top, right, bottom = (float(v) for v in box)
    mask = rasterise(shape, height, width) if isinstance(shape, Polygons) else shape
    area = float(mask.area) if isinstance(mask, Mask) else (right - left) * (bottom - top)
    return Size(right - left, bottom - top, area, nm_per_px)
