"""A die in its place on the package, with its flaws and their masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semiscope import geometry
from semiscope.simulate.package_camera import Pose, turned
from semiscope.simulate.package_defects import FLAWS, Flaw
from semiscope.simulate.package_design import BALL, Design
from semiscope.simulate.package_paint import Points, moved, quadrilateral, stroke
from semiscope.simulate.package_settings import DefectSettings, IcPackageSettings
from semiscope.types import Mask, Polygons

# a line is masked at least so wide, half of it, px: then its pixels hang together
LEAST_HALF_MASK = 0.71
TRIES = 20
LEAST_MASK_PX = 10
MOST_HIDDEN = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class PlacedDie:
    """A die in place.

    Attributes:
        homography: (3, 3) from its frame to pixels.
        corners: (4, 2) px.
        angle_deg: To the package.
        scale: Pixels a length of the package, where it lies.
        flaws: What is wrong with its surface.
        masks: A mask for each.
    """

    homography: Points
    corners: Points
    angle_deg: float
    scale: float
    flaws: tuple[Flaw, ...]
    masks: tuple[Mask, ...]


def draw_die(
    rng: np.random.Generator,
    rng_flaws: np.random.Generator,
    settings: IcPackageSettings,
    product: Design,
    pose: Pose,
    kinds: tuple[str, ...],
    with_cracks: bool,
) -> PlacedDie:
    """Puts the die on the package, rotated as its defects have it, and draws its flaws.

    Args:
        rng: Chance of its place and rotation.
        rng_flaws: Chance of its flaws.
        settings: What to simulate.
        product: The product.
        pose: Where the package is.
        kinds: Its defects, as draw_defects names them.
        with_cracks: Whether to put flaws in.
    """
    chosen = settings.defects
    if "rotation" in kinds:
        angle = float(rng.uniform(*chosen.rotation_deg) * rng.choice((-1, 1)))
    else:
        angle = float(rng.uniform(-chosen.natural_deg, chosen.natural_deg))
    x, y = np.array(product.die_centre) + rng.uniform(-0.004, 0.004, 2)
    homography = pose.homography @ turned(angle, x, y)
    w, h = product.die_size[0] / 2, product.die_size[1] / 2
    corners = moved(homography, [(-w, -h), (w, -h), (w, h), (-w, h)])
    scale = _scale_of(corners, product)
    found: list[tuple[Flaw, Mask]] = []
    for kind in kinds if with_cracks else ():
        for _ in range(int(rng_flaws.integers(1, chosen.most + 1)) if kind in FLAWS else 0):
            found += _draw_flaw(
                rng_flaws, kind, chosen, product, homography, corners, scale, settings
            )
    flaws, masks = tuple(f for f, _ in found), tuple(m for _, m in found)
    return PlacedDie(homography, corners, angle, scale, flaws, masks)


def _draw_flaw(
    rng: np.random.Generator,
    kind: str,
    chosen: DefectSettings,
    product: Design,
    homography: Points,
    corners: Points,
    scale: float,
    settings: IcPackageSettings,
) -> list[tuple[Flaw, Mask]]:
    low, high = np.log(chosen.length)
    for _ in range(TRIES):
        length = min(product.die_size) * float(np.exp(rng.uniform(low, high)))
        flaw = FLAWS[kind](rng, product.die_size, length, float(rng.uniform(*chosen.visibility)))
        if _hidden(flaw, product):
            continue
        mask = _mask(flaw, homography, scale, corners, settings.height, settings.width)
        if mask.area >= LEAST_MASK_PX:
            return [(flaw, mask)]
    return []


def _hidden(flaw: Flaw, product: Design) -> bool:
    """Whether much of a line lies under the balls of the bond wires."""
    if not flaw.strokes:
        return False
    points = np.concatenate([points for points, _ in flaw.strokes])
    away = np.linalg.norm(points[:, None] - product.die_pads[None], axis=2).min(axis=1)
    return bool((away < 1.6 * BALL).mean() > MOST_HIDDEN)


def _scale_of(corners: Points, product: Design) -> float:
    """Pixels a length of the package, where the die is."""
    (x, y), (u, v) = corners[2] - corners[0], corners[3] - corners[1]
    area = abs(x * v - y * u) / 2
    return float(math.sqrt(area / (product.die_size[0] * product.die_size[1])))


def _mask(
    flaw: Flaw, homography: Points, scale: float, corners: Points, height: int, width: int
) -> Mask:
    """The pixels whose centres are inside the flaw; of a thin line those that are near enough."""
    if flaw.ring is not None:
        return geometry.rasterise(Polygons((moved(homography, flaw.ring),)), height, width)
    inside = np.zeros((height, width), bool)
    for points, half in flaw.strokes:
        line = stroke(
            moved(homography, points), np.maximum(half * scale, LEAST_HALF_MASK), height, width
        )
        inside[line.slices] |= line.value >= 0
    die = quadrilateral(corners, height, width, 0)
    outside = np.ones_like(inside)
    outside[die.slices] = die.value < 0
    return geometry.crop(inside & ~outside)
