"""Device B: word lines buried in silicon, bit lines and landing pads above."""

from __future__ import annotations

import math

import numpy as np

from semiscope.simulate.stack_canvas import Canvas, Shell
from semiscope.simulate.stack_layout import (
    Floor,
    Layout,
    Root,
    Seam,
    flat_trench,
    places,
    round_trench,
    taper,
)
from semiscope.simulate.stack_settings import LINER, METAL, NITRIDE, OXIDE, SILICON


def draw_trenches(rng: np.random.Generator, canvas: Canvas) -> Layout:
    """Draws the cross-section on a canvas of oxide; lengths are nanometres."""
    layout = Layout()
    surface = canvas.height * rng.uniform(0.42, 0.48)
    canvas.layer(surface, canvas.height, SILICON)
    pitch = rng.uniform(42, 47)
    x = places(rng, pitch, canvas.width, 0.5)
    first = int(rng.integers(3))
    width, depth = rng.uniform(22, 25.5), rng.uniform(108, 130)
    recess, oxide, film = rng.uniform(0.38, 0.47), rng.uniform(2.8, 3.8), rng.uniform(2.2, 2.9)
    narrowing = math.tan(math.radians(rng.uniform(0.6, 1.4)))
    buffer_oxide, buffer = rng.uniform(8, 11), rng.uniform(5.5, 7.5)
    stack_bottom = surface - buffer_oxide - buffer
    canvas.layer(stack_bottom, stack_bottom + buffer, NITRIDE)

    for k, at in enumerate(x):
        if (k + first) % 3 == 2:
            deep, half = depth + rng.uniform(35, 55), width * rng.uniform(0.42, 0.5)
            canvas.polygon(taper(at, surface - 1, surface + deep, half, 0.6 * half), OXIDE)
            layout.seams.append(Seam(at, surface + 0.35 * deep, 0.35 * half, 0.3 * deep, OXIDE))
            layout.roots.append(Root(at, surface + deep, math.pi / 2 + rng.normal(0, 0.5)))
            continue
        bottom = surface + depth + rng.normal(0, 1.5)
        metal_top = surface + recess * depth + rng.normal(0, 1.5)
        half_bottom = width / 2 - narrowing * depth
        canvas.trench(
            round_trench(at, surface, bottom, width / 2, half_bottom),
            surface,
            [Shell(OXIDE, oxide, surface), Shell(LINER, film, metal_top)],
            Shell(METAL, 0, metal_top),
            NITRIDE,
        )
        y, tall = (metal_top + bottom - half_bottom) / 2, 0.4 * (bottom - metal_top)
        wall = width / 2 - narrowing * (y - surface)
        layout.across("word_line_metal", METAL, at - wall - 3, at + wall + 3, y, tall)
        for sign in (-1, 1):
            beyond, within = at + sign * (wall + 4), at + sign * (wall - oxide - film / 2)
            layout.across("word_line_oxide", OXIDE, within, beyond, y, tall)
            layout.across("word_line_liner", LINER, at, beyond, y, tall)
        middle = (surface + metal_top) / 2
        layout.across("word_line_cap", NITRIDE, at - wall - 4, at + wall + 4, middle, 20)
        layout.down("buffer_nitride", NITRIDE, stack_bottom - 4, surface - buffer_oxide / 2, at, 6)
        inside = wall - oxide - film - 0.6
        layout.seams.append(Seam(at, y, inside, 0.3 * (bottom - metal_top), METAL))
        layout.seams.append(Seam(at, middle, 0.45 * wall, 0.3 * (metal_top - surface), NITRIDE))
        layout.roots.append(Root(at, bottom, math.pi / 2 + rng.normal(0, 0.6)))
    pillars = [
        ((k + first) % 3, (a + b) / 2) for k, (a, b) in enumerate(zip(x, x[1:], strict=False))
    ]
    span = stack_bottom, surface
    bit_top = _bit_lines(rng, canvas, layout, [at for kind, at in pillars if kind == 0], span)
    _pads(rng, canvas, layout, [at for kind, at in pillars if kind != 0], span)
    top = bit_top - rng.uniform(14, 20)
    cap = rng.uniform(7, 10)
    canvas.layer(top - cap, top, NITRIDE)
    for at in x[1:-1:2]:
        layout.down("top_nitride", NITRIDE, top - cap - 6, top + 6, at, 16)
    return layout


