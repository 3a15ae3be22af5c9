"""Painting a unit: board, package, die, cracks, wires, and what is left where a die is missing."""

from __future__ import annotations

import numpy as np

from semiscope.simulate.line_space import FloatArray
from semiscope.simulate.package_camera import Pose, package_rectangle, turned
from semiscope.simulate.package_defects import Flaw
from semiscope.simulate.package_design import BALL, Design
from semiscope.simulate.package_die import PlacedDie
from semiscope.simulate.package_paint import (
    Patch,
    clouds,
    curve,
    moved,
    paint,
    polygon,
    quadrilateral,
    shade,
    stroke,
    warp,
    window,
)
from semiscope.simulate.package_settings import IcPackageSettings

LEAST_HALF_LINE = 0.42


def paint_board_and_body(
    rng: np.random.Generator, settings: IcPackageSettings, product: Design, pose: Pose, dark: bool
) -> FloatArray:
    """Green board, and the package that turns from green to black over a soft border."""
    height, width = settings.height, settings.width
    layer = product.board
    # a panel's units do not lie on its traces to the micrometre
    slip = turned(rng.uniform(-0.5, 0.5), *rng.uniform(-0.02, 0.02, 2))
    to_photo = pose.homography @ slip @ layer.to_units
    scene = warp(layer.dark if dark else layer.bright, to_photo, (0, height, 0, width))

    corners = moved(pose.homography, package_rectangle(product.aspect))
    area = window(corners, 0.1 * pose.scale, height, width)
    top, bottom, left, right = area
    depth = _package_depth(product, pose, area)
    depth += clouds(rng, 20, bottom - top, right - left, 0.0006)
    border = float(rng.uniform(*settings.clutter.border))
    ramp = np.clip(depth / np.float32(border) + np.float32(0.5), 0, 1)
    ramp *= ramp * (3 - 2 * ramp)
    # the board is a little darker right beside the package
    shadow = np.clip(1 + depth / np.float32(0.06), 0, 1) * np.float32(rng.uniform(0.05, 0.35))
    around = scene[top:bottom, left:right]
    around *= (1 - shadow)[..., None]
    layer = product.body
    body = warp(layer.dark if dark else layer.bright, pose.homography @ layer.to_units, area)
    body -= around
    body *= ramp[..., None]
    around += body
    return scene


def _package_depth(product: Design, pose: Pose, area: tuple[int, int, int, int]) -> FloatArray:
    """How deep each pixel's centre is in the package, lengths of the package."""
    top, bottom, left, right = area
    back = np.linalg.inv(pose.homography).astype(np.float32)
    x = (np.arange(left, right) + 0.5).astype(np.float32)[None]
    y = (np.arange(top, bottom) + 0.5).astype(np.float32)[:, None]
    below = 1 / (x * back[2, 0] + (y * back[2, 1] + back[2, 2]))
    radius = np.float32(product.radius)
    u = np.abs((x * back[0, 0] + (y * back[0, 1] + back[0, 2])) * below)
    v = np.abs((x * back[1, 0] + (y * back[1, 1] + back[1, 2])) * below)
    u -= np.float32(product.aspect / 2) - radius
    v -= np.float32(0.5) - radius
    inner = np.minimum(np.maximum(u, v), 0)
    np.maximum(u, 0, out=u)
    np.maximum(v, 0, out=v)
    return np.asarray(radius - inner - np.sqrt(u * u + v * v))


