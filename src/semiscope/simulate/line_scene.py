"""One simulated SEM image of a line-space pattern, with its exact truth.

A scene depends on its settings, the seed and its index alone, so any process may render any of them
in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.errors import SettingsError
from semiscope.simulate import optics as sem
from semiscope.simulate.line_change import Defect, Place
from semiscope.simulate.line_defects import DEFECTS, SPACES_NEEDED
from semiscope.simulate.line_settings import SemLinesSettings, plan
from semiscope.simulate.line_space import (
    FloatArray,
    LineSpace,
    Roughness,
    draw_lines,
    edge_distance,
)
from semiscope.types import Annotations, Mask

# the field is larger than the image on each side by what the scan may stray and the blur may reach
MARGIN_PX = 10
LEAST_MASK_PX = 6
# cut further by the image's border, a defect could pass for one of another class
LEAST_IN_VIEW = 0.7
TRIES = 200
# rougher than this share of a line or a space, lines touch by themselves: defects with no label
CALM = 0.11


@dataclass(frozen=True, slots=True)
class Metrology:
    """The truth to measure against, of the specimen without its defects.

    Attributes:
        nm_per_px: Width of a pixel.
        pitch_nm: Perpendicular distance from line to line.
        cd_nm: Mean perpendicular line width over all rows of the lines that are wholly in view
            (where lines are so oblique that none is: of those in view half way down).
        ler_3sigma_nm: Three deviations of an edge about its own straight line, root mean square
            over the edges of those lines.
        lwr_3sigma_nm: Three deviations of a line's width about its own mean, likewise.
        roughness_nm: One sigma of an edge of endless length, as asked for.
        correlation_length_nm: Of the roughness.
        roughness_exponent: Of the roughness spectrum.
        edge_correlation: Of a line's two edges.
        tilt_deg: Of the lines to the columns (to the rows when horizontal).
        orientation: "vertical" or "horizontal".
        contrast: "resist" or "etched".
        electrons: Mean electrons a pixel.
        beam_nm: Beam blur, one sigma.
    """

    nm_per_px: float
    pitch_nm: float
    cd_nm: float
    ler_3sigma_nm: float
    lwr_3sigma_nm: float
    roughness_nm: float
    correlation_length_nm: float
    roughness_exponent: float
    edge_correlation: float
    tilt_deg: float
    orientation: str
    contrast: str
    electrons: float
    beam_nm: float


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One simulated image with its truth.

    Attributes:
        pixels: (height, width) uint16.
        signal: (height, width) float32, what the beam saw: blurred and distorted, before noise.
        nm_per_px: Width of a pixel.
        annotations: Instances; each shape is a Mask, one connected piece, each box its extent.
        metrology: Widths and roughness.
        split: "train", "val" or "test".
    """

    pixels: NDArray[np.uint16]
    signal: FloatArray
    nm_per_px: float
    annotations: Annotations
    metrology: Metrology
    split: str


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One image's draw from PatternSettings, in nanometres."""

    nm_per_px: float
    pitch: float
    cd: float
    walk: float
    sigma: float
    correlation_length: float
    exponent: float
    edge_correlation: float
    tilt_deg: float
    horizontal: bool
    etched: bool


_Instance = tuple[int, Defect, Mask]


