"""What every way of finding a package gives, and what becomes of it: an upright crop or a reason.

A finder takes pixels and gives candidates, best first. No candidate, or several, is an answer like
any other: the unit goes to a person with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from semiscope.capture.illumination import (
    Illumination,
    IlluminationSettings,
    exposure,
    illumination,
)
from semiscope.capture.orient import Orientation, orient
from semiscope.capture.upright import Corners, Upright, make_upright
from semiscope.config import Settings
from semiscope.types import Pixels

NONE_FOUND = "none found"
SEVERAL_FOUND = "several found"
CUT = "cut by the border"
OVER_EXPOSED = "over-exposed"
UNDER_EXPOSED = "under-exposed"
_DARK = 0.02  # of white: with no pixel brighter nothing was exposed
_BORDER = 0.004  # of the image's smaller side: how near to the border a side lies on it


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A package that a finder believes to see.

    Attributes:
        corners: (4, 2) float64, x and y px, clockwise on screen from the top left.
        score: How sure the finder is, 0 to 1.
        method: The finder's name.
    """

    corners: Corners
    score: float
    method: str


Pixel = Annotated[int, Field(ge=8, le=16384)]
Finder = Callable[[Pixels], list[Candidate]]
"""Takes (H, W) or (H, W, 3) RGB of any depth; gives candidates, best first, [] for none."""


class UprightSettings(Settings):
    """How a package that was found is cut out."""

    size: tuple[Pixel, Pixel] | None = Field(
        None, description="Height and width of the crops, px; by default as in the photograph"
    )
    margin: float = Field(
        0.0, ge=0, le=0.5, description="Shown around the package, share of its width and height"
    )
    illumination: IlluminationSettings = Field(
        IlluminationSettings(), description="How the illumination is told"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """What became of one photograph.

    Attributes:
        candidates: All that the finder gave, best first.
        upright: The package upright, or None with a reason.
        corners: (4, 2) of the package in its own upright order, px; None without ``upright``.
        reason: Why there is no crop; None when there is one.
        illumination: See ``illumination``.
        orientation: Which way up the package lay; None when it is unknown.
        notes: What a person should know, one sentence each.
    """

    candidates: Sequence[Candidate]
    upright: Upright | None
    corners: Corners | None
    reason: str | None
    illumination: Illumination
    orientation: Orientation | None
    notes: tuple[str, ...]


def capture(
    pixels: Pixels,
    finder: Finder,
    settings: UprightSettings = UprightSettings(),  # noqa: B008
    reference: Pixels | None = None,
) -> Capture:
    """Finds the package in a photograph and makes it upright.

    There is no crop, and a reason in its place, when no package was found, several were, or the one
    is cut by the photograph's border.

    Args:
        pixels: (H, W) or (H, W, 3) RGB, any depth, any size.
        finder: What finds the package.
        settings: How it is cut out.
        reference: An upright crop of a package of the same product that lies the right way up; the
            crop is turned, and mirrored back, to lie like it. Without one the orientation is the
            one on screen, to a quarter turn, and told as unknown.
    """
    light = illumination(pixels, settings.illumination)
    saturated, brightest = exposure(pixels, settings.illumination)
    over = saturated > settings.illumination.most_saturated
    notes = [f"{OVER_EXPOSED}: {100 * saturated:.0f} % of the pixels are saturated"] if over else []
    candidates = finder(pixels)
    reason = None
    if not candidates:
        reason = OVER_EXPOSED if over else UNDER_EXPOSED if brightest < _DARK else NONE_FOUND
    elif len(candidates) > 1:
        reason = SEVERAL_FOUND
    elif is_cut(candidates[0].corners, pixels.shape[0], pixels.shape[1]):
        reason = CUT
    if reason is not None:
        return Capture(candidates, None, None, reason, light, None, tuple(notes))
    corners = candidates[0].corners
    orientation = None
    if reference is not None:
        orientation = orient(make_upright(pixels, corners).pixels, reference)
        if orientation is None:
            notes.append("orientation unknown: no way up is clearly like the reference")
        else:
            corners = orientation.reorder(corners)
            if orientation.mirrored:
                notes.append("the photograph is mirrored")
    upright = make_upright(pixels, corners, settings.size, settings.margin)
    return Capture(candidates, upright, corners, None, light, orientation, tuple(notes))


def is_cut(corners: Corners, height: int, width: int) -> bool:
    """Whether a package goes beyond the photograph or a side of it lies on the border.

    Args:
        corners: (4, 2) px, clockwise or counter-clockwise.
        height: Of the photograph, px.
        width: Of the photograph, px.
    """
    near = max(1.0, _BORDER * min(height, width))
    # distance to each of the four borders, negative outside
    inside = np.stack(
        [corners[:, 0], width - corners[:, 0], corners[:, 1], height - corners[:, 1]], axis=1
    )
    if (inside < -near).any():
        return True
    on = inside <= near
    return bool((on & np.roll(on, -1, axis=0)).any())
