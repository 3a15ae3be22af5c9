"""The products that simulated units are made to: where everything lies, and how it looks.

Lengths are shares of the package's length. The package's own frame has its middle at (0, 0), x to
the right and y down in its upright view; the die's frame has its middle at the die's.

Which way up a package lies, and whether a photograph is mirrored, can be told from its layout: the
gold triangle of pin 1 is at the top left, the lot number reads from left to right beside it, the
LED is below the die, right of the middle, and the capacitors are left of the LED.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.simulate.package_sheet import Colour, Layer, Sheet, Texture

# the board must fill the photograph however the package lies in it
BOARD_EXTENT = 2.6
BODY_MARGIN = 0.06
# radius of the ball of a bond wire
BALL = 0.0072

GOLD = (208, 172, 96)
SILVER = (176, 178, 180)


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A product.

    Attributes:
        aspect: Width of the package.
        radius: Of its rounded corners.
        die_size: Width and height of the die.
        die_centre: Its middle in the package's frame.
        die_pads: (n, 2) bond pads, the die's frame.
        leads: (n, 2) where the wire of each pad ends, the package's frame.
        led_centre: Middle of the LED.
        led_size: Its side.
        board: What the package lies on, the package's frame.
        body: The package without die and wires.
        die: The die's surface, the die's frame.
    """

    aspect: float
    radius: float
    die_size: tuple[float, float]
    die_centre: tuple[float, float]
    die_pads: NDArray[np.float64]
    leads: NDArray[np.float64]
    led_centre: tuple[float, float]
    led_size: float
    board: Layer
    body: Layer
    die: Layer


@lru_cache(maxsize=16)
def design(product: int, scale: int) -> Design:
    """A product of a number from 0 on, drawn with so many pixels a length of the package."""
    # each sheet has its own chance: how fine it is drawn must not change the others
    seeds = np.random.SeedSequence(product).spawn(4)
    rng, rng_board, rng_body, rng_die = map(np.random.default_rng, seeds)
    aspect = float(rng.uniform(0.56, 0.62))
    die_size = (float(rng.uniform(0.28, 0.33)), float(rng.uniform(0.27, 0.34)))
    die_centre = (float(rng.uniform(-0.01, 0.01)), float(rng.uniform(-0.14, -0.11)))
    led_centre = (float(rng.uniform(0.06, 0.09)), float(rng.uniform(0.24, 0.28)))
    led_size = float(rng.uniform(0.15, 0.18))
    die_pads, leads = _wiring(rng, aspect, die_size, die_centre)
    plated = product % 3 != 1
    return Design(
        aspect,
        float(rng.uniform(0.006, 0.016)),
        die_size,
        die_centre,
        die_pads,
        leads,
        led_centre,
        led_size,
        _board(rng_board, aspect, scale),
        _body(rng_body, aspect, scale, die_size, die_centre, led_centre, led_size, leads, plated),
        _die(rng_die, die_size, die_pads, 2 * scale),
    )