def render_scene(settings: SemLinesSettings, index: int, with_defects: bool = True) -> Scene:
    """One scene, the same whenever and wherever it is rendered.

    Args:
        settings: What to simulate.
        index: 0 to settings.count - 1; training scenes come before validation scenes.
        with_defects: Whether to put the defects in; all else stays as it is.

    Raises:
        SettingsError: There is no such index, or the image has no room for its defect.
    """
    scenes = plan(settings)
    if not 0 <= index < len(scenes):
        raise SettingsError(f"scene {index}: expected an index from 0 to {len(scenes) - 1}")
    split, class_id = scenes[index]
    # a test set shares no scene with a training set of the same seed
    seeds = np.random.SeedSequence((settings.seed, settings.split == "test", index)).spawn(4)
    rng_pattern, rng_defects, rng_optics, rng_noise = (np.random.default_rng(s) for s in seeds)
    pattern = _draw_pattern(rng_pattern, settings)
    lines = _draw_lines(rng_pattern, settings, pattern)
    instrument = sem.draw_optics(rng_optics, settings.optics, pattern.nm_per_px)
    material = sem.draw_material(rng_optics, settings.optics, pattern.nm_per_px, pattern.etched)
    shifts = sem.scan_shifts(rng_optics, instrument, settings.height)

    turn = np.transpose if pattern.horizontal else np.asarray

    def scanned(field: FloatArray, smooth: bool) -> FloatArray:
        turned = np.ascontiguousarray(turn(field))
        turned = sem.blur(turned, instrument) if smooth else turned
        return sem.scan(turned, shifts, MARGIN_PX, settings.width, smooth)

    distance = edge_distance(lines)
    signal = material.signal(distance)
    defects: list[_Instance] = []
    if with_defects and class_id is not None:
        defects = _draw_defects(rng_defects, settings, lines, distance, class_id, scanned)
    for _, defect, _ in defects:
        part = signal[defect.window.slices]
        part += np.float32(defect.strength) * (material.signal(defect.distance) - part)
    seen = scanned(signal, True)
    return Scene(
        sem.detect(rng_noise, seen, instrument),
        seen,
        pattern.nm_per_px,
        _annotations(defects),
        _measure(lines, pattern, instrument),
        split,
    )


def _draw_pattern(rng: np.random.Generator, settings: SemLinesSettings) -> _Pattern:
    pattern = settings.pattern
    pitch = rng.uniform(*pattern.pitch_nm)
    cd = pitch * rng.uniform(*pattern.duty)
    calm = CALM * min(cd, pitch - cd)
    return _Pattern(
        nm_per_px=round(rng.uniform(*pattern.nm_per_px), 4),
        pitch=pitch,
        cd=cd,
        walk=min(rng.uniform(*pattern.pitch_walk_nm), calm),
        sigma=min(rng.uniform(*pattern.roughness_nm), calm),
        correlation_length=rng.uniform(*pattern.correlation_length_nm),
        exponent=rng.uniform(*pattern.roughness_exponent),
        edge_correlation=rng.uniform(*pattern.edge_correlation),
        tilt_deg=rng.uniform(*pattern.tilt_deg),
        horizontal=bool(rng.random() < pattern.horizontal),
        etched=bool(rng.random() < pattern.etched),
    )


def _draw_lines(
    rng: np.random.Generator, settings: SemLinesSettings, pattern: _Pattern
) -> LineSpace:
    """The lines in their own frame, with the margin around the image."""
    rows, columns = settings.height, settings.width
    if pattern.horizontal:
        rows, columns = columns, rows
    px = 1 / pattern.nm_per_px
    return draw_lines(
        rng,
        rows + 2 * MARGIN_PX,
        columns + 2 * MARGIN_PX,
        pattern.pitch * px,
        pattern.cd * px,
        pattern.tilt_deg,
        pattern.walk * px,
        Roughness(
            pattern.sigma * px,
            pattern.correlation_length * px,
            pattern.exponent,
            pattern.edge_correlation,
        ),
    )


def _draw_defects(
    rng: np.random.Generator,
    settings: SemLinesSettings,
    lines: LineSpace,
    distance: FloatArray,
    class_id: int,
    scanned: Callable[[FloatArray, bool], FloatArray],
) -> list[_Instance]:
    """The planned defect and, when more than one an image is asked for, others that find room."""
    names = settings.class_names
    more = int(rng.integers(0, settings.defects))
    found: list[_Instance] = []
    for number in (class_id, *(int(c) for c in rng.integers(0, len(names), more))):
        for _ in range(TRIES):
            place = _draw_place(rng, lines, SPACES_NEEDED.get(names[number], 1))
            defect = DEFECTS[names[number]](rng, lines, distance, place)
            free = not any(defect.window.touches(other.window) for _, other, _ in found)
            if not free or not _in_view(lines, defect):
                continue
            outline = np.full(distance.shape, -1, np.float32)
            outline[defect.window.slices] = defect.outline
            inside = scanned(outline, False) > 0
            if inside.any():
                found.append((number, defect, largest_piece(inside)))
                break
        else:
            if not found:
                raise SettingsError(
                    f"no room for {names[number]} in {settings.width} x {settings.height} px, or "
                    f"none of {LEAST_MASK_PX} px and more: raise width and height, or lower "
                    "pattern.nm_per_px"
                )
    return found