def _bit_lines(
    rng: np.random.Generator,
    canvas: Canvas,
    layout: Layout,
    centres: list[float],
    span: tuple[float, float],
) -> float:
    """Metal on a film on a plug, under a cap, between spacers; returns the y of the caps' top."""
    bottom, surface = span
    half, spacer = rng.uniform(7, 9), rng.uniform(4.8, 6.8)
    film, metal, cap = rng.uniform(2.6, 3.6), rng.uniform(24, 32), rng.uniform(30, 40)
    top = bottom - film - metal - cap
    for centre in centres:
        x = centre + rng.normal(0, 0.8)
        metal_bottom = bottom - film
        cap_bottom = metal_bottom - metal + rng.normal(0, 0.8)
        canvas.polygon(taper(x, bottom, surface + 1, half, 0.9 * half), SILICON)
        outer = half + spacer
        canvas.polygon(taper(x, top, bottom, outer - 1.2, outer), NITRIDE)
        canvas.polygon(taper(x, metal_bottom, bottom, half, half), LINER)
        canvas.polygon(taper(x, cap_bottom, metal_bottom, half - 0.5, half), METAL)
        y = (cap_bottom + metal_bottom) / 2
        layout.across("bit_line_metal", METAL, x - half - 3, x + half + 3, y, 0.5 * metal)
        for sign in (-1, 1):
            beyond = x + sign * (outer + 3)
            layout.across("bit_line_spacer", NITRIDE, x, beyond, y, 0.5 * metal)
            layout.roots.append(Root(x + sign * (outer - 1), top + 2, -math.pi / 2 + sign * 0.8))
            layout.floors.append(Floor(x + sign * (outer + 4), bottom, 6))
        layout.down("bit_line_cap", NITRIDE, top - 5, cap_bottom + 5, x, half)
        layout.down("bit_line_liner", LINER, metal_bottom - 4, bottom + 3, x, half)
        layout.seams.append(Seam(x, y, half - 2, 0.3 * metal, METAL))
        layout.floors.append(Floor(x, top, half))
    return top


def _pads(
    rng: np.random.Generator,
    canvas: Canvas,
    layout: Layout,
    centres: list[float],
    span: tuple[float, float],
) -> None:
    """Silicon plugs that stand beside the bit lines, each with a lined metal pad on it."""
    bottom, surface = span
    film, half = rng.uniform(2.2, 3.0), rng.uniform(6.5, 8)
    tall, pad = rng.uniform(22, 34), rng.uniform(24, 32)
    for centre in centres:
        x = centre + rng.normal(0, 0.8)
        plug_top = bottom - tall + rng.normal(0, 1)
        canvas.polygon(taper(x, plug_top, surface + 1, half, 0.9 * half), SILICON)
        top = plug_top - pad
        canvas.trench(
            flat_trench(x, top, plug_top, half + 2.5, half + 0.5),
            top,
            [Shell(LINER, film, top)],
            Shell(METAL, 0, top),
            OXIDE,
        )
        layout.down("pad_liner", LINER, plug_top - film - 5, plug_top + 4, x, half)
        layout.across("pad_metal", METAL, x - half - 4, x + half + 4, top + pad / 2, 8)
        layout.seams.append(Seam(x, top + 0.45 * pad, half - film, 0.3 * pad, METAL))
        layout.floors.append(Floor(x, top, half))
        layout.roots.append(Root(x + half, plug_top + 5, rng.normal(0.2, 0.4)))
