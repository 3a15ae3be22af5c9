"""What lies about in a photograph of a package and is no defect of the die: never annotated."""

from __future__ import annotations

import numpy as np

from semiscope.simulate.line_space import FloatArray
from semiscope.simulate.package_camera import Pose, turned
from semiscope.simulate.package_defects import crack
from semiscope.simulate.package_design import Design
from semiscope.simulate.package_paint import Patch, curve, moved, paint, stroke


def paint_led_crack(
    rng: np.random.Generator, scene: FloatArray, product: Design, pose: Pose, dark: bool
) -> None:
    """Cracks in the LED's epoxy: as those of a die, in another place."""
    height, width = scene.shape[:2]
    side = product.led_size * 0.9
    homography = pose.homography @ turned(0, *product.led_centre)
    for _ in range(int(rng.integers(1, 3))):
        flaw = crack(rng, (side, side), side * rng.uniform(0.25, 0.9), 1.0)
        strength = float(rng.uniform(0.45, 0.95))
        for points, half in flaw.strokes:
            line = stroke(moved(homography, points), half * pose.scale, height, width).covering()
            paint(scene, line, (235, 232, 220) if dark else (48, 42, 30), strength)


def paint_edge_scratches(
    rng: np.random.Generator, scene: FloatArray, product: Design, pose: Pose, dark: bool
) -> None:
    """Scratches from the board over the package's edge; they end before the die."""
    height, width = scene.shape[:2]
    edge = np.array([product.aspect / 2, 0.5])
    for _ in range(int(rng.integers(1, 4))):
        across = int(rng.integers(0, 2))
        along = 1 - across
        sign = rng.choice((-1, 1))
        place = rng.uniform(-0.9, 0.9) * edge[along]
        slant = rng.uniform(-0.1, 0.1)
        t = np.linspace(0, 1, 9)
        points = np.zeros((9, 2))
        inside, outside = rng.uniform(0.015, 0.06), rng.uniform(0.03, 0.14)
        points[:, across] = sign * (edge[across] - inside + t * (inside + outside))
        points[:, along] = place + slant * t + 0.0015 * np.cumsum(rng.standard_normal(9))
        half = rng.uniform(0.0010, 0.0028) * pose.scale * np.sin(np.linspace(0.5, 2.6, 9))
        line = stroke(moved(pose.homography, points), half, height, width).covering()
        colour = np.array((150, 190, 150)) + rng.uniform(-30, 50)
        paint(scene, line, (220, 225, 215) if dark else colour, float(rng.uniform(0.5, 0.95)))


def paint_fibre(rng: np.random.Generator, scene: FloatArray, pose: Pose, dark: bool) -> None:
    """A fibre of cloth on the package's lower half or on the board."""
    height, width = scene.shape[:2]
    start = rng.uniform((-0.5, 0.14), (0.5, 0.6))
    ends = start + rng.uniform(-0.25, 0.25, (2, 2))
    ends[:, 1] = np.maximum(ends[:, 1], 0.12)
    path = moved(pose.homography, curve((start, *ends), 16))
    line = stroke(path, 0.0011 * pose.scale, height, width, 3)
    soft = Patch(line.top, line.left, np.clip(line.value * np.float32(0.6) + 0.5, 0, 1))
    grey = 210 if dark else rng.choice((60, 200))
    paint(scene, soft, (grey, grey, grey), float(rng.uniform(0.4, 0.8)))


def paint_dust(
    rng: np.random.Generator,
    scene: FloatArray,
    numbers: tuple[int, int],
    scale: float,
    dark: bool,
) -> None:
    """Round grains, some of them out of focus."""
    height, width = scene.shape[:2]
    for _ in range(int(rng.integers(numbers[0], numbers[1] + 1))):
        place = rng.uniform((0, 0), (width, height))
        radius = float(np.exp(rng.uniform(np.log(0.0012), np.log(0.006)))) * scale
        softness = float(rng.uniform(0.8, 2.5))
        points = np.stack([place, place + rng.uniform(-0.6, 0.6, 2) * radius])
        grain = stroke(points, radius, height, width, 1 + softness)
        cover = np.clip(grain.value / np.float32(softness) + np.float32(0.5), 0, 1)
        grey = float(rng.uniform(190, 245) if dark or rng.random() < 0.4 else rng.uniform(25, 80))
        strength = float(rng.uniform(0.3, 0.85))
        paint(scene, Patch(grain.top, grain.left, cover), (grey, grey, grey * 0.97), strength)