def _wiring(
    rng: np.random.Generator,
    aspect: float,
    die_size: tuple[float, float],
    die_centre: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bond pads down both sides of the die, and a lead for each beside it."""
    pads, leads = [], []
    for side in (-1, 1):
        count = int(rng.integers(4, 7))
        places = np.linspace(-0.4, 0.4, count) + rng.uniform(-0.02, 0.02)
        for place in places:
            pads.append((side * (die_size[0] / 2 - 0.017), place * die_size[1]))
            leads.append((side * (aspect / 2 - 0.066), die_centre[1] + place * die_size[1] * 1.22))
    return np.array(pads), np.array(leads)


def _board(rng: np.random.Generator, aspect: float, scale: int) -> Layer:
    """Green solder mask over copper, with traces, vias and print."""
    scale = max(1, round(0.8 * scale))
    mask = np.array((27, 86, 52)) * rng.uniform(0.85, 1.15) + rng.uniform(-6, 6, 3)
    copper = mask * 1.15 + (8, 8, 2)
    sheet = Sheet(BOARD_EXTENT, BOARD_EXTENT, scale, tuple(mask))
    half = BOARD_EXTENT / 2
    for _ in range(14):
        centre = rng.uniform(-half, half, 2)
        sheet.box(tuple(centre), tuple(rng.uniform(0.1, 0.5, 2)), copper)
    for _ in range(26):
        _bundle(rng, sheet, half, copper if rng.random() < 0.7 else mask * 0.8)
    # the ground plane on which the package is soldered
    left, top, right, bottom = rng.uniform(0.09, 0.2, 4) + (aspect / 2, 0.5, aspect / 2, 0.5)
    sheet.fill([(-left, -top), (right, -top), (right, bottom), (-left, bottom)], copper * 1.04)
    for _ in range(60):
        x, y = (float(v) for v in rng.uniform(-half, half, 2))
        if abs(x) < aspect / 2 + 0.04 and abs(y) < 0.54:
            continue
        tented = rng.random() < 0.5
        sheet.disc((x, y), 0.016, copper * 1.15 if tented else GOLD)
        sheet.disc((x, y), 0.007, mask * 0.75 if tented else (22, 24, 20))
    for side in (-1, 1):
        x, y = side * (aspect / 2 + 0.16), -side * 0.36
        sheet.disc((x, y), 0.05, mask * 0.8)
        sheet.disc((x, y), 0.026, GOLD)
    sheet.text((aspect / 2 + 0.08, 0.42), 0.035, f"U{rng.integers(1, 99)}", (196, 204, 196))
    for _ in range(3):
        side, (x, y) = rng.choice((-1, 1)), rng.uniform((0.1, -0.5), (0.4, 0.3))
        x = side * (aspect / 2 + x)
        corner = [(x, y), (x, y + 0.14), (x + side * 0.12, y + 0.14)]
        sheet.line(corner[: int(rng.integers(2, 4))], 0.006, (168, 176, 168))
    sheet.weave(2.0, 0.019, 0.023)
    sheet.grain(rng, 1.5, 9.0)
    sheet.grain(rng, 2.5, 1.6)
    return sheet.layer()


def _bundle(rng: np.random.Generator, sheet: Sheet, half: float, colour: Colour) -> None:
    """Parallel traces with a bend of 45 degrees."""
    start = rng.uniform(-half, half, 2)
    direction = rng.integers(0, 4)
    turn = rng.choice((-1, 1))
    first, second = rng.uniform(0.2, 0.9), rng.uniform(0.1, 0.5)
    angle = direction * np.pi / 2
    ahead = np.array([np.cos(angle), np.sin(angle)])
    then = np.array([np.cos(angle + turn * np.pi / 4), np.sin(angle + turn * np.pi / 4)])
    across = np.array([-ahead[1], ahead[0]])
    for k in range(int(rng.integers(1, 5))):
        a = start + k * 0.028 * across
        b = a + first * ahead - k * turn * 0.0115 * ahead
        sheet.line([a, b, b + second * then, b + second * then + 0.4 * ahead], 0.011, colour)


def _body(
    rng: np.random.Generator,
    aspect: float,
    scale: int,
    die_size: tuple[float, float],
    die_centre: tuple[float, float],
    led_centre: tuple[float, float],
    led_size: float,
    leads: NDArray[np.float64],
    plated: bool,
) -> Layer:
    """The package: black frame, floor, die paddle, leads, LED, capacitors, pin 1, lot number."""
    black = np.array((21, 22, 21)) + rng.uniform(-3, 3)
    sheet = Sheet(aspect + 2 * BODY_MARGIN, 1 + 2 * BODY_MARGIN, scale, tuple(black))
    floor = np.array((44, 47, 45)) + rng.uniform(-5, 9) + rng.uniform(-3, 3, 3)
    inner = (aspect - 0.075, 1 - 0.075)
    sheet.box((0, 0), (inner[0] + 0.008, inner[1] + 0.008), black * 1.9)
    sheet.box((0, 0), inner, floor)
    trace = floor * 1.35 + (7, 5, 0)
    for x, y in leads:
        side = np.sign(x)
        bend = y + 0.02 * np.sign(y - die_centre[1])
        sheet.line([(x, y), (x + side * 0.03, bend), (side * inner[0] / 2, bend)], 0.012, trace)
    for _ in range(7):
        x, y = rng.uniform(-0.2, 0.2), rng.uniform(0.09, 0.34)
        sheet.line([(x, y), (x, y + 0.05), (x + 0.05, y + 0.1)], 0.008, trace)
    w, h = die_size[0] + 0.05, die_size[1] + 0.05
    paddle = np.array(GOLD) * rng.uniform(0.45, 0.6) if plated else floor * 1.5
    sheet.box(die_centre, (w + 0.008, h + 0.008), floor * 0.6)
    sheet.box(die_centre, (w, h), paddle)
    for x, y in leads:
        sheet.box((x, y), (0.043, 0.026), np.array(GOLD) * 0.55)
        sheet.box((x, y), (0.037, 0.020), GOLD)
    _led(rng, sheet, led_centre, led_size)
    for k in range(2):
        _capacitor(rng, sheet, (-0.155, led_centre[1] - 0.06 + 0.13 * k))
    x, y = -aspect / 2 + 0.062, -0.438
    sheet.fill([(x, y), (x + 0.05, y), (x, y + 0.05)], GOLD)
    lot = f"{chr(65 + int(rng.integers(0, 26)))}{rng.integers(10, 99)} {rng.integers(2101, 2452)}"
    sheet.text((-0.11, -0.402), 0.034, lot, (138, 142, 138))
    sheet.box((0.155, 0.43), (0.07, 0.024), np.array(GOLD) * 0.85)
    sheet.grain(rng, 3.5, 14.0)
    sheet.grain(rng, 3.5, 1.6)
    return sheet.layer()


def _led(rng: np.random.Generator, sheet: Sheet, centre: tuple[float, float], size: float) -> None:
    """White cup, yellow phosphor, chip, and its clear epoxy."""
    x, y = centre
    cup = np.array((190, 192, 188)) * rng.uniform(0.8, 1.0)
    sheet.box(centre, (size * 1.05, size * 1.05), (24, 25, 24))
    sheet.box(centre, (size, size), cup)
    sheet.disc(centre, size * 0.42, cup * 0.8)
    sheet.disc(centre, size * 0.38, np.array((202, 182, 84)) * rng.uniform(0.8, 1.0))
    sheet.box(centre, (size * 0.34, size * 0.34), (150, 142, 110))
    sheet.box(centre, (size * 0.30, size * 0.30), (168, 164, 150))
    for k in (-1, 1):
        sheet.line(
            [(x + k * size * 0.07, y - size * 0.12), (x + k * size * 0.07, y + size * 0.12)],
            0.004,
            (196, 176, 110),
        )
    sheet.disc((x - size * 0.1, y - size * 0.1), size * 0.03, GOLD)
    sheet.box((x - size * 0.42, y - size * 0.42), (size * 0.09, size * 0.09), (90, 92, 90))


def _capacitor(rng: np.random.Generator, sheet: Sheet, centre: tuple[float, float]) -> None:
    x, y = centre
    sheet.box((x, y), (0.13, 0.062), (26, 26, 25))
    for k in (-1, 1):
        sheet.box((x + k * 0.046, y), (0.03, 0.052), SILVER)
        sheet.box((x + k * 0.046, y - 0.008), (0.022, 0.014), (226, 228, 228))
    sheet.box((x, y), (0.064, 0.05), np.array((132, 108, 82)) * rng.uniform(0.85, 1.1))
    sheet.box((x, y - 0.012), (0.064, 0.01), (158, 134, 106))


def _die(
    rng: np.random.Generator,
    size: tuple[float, float],
    pads: NDArray[np.float64],
    scale: int,
) -> Layer:
    """Silicon with the structures of a circuit, its seal ring and its bond pads."""
    tint = np.array((128, 127, 133)) + rng.uniform(-9, 9, 3)
    sheet = Sheet(*size, scale, tuple(tint * 1.02))
    sheet.box((0, 0), (size[0] - 0.012, size[1] - 0.012), tint * 1.2)
    sheet.box((0, 0), (size[0] - 0.017, size[1] - 0.017), tint * 0.92)
    core = (size[0] / 2 - 0.036, size[1] / 2 - 0.014)
    _blocks(rng, sheet, (-core[0], -core[1], core[0], core[1]), tint, 4)
    for x, y in pads:
        sheet.box((x, y), (0.0185, 0.0185), tint * 0.6)
        sheet.box((x, y), (0.0155, 0.0155), (196, 190, 176))
        sheet.line([(x - np.sign(x) * 0.008, y), (x - np.sign(x) * 0.02, y)], 0.005, tint * 1.25)
    sheet.grain(rng, 2.0)
    return sheet.layer()


def _blocks(
    rng: np.random.Generator,
    sheet: Sheet,
    area: tuple[float, float, float, float],
    tint: NDArray[np.float64],
    depth: int,
) -> None:
    """Cuts an area in two, again and again, and fills each part as some circuit looks."""
    left, top, right, bottom = area
    w, h = right - left, bottom - top
    if depth and max(w, h) > 0.05 and (depth > 2 or rng.random() < 0.7):
        cut = rng.uniform(0.34, 0.66)
        if w > h:
            x = left + cut * w
            parts = ((left, top, x, bottom), (x, top, right, bottom))
        else:
            y = top + cut * h
            parts = ((left, top, right, y), (left, y, right, bottom))
        for part in parts:
            _blocks(rng, sheet, part, tint, depth - 1)
        return
    gap = 0.0035
    x0, y0 = ((np.array([left, top]) + gap - sheet.origin) * sheet.scale).astype(int)
    x1, y1 = ((np.array([right, bottom]) - gap - sheet.origin) * sheet.scale).astype(int)
    if x1 - x0 < 4 or y1 - y0 < 4:
        return
    kind = str(rng.choice(("memory", "logic", "plain", "comb", "logic")))
    sheet.pixels[y0:y1, x0:x1] = _circuit(rng, kind, y1 - y0, x1 - x0, tint)
    cv2.rectangle(
        sheet.pixels, (int(x0), int(y0)), (int(x1) - 1, int(y1) - 1), (tint * 0.7).tolist(), 1
    )


def _circuit(
    rng: np.random.Generator, kind: str, rows: int, columns: int, tint: NDArray[np.float64]
) -> Texture:
    """(rows, columns, 3) of one kind of circuit."""
    colour = tint * rng.uniform(0.78, 1.15) + rng.uniform(-10, 10, 3)
    y, x = np.arange(rows)[:, None], np.arange(columns)[None]
    relief = np.zeros((rows, columns), np.float32)
    if kind == "memory":
        cell = rng.uniform(-16, 16, (int(rng.integers(4, 7)), int(rng.integers(4, 7))))
        relief += cell[y % len(cell), x % cell.shape[1]]
        word = int(rng.integers(28, 60))
        relief[:, np.arange(columns) % word < 3] += 26
        relief[rows // 2 - 2 : rows // 2 + 2] -= 30
    elif kind == "logic":
        coarse = rng.uniform(-1, 1, (rows // 4 + 1, columns // 5 + 1)).astype(np.float32)
        relief += cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_NEAREST) * 18
        relief += np.where(y % 12 < 2, np.float32(16), np.float32(0))
    elif kind == "comb":
        pitch = int(rng.integers(7, 13))
        stripe = y if rng.random() < 0.5 else x
        relief += np.where(stripe % pitch < pitch // 2, np.float32(24), np.float32(-12))
    else:
        colour = colour * rng.uniform(0.6, 1.2)
        relief += rng.uniform(-6, 6)
    return np.clip(colour + relief[..., None], 0, 255).astype(np.uint8)
