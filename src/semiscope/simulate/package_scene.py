"""One simulated photograph of an IC package on its board, with its exact truth.

A unit depends on its settings, the seed and its index alone, so any process may render any of them
in any order, and more units change nothing in those before. Another illumination shows the same
unit in another light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiscope import geometry
from semiscope.errors import SettingsError
from semiscope.simulate.package_camera import Pose, draw_pose, package_rectangle, photograph
from semiscope.simulate.package_clutter import (
    paint_dust,
    paint_edge_scratches,
    paint_fibre,
    paint_led_crack,
)
from semiscope.simulate.package_design import Design, design
from semiscope.simulate.package_die import PlacedDie, draw_die
from semiscope.simulate.package_paint import Points, moved
from semiscope.simulate.package_render import (
    paint_board_and_body,
    paint_die,
    paint_flaws,
    paint_residue,
    paint_wires,
)
from semiscope.simulate.package_settings import (
    CLASSES,
    IcPackageSettings,
    draw_defects,
    split_of,
)
from semiscope.types import Annotations, Polygons, Shape

# textures are drawn finer than the photograph by this
OVERSAMPLING = 1.25
# and not finer than this, pixels a length of the package: large photographs show them softer
MOST_SCALE = 1300


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One simulated photograph with its truth.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        annotations: Package, die unless it is missing, and cracks, as indices of CLASSES; the first
            two have their corners as outline, cracks a mask; the die has its angle.
        kinds: For each annotation "crack", "scratch" or "chipping", or None.
        package_corners: (4, 2) px, clockwise from the top left of its own upright view.
        package_angle_deg: Turn of the package in the photograph, counter-clockwise.
        die_corners: The same of the die, or None.
        die_angle_deg: Rotation of the die to its package, counter-clockwise, or None.
        verdict: "pass" or "fail".
        reasons: Some of "missing_die", "die_rotation" and "die_crack"; empty for a pass.
        illumination: As in CameraSettings.
        split: "train", "val" or "test".
    """

    pixels: NDArray[np.uint8]
    annotations: Annotations
    kinds: tuple[str | None, ...]
    package_corners: Points
    package_angle_deg: float
    die_corners: Points | None
    die_angle_deg: float | None
    verdict: str
    reasons: tuple[str, ...]
    illumination: str
    split: str


def render_unit(settings: IcPackageSettings, index: int, with_cracks: bool = True) -> Unit:
    """One unit, the same whenever and wherever it is rendered.

    Args:
        settings: What to simulate.
        index: 0 to settings.count - 1.
        with_cracks: Whether to put cracks, scratches and chips in; all else stays as it is.

    Raises:
        SettingsError: There is no such index.
    """
    if not 0 <= index < settings.count:
        raise SettingsError(f"unit {index}: expected an index from 0 to {settings.count - 1}")
    seeds = np.random.SeedSequence((settings.seed, index)).spawn(6)
    rng_pose, rng_unit, rng_flaws, rng_clutter, rng_light, rng_noise = map(
        np.random.default_rng, seeds
    )
    height, width = settings.height, settings.width
    finest = OVERSAMPLING * settings.pose.size[1] * min(height, width / 0.6)
    scale = min(math.ceil(finest), MOST_SCALE)
    product = design(int(rng_pose.integers(settings.products)), scale)
    pose = draw_pose(rng_pose, settings.pose, product.aspect, height, width)
    kinds = draw_defects(rng_unit, settings.defects)
    die = None
    if "missing" not in kinds:
        die = draw_die(rng_unit, rng_flaws, settings, product, pose, kinds, with_cracks)
    lights = settings.camera.illumination
    illumination = lights[int(rng_light.integers(len(lights)))]
    dark = illumination != "bright_field"

    scene = paint_board_and_body(rng_clutter, settings, product, pose, dark)
    if die is None:
        paint_residue(rng_unit, scene, product, pose, dark)
    else:
        covered = paint_die(rng_unit, scene, product, pose, die, dark)
        paint_flaws(rng_flaws, scene, die, covered, dark)
        paint_wires(rng_unit, scene, product, pose, die, dark)
    clutter = settings.clutter
    if rng_clutter.random() < clutter.led_cracks:
        paint_led_crack(rng_clutter, scene, product, pose, dark)
    if rng_clutter.random() < clutter.edge_scratches:
        paint_edge_scratches(rng_clutter, scene, product, pose, dark)
    if rng_clutter.random() < clutter.fibres:
        paint_fibre(rng_clutter, scene, pose, dark)
    paint_dust(rng_clutter, scene, clutter.dust, pose.scale, dark)
    pixels = photograph(rng_light, rng_noise, scene, settings.camera, illumination)
    return _with_truth(settings, index, pixels, product, pose, die, illumination)


def _with_truth(
    settings: IcPackageSettings,
    index: int,
    pixels: NDArray[np.uint8],
    product: Design,
    pose: Pose,
    die: PlacedDie | None,
    illumination: str,
) -> Unit:
    package = moved(pose.homography, package_rectangle(product.aspect))
    shapes: list[Shape] = [Polygons((package,))]
    names = ["package"]
    kinds: list[str | None] = [None]
    angles = [math.nan]
    reasons = []
    if die is None:
        reasons.append("missing_die")
    else:
        shapes += [Polygons((die.corners,)), *die.masks]
        names += ["die", *("crack" for _ in die.masks)]
        kinds += [None, *(f.kind for f in die.flaws)]
        angles += [die.angle_deg, *(math.nan for _ in die.masks)]
        if abs(die.angle_deg) > settings.defects.tolerance_deg:
            reasons.append("die_rotation")
        if die.flaws:
            reasons.append("die_crack")
    annotations = Annotations(
        np.stack([geometry.shape_box(s) for s in shapes]),
        np.array([CLASSES.index(n) for n in names]),
        shapes=tuple(shapes),
        angle_deg=np.array(angles, np.float32),
    )
    return Unit(
        pixels,
        annotations,
        tuple(kinds),
        package,
        pose.angle_deg,
        None if die is None else die.corners,
        None if die is None else die.angle_deg,
        "fail" if reasons else "pass",
        tuple(reasons),
        illumination,
        split_of(settings, index),
    )
