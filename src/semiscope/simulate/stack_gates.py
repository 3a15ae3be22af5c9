"""Device A: metal gates on silicon with spacers and caps, contacts between them, lines above."""

from __future__ import annotations

import math

import numpy as np

from semiscope.simulate.stack_canvas import Canvas, Shell
from semiscope.simulate.stack_layout import Floor, Layout, Root, Seam, flat_trench, places, taper
from semiscope.simulate.stack_settings import LINER, METAL, NITRIDE, OXIDE, SILICON


def draw_gates(rng: np.random.Generator, canvas: Canvas) -> Layout:
    """Draws the cross-section on a canvas of oxide; lengths are nanometres."""
    layout = Layout()
    surface = canvas.height * rng.uniform(0.6, 0.66)
    canvas.layer(surface, canvas.height, SILICON)
    pitch, cd = rng.uniform(54, 64), rng.uniform(18, 23)
    height, cap = rng.uniform(54, 66), rng.uniform(12, 17)
    spacer, film, oxide = rng.uniform(6.5, 9), rng.uniform(2.3, 3.2), rng.uniform(1.5, 2.0)
    widening = math.tan(math.radians(rng.uniform(0.3, 1.2)))
    gates = places(rng, pitch, canvas.width, 0.5)
    gaps = [(a + b) / 2 for a, b in zip(gates, gates[1:], strict=False)]
    isolated = set(np.flatnonzero(rng.random(len(gaps)) < 0.18).tolist())
    contacted = {i for i in range(len(gaps)) if i not in isolated and rng.random() < 0.65}
    room = (pitch - cd - 2 * spacer) / 2
    top = surface - height
    stop_top = top - rng.uniform(15, 20)
    stop = rng.uniform(4.5, 6.5)
    contact_top = stop_top - rng.uniform(20, 28)

    for i, x in enumerate(gaps):
        if i in isolated:
            _isolation(rng, canvas, layout, x, surface, room)
        else:
            bump, half = rng.uniform(3, 7), room + 1
            canvas.polygon(taper(x, surface - bump, surface + 1, half * 0.6, half), SILICON)
    canvas.layer(stop_top, stop_top + stop, NITRIDE)
    for x in gates:
        outer_top = cd / 2 + spacer * rng.uniform(0.85, 0.95)
        canvas.polygon(taper(x, top, surface, outer_top, cd / 2 + spacer), NITRIDE)
        own_cap = cap + rng.normal(0, 0.6)
        metal_top, bottom = top + own_cap, surface - oxide
        canvas.polygon(taper(x, bottom, surface, cd / 2, cd / 2), OXIDE)
        canvas.trench(
            flat_trench(x, top, bottom, cd / 2 + height * widening, cd / 2),
            top,
            [Shell(LINER, film, metal_top)],
            Shell(METAL, 0, metal_top),
            NITRIDE,
        )
        middle, tall = (metal_top + bottom) / 2, 0.4 * (bottom - metal_top)
        half = cd / 2 + widening * (bottom - middle)
        side = half + spacer / 2
        layout.across("gate_metal", METAL, x - side, x + side, middle, tall)
        for sign in (-1, 1):
            beyond = x + sign * (cd / 2 + spacer + 1.8)
            layout.across("gate_liner", LINER, x, x + sign * side, middle, tall)
            layout.across("gate_spacer", NITRIDE, x, beyond, middle, tall)
            layout.roots.append(Root(x + sign * outer_top, top, -math.pi / 2 + sign * 0.7))
        layout.down("gate_cap", NITRIDE, top - 5, metal_top + 5, x, cd / 2)
        layout.down("gate_liner_bottom", LINER, bottom - film - 4, surface + 3, x, cd / 3)
        layout.down("gate_oxide", OXIDE, bottom - film / 2, surface + 3, x, cd / 3)
        layout.down("etch_stop", NITRIDE, stop_top - 5, stop_top + stop + 5, x, 12)
        layout.seams.append(Seam(x, middle, cd / 2 - film - 1, 0.35 * (bottom - metal_top), METAL))
        layout.floors.append(Floor(x, top, cd / 2))
    for i, x in enumerate(gaps):
        if i in contacted:
            _contact(rng, canvas, layout, x, (contact_top, surface), room)
        else:
            layout.seams.append(Seam(x, surface - 0.55 * height, 0.5 * room, 0.3 * height, OXIDE))
            layout.floors.append(Floor(x, surface - 2, room))
            layout.roots.append(Root(x, surface, math.pi / 2 + rng.normal(0, 0.3)))
    _lines(rng, canvas, layout, gaps, contact_top, pitch)
    return layout


def _isolation(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, x: float, surface: float, room: float
) -> None:
    depth, half = rng.uniform(70, 110), room * rng.uniform(0.9, 1.1)
    canvas.polygon(taper(x, surface - 1, surface + depth, half, 0.7 * half), OXIDE)
    layout.seams.append(Seam(x, surface + 0.4 * depth, 0.3 * half, 0.3 * depth, OXIDE))
    layout.roots.append(Root(x, surface + depth, math.pi / 2 + rng.normal(0, 0.5)))


def _contact(
    rng: np.random.Generator,
    canvas: Canvas,
    layout: Layout,
    x: float,
    span: tuple[float, float],
    room: float,
) -> None:
    top, surface = span
    bottom = surface + rng.uniform(2, 7)
    film = rng.uniform(1.9, 2.6)
    half = room - rng.uniform(2.2, 3.2)
    half_top = half + rng.uniform(2, 3.5)
    canvas.trench(
        flat_trench(x, top, bottom, half_top, half),
        top,
        [Shell(LINER, film, top)],
        Shell(METAL, 0, top),
        OXIDE,
    )
    y = bottom - 0.25 * (bottom - top)
    at = half + 0.25 * (half_top - half)
    layout.across("contact_metal", METAL, x - at - 1.2, x + at + 1.2, y, 16)
    for sign in (-1, 1):
        layout.across("contact_liner", LINER, x, x + sign * (at + 1.2), y, 16)
    layout.seams.append(Seam(x, (top + bottom) / 2, at - film - 0.8, 0.35 * (bottom - top), METAL))
    layout.roots.append(Root(x + half_top, top + 8, rng.normal(-0.3, 0.4)))


def _lines(
    rng: np.random.Generator,
    canvas: Canvas,
    layout: Layout,
    gaps: list[float],
    bottom: float,
    pitch: float,
) -> None:
    """The first level of lines, seen end on, with a nitride film over them."""
    top = bottom - rng.uniform(24, 32)
    film, half = rng.uniform(2.2, 3.0), pitch * rng.uniform(0.24, 0.3)
    for x in gaps:
        centre = x + rng.normal(0, 1)
        outline = flat_trench(centre, top, bottom + 2, half + 1.5, half)
        canvas.trench(outline, top, [Shell(LINER, film, top)], Shell(METAL, 0, top), OXIDE)
        middle = (top + bottom) / 2
        inner = half - film - 1.8
        layout.down("line_liner", LINER, bottom - 6, bottom + 6, centre + inner, 2)
        layout.across("line_metal", METAL, centre - half - 4, centre + half + 4, middle, 10)
        layout.seams.append(Seam(centre, middle, 0.5 * half, 0.35 * (bottom - top), METAL))
        layout.floors.append(Floor(centre, top - 7, half))
    cap = rng.uniform(4.5, 6.5)
    canvas.layer(top - cap, top, NITRIDE)
    layout.down("line_cap", NITRIDE, top - cap - 5, top + 5, gaps[len(gaps) // 2], half)