def _draw_place(rng: np.random.Generator, lines: LineSpace, spaces: int) -> Place:
    """A place in view for a defect that needs so many spaces."""
    edge = MARGIN_PX + 6
    row = rng.uniform(edge, lines.rows - edge)
    at = int(row)
    inside = np.flatnonzero(
        (lines.left[:, at] > MARGIN_PX) & (lines.right[:, at] < lines.columns - MARGIN_PX)
    )
    last = int(inside[-1])
    line = int(rng.integers(inside[0], max(int(inside[0]), last - spaces) + 1))
    return Place(line, float(row), last - line)


def _in_view(lines: LineSpace, defect: Defect) -> bool:
    whole = np.count_nonzero(defect.outline > 0)
    row, column = defect.window.top, defect.window.left
    view = defect.outline[
        max(0, MARGIN_PX - row) : max(0, lines.rows - MARGIN_PX - row),
        max(0, MARGIN_PX - column) : max(0, lines.columns - MARGIN_PX - column),
    ]
    return bool(np.count_nonzero(view > 0) >= max(LEAST_MASK_PX, LEAST_IN_VIEW * whole))


def largest_piece(inside: NDArray[np.bool_]) -> Mask:
    """The largest 8-connected piece of a (H, W) bitmap that is not empty."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    crop = inside[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(crop.astype(np.uint8), connectivity=8)
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, w, h = (int(v) for v in stats[best][:4])
    return Mask(left + x, top + y, labels[y : y + h, x : x + w] == best)


def _annotations(instances: list[_Instance]) -> Annotations:
    if not instances:
        return Annotations.empty()
    masks = tuple(mask for _, _, mask in instances)
    boxes = [(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m in masks]
    return Annotations(
        np.array(boxes, np.float32), np.array([c for c, _, _ in instances]), shapes=masks
    )


def _measure(lines: LineSpace, pattern: _Pattern, instrument: sem.Optics) -> Metrology:
    """The truth about the lines that are wholly in view."""
    view = slice(MARGIN_PX, lines.rows - MARGIN_PX)
    left, right = lines.left[:, view], lines.right[:, view]
    whole = (left.min(axis=1) >= MARGIN_PX) & (right.max(axis=1) <= lines.columns - MARGIN_PX)
    if not whole.any():
        middle = lines.left[:, lines.rows // 2]
        whole = (middle > MARGIN_PX) & (middle < lines.columns - MARGIN_PX)
    to_nm = lines.cos_tilt * pattern.nm_per_px
    widths = (right - left)[whole].astype(np.float64) * to_nm
    edges = np.concatenate([left[whole], right[whole]]).astype(np.float64) * to_nm
    return Metrology(
        nm_per_px=pattern.nm_per_px,
        pitch_nm=pattern.pitch,
        cd_nm=float(widths.mean()),
        ler_3sigma_nm=3 * _deviation(edges, straight=True),
        lwr_3sigma_nm=3 * _deviation(widths, straight=False),
        roughness_nm=pattern.sigma,
        correlation_length_nm=pattern.correlation_length,
        roughness_exponent=pattern.exponent,
        edge_correlation=pattern.edge_correlation,
        tilt_deg=pattern.tilt_deg,
        orientation="horizontal" if pattern.horizontal else "vertical",
        contrast="etched" if pattern.etched else "resist",
        electrons=instrument.electrons,
        beam_nm=instrument.beam * pattern.nm_per_px,
    )


def _deviation(profiles: NDArray[np.float64], straight: bool) -> float:
    """Root mean square of the rows of (n, k) about their own means, or their own straight lines."""
    rest = profiles - profiles.mean(axis=1, keepdims=True)
    if straight:
        t = np.linspace(-1, 1, profiles.shape[1])
        rest = rest - (rest @ t / (t @ t))[:, None] * t
    return float(np.sqrt(np.mean(rest**2)))