def paint_die(
    rng: np.random.Generator,
    scene: FloatArray,
    product: Design,
    pose: Pose,
    die: PlacedDie,
    dark: bool,
) -> Patch:
    """The die with its glue and its sheen; returns what it covers, without its chips."""
    height, width = scene.shape[:2]
    reach = 0.03 * pose.scale
    depth = quadrilateral(die.corners, height, width, reach)
    # glue that has crept out from under the die, and the die's own shadow
    fillet = np.exp(np.minimum(depth.value, 0) * np.float32(1 / (rng.uniform(0.2, 0.45) * reach)))
    shade(scene, Patch(depth.top, depth.left, fillet), float(rng.uniform(0.4, 0.75)))
    top, left = depth.top, depth.left
    bottom, right = top + depth.value.shape[0], left + depth.value.shape[1]
    layer = product.die
    surface = warp(
        layer.dark if dark else layer.bright,
        die.homography @ layer.to_units,
        (top, bottom, left, right),
    )
    surface *= _sheen(rng, surface, dark)
    rim = np.clip(1.2 - np.abs(depth.value - np.float32(0.6)), 0, 1)[..., None]
    edge = np.array((210, 205, 200) if dark else (168, 168, 172), np.float32)
    surface += rim * np.float32(0.75 if dark else rng.uniform(0, 0.5)) * (edge - surface)
    covered = depth.covering()
    for flaw in die.flaws:
        if flaw.ring is not None:
            piece = polygon(moved(die.homography, flaw.ring), height, width)
            _erase(covered, piece)
    paint(scene, covered, surface)
    return covered


def paint_flaws(
    rng: np.random.Generator, scene: FloatArray, die: PlacedDie, covered: Patch, dark: bool
) -> None:
    """The cracks, scratches and chips of a die, where it covers the photograph."""
    for flaw in die.flaws:
        _paint_flaw(rng, scene, die, flaw, covered, dark)


def _sheen(rng: np.random.Generator, surface: FloatArray, dark: bool) -> FloatArray:
    """The die mirrors the lamp: brightness and hue change slowly over it."""
    h, w = surface.shape[:2]
    level = rng.uniform(0.75, 1.15)
    slope = rng.uniform(-0.25, 0.25, 2)
    hue = rng.uniform(-0.07, 0.07, 3)
    if dark:
        return np.full((1, 1, 3), level, np.float32)
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None, :, None]
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None, None]
    return np.asarray((level + hue) * (1 + slope[0] * x + slope[1] * y), np.float32)


def _erase(covered: Patch, piece: Patch) -> None:
    """Takes a piece out of a coverage whose window holds the piece's."""
    row, column = piece.top - covered.top, piece.left - covered.left
    h, w = piece.value.shape
    top, left = max(row, 0), max(column, 0)
    part = covered.value[top : row + h, left : column + w]
    part *= 1 - piece.value[top - row :, left - column :][: part.shape[0], : part.shape[1]]


def _paint_flaw(
    rng: np.random.Generator,
    scene: FloatArray,
    die: PlacedDie,
    flaw: Flaw,
    covered: Patch,
    dark: bool,
) -> None:
    height, width = scene.shape[:2]
    if flaw.ring is not None and flaw.rim is not None:
        piece = polygon(moved(die.homography, flaw.ring), height, width)
        # the break shows the silicon's depth: dull, darker, with bright facets along its rim
        facet = np.array((92, 92, 98)) * rng.uniform(0.5, 1.3) * (0.5 if dark else 1)
        paint(scene, piece, facet, float(rng.uniform(0.35, 0.9)))
        rim = stroke(moved(die.homography, flaw.rim), 0.0016 * die.scale, height, width).covering()
        paint(scene, rim, (236, 236, 238), float(rng.uniform(0.5, 0.9)) * flaw.strength)
        return
    for points, half in flaw.strokes:
        line = stroke(
            moved(die.homography, points),
            np.maximum(half * die.scale, LEAST_HALF_LINE),
            height,
            width,
        ).covering()
        _within(line, covered)
        strength = flaw.strength * _skips(rng, line, 0.35 if flaw.kind == "scratch" else 0.15)
        if dark or flaw.bright:
            paint(scene, line, (232, 230, 226), strength)
        else:
            # one side of a crack stands a little higher and catches the light
            lip = stroke(moved(die.homography, points) + (0.9, 1.0), 0.5, height, width).covering()
            _within(lip, covered)
            paint(scene, lip, (214, 214, 216), 0.35 * flaw.strength)
            paint(scene, line, (20, 20, 22), strength)


def _within(line: Patch, covered: Patch) -> None:
    """Cuts a line's coverage to the die's."""
    h, w = line.value.shape
    die = np.zeros((h, w), np.float32)
    row, column = line.top - covered.top, line.left - covered.left
    top, left = max(row, 0), max(column, 0)
    part = covered.value[top : max(row + h, 0), left : max(column + w, 0)]
    y, x = top - row, left - column
    die[y : y + part.shape[0], x : x + part.shape[1]] = part
    np.multiply(line.value, die, out=line.value)


def _skips(rng: np.random.Generator, line: Patch, deviation: float) -> FloatArray:
    """A line is not equally strong all along."""
    h, w = line.value.shape
    cells = max(2, max(h, w) // 9)
    level = clouds(rng, cells, h, w, deviation) + np.float32(1 - deviation)
    return np.asarray(np.clip(level, 0.35, 1))


def paint_wires(
    rng: np.random.Generator,
    scene: FloatArray,
    product: Design,
    pose: Pose,
    die: PlacedDie,
    dark: bool,
) -> None:
    """Bond wires from the die's pads to the leads, each with its ball and its shadow."""
    height, width = scene.shape[:2]
    starts = moved(
        die.homography, product.die_pads + rng.uniform(-0.002, 0.002, product.die_pads.shape)
    )
    ends = moved(pose.homography, product.leads + rng.uniform(-0.004, 0.004, product.leads.shape))
    half = 0.0021 * pose.scale
    fall = np.array((0.004, 0.006)) * pose.scale
    for start, end in zip(starts, ends, strict=True):
        across = np.array([start[1] - end[1], end[0] - start[0]])
        middle = (start + end) / 2 + across * rng.uniform(-0.12, 0.12)
        path = curve((start, middle, end), 7)
        if not dark:
            lift = np.sin(np.linspace(0, np.pi, 7))[:, None]
            shadow = stroke(path + fall * lift, 1.2 * half, height, width, 3)
            soft = np.clip(shadow.value * np.float32(0.4) + np.float32(0.5), 0, 1)
            shade(scene, Patch(shadow.top, shadow.left, soft), 0.6)
        wire = stroke(path, half, height, width)
        ball = stroke(np.stack([start, start + 0.01]), BALL * pose.scale, height, width)
        for part, thin in ((wire, 0.6), (ball, 0.62)):
            deep = Patch(part.top, part.left, part.value - np.float32(thin * part.value.max()))
            paint(scene, part.covering(), (60, 48, 22) if dark else (112, 88, 46), 0.95)
            paint(scene, deep.covering(), (255, 236, 190), 0.9)


def paint_residue(
    rng: np.random.Generator, scene: FloatArray, product: Design, pose: Pose, dark: bool
) -> None:
    """Where the die should be: dots of the glue that was to hold it, or nothing."""
    height, width = scene.shape[:2]
    for _ in range(int(rng.choice((0, 1, 4, 5)))):
        place = rng.uniform(-0.3, 0.3, 2) * product.die_size + product.die_centre
        radius = rng.uniform(0.012, 0.04)
        t = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        reach = radius * rng.uniform(0.8, 1.2, 14)
        ring = place + reach[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
        blob = polygon(moved(pose.homography, ring), height, width)
        grey = rng.uniform(120, 190) * (0.2 if dark else 1)
        paint(scene, blob, (grey, grey, grey * 0.97), float(rng.uniform(0.4, 0.8)))
        gleam = np.stack([place - 0.3 * radius, place - 0.28 * radius])
        spot = stroke(moved(pose.homography, gleam), 0.2 * radius * pose.scale, height, width)
        paint(scene, spot.covering(), (240, 240, 240), 0.5)
