"""The charts of a report as SVG text, styled by the page they stand in."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike

_WIDTH = 560
_PARETO_ROWS = 15
# the page's text in a chart, px, and the room that a class name has beside its bar
_TEXT = 14
_LEAST_NAME, _MOST_NAME = 60, 232


def pareto(counts: Mapping[str, tuple[int, int]]) -> str:
    """Defects by class, most frequent first, with the line of the cumulative share.

    Args:
        counts: Class -> how many were accepted and how many are for review. Classes beyond the
            first 15 are taken together. A long name is shortened in its middle; the whole name is
            in the bar's title.
    """
    order = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0]))
    order = [item for item in order if sum(item[1])]
    if len(order) > _PARETO_ROWS:
        rest = order[_PARETO_ROWS - 1 :]
        both = sum(c[0] for _, c in rest), sum(c[1] for _, c in rest)
        order = [*order[: _PARETO_ROWS - 1], (f"{len(rest)} other classes", both)]
    total = sum(sum(c) for _, c in order)
    if not total:
        return _nothing()
    shown = [_shortened(name) for name, _ in order]
    left = round(max(_LEAST_NAME, *map(text_width, shown))) + 10
    right, row, top = 60, 30, 22
    span = _WIDTH - left - right
    most = sum(order[0][1])
    bottom = top + row * len(order)
    parts, line, seen = [], [], 0
    for share in (0, 25, 50, 75, 100):
        x = left + span * share / 100
        parts.append(f'<line class="grid" x1="{x:g}" y1="{top}" x2="{x:g}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:g}" y="{top - 7}">{share} %</text>')
    for index, ((name, (accept, review)), short) in enumerate(zip(order, shown, strict=True)):
        y, here = top + row * index, accept + review
        seen += here
        wide, sure = span * here / most, span * accept / most
        parts.append(
            f'<g class="bar" data-class="{escape(name)}"><title>{escape(name)}: {here} '
            f"({accept} accepted, {review} for review), {100 * seen / total:.0f} % so far</title>"
            f'<rect class="hit" x="0" y="{y}" width="{_WIDTH}" height="{row}"/>'
            f'<text class="name" x="{left - 8}" y="{y + 20}">{escape(short)}</text>'
            f'<rect class="accept" x="{left}" y="{y + 5}" width="{sure:.1f}" height="{row - 10}"/>'
            f'<rect class="review" x="{left + sure:.1f}" y="{y + 5}" width="{wide - sure:.1f}" '
            f'height="{row - 10}"/>'
            f'<text class="count" x="{_WIDTH - 4}" y="{y + 20}">{here}</text></g>'
        )
        line.append((left + span * seen / total, y + row / 2))
    points = " ".join(f"{x:.1f},{y:g}" for x, y in line)
    parts.append(f'<polyline class="cumulative" points="{points}"/>')
    parts += [f'<circle class="cumulative" cx="{x:.1f}" cy="{y:g}" r="3"/>' for x, y in line]
    return _svg(parts, bottom + 6, "Defects by class with their cumulative share")


def histogram(
    values: ArrayLike,
    review: ArrayLike,
    unit: str,
    *,
    limits: tuple[float, float] | None = None,
) -> str:
    """How many values fall where, the part for review apart.

    Args:
        values: (n,) numbers.
        review: (n,) bool, whether the value's defect is for review.
        unit: What stands below the axis.
        limits: The ends of the axis; from 0 to beyond the largest value when not given. Where a few
            values lie far out, the last bar holds all from its left edge on.
    """
    numbers, doubt = np.asarray(values, np.float64), np.asarray(review, bool)
    if not len(numbers):
        return _nothing()
    edges, open_end = _edges(numbers, limits)
    inside = numbers.clip(edges[0], edges[-1])
    parts_of = [np.histogram(inside[chosen], edges)[0] for chosen in (~doubt, doubt)]
    both = parts_of[0] + parts_of[1]
    left, right, top, high = 44, 24, 12, 150
    span, bottom = _WIDTH - left - right, top + high
    most = _nice(both.max() / 3) * 3 if both.max() > 3 else 3
    parts = []
    for level in range(4):
        y = bottom - high * level / 3
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:g}" x2="{_WIDTH - right}" y2="{y:g}"/>'
        )
        parts.append(
            f'<text class="count" x="{left - 6}" y="{y + 4:g}">{most * level / 3:g}</text>'
        )
    wide = span / len(both)
    for index, (accept, total) in enumerate(zip(parts_of[0], both, strict=True)):
        if not total:
            continue
        x, tall, sure = left + wide * index, high * total / most, high * accept / most
        last = open_end and index == len(both) - 1
        where = f"from {edges[index]:g}" + ("" if last else f" to {edges[index + 1]:g}")
        box = f'x="{x + 1:.1f}" width="{max(wide - 2, 1):.1f}"'
        parts.append(
            f"<g><title>{where} {escape(unit)}: {total} ({total - accept} for review)</title>"
            f'<rect class="accept" {box} y="{bottom - sure:.1f}" height="{sure:.1f}"/>'
            f'<rect class="review" {box} y="{bottom - tall:.1f}" height="{tall - sure:.1f}"/></g>'
        )
    every = -(-len(both) // 6)
    for index in range(0, len(edges), every):
        if open_end and index > len(edges) - 3:
            continue
        parts.append(
            f'<text class="tick" x="{left + wide * index:g}" y="{bottom + 17}">'
            f"{edges[index]:g}</text>"
        )
    if open_end:
        parts.append(
            f'<text class="tick" x="{left + span - wide / 2:g}" y="{bottom + 17}">'
            f"≥ {edges[-2]:g}</text>"
        )
    parts.append(
        f'<text class="tick" x="{left + span / 2:g}" y="{bottom + 36}">{escape(unit)}</text>'
    )
    return _svg(parts, bottom + 44, f"Histogram in {unit}")


def _edges(numbers: np.ndarray, limits: tuple[float, float] | None) -> tuple[np.ndarray, bool]:
    if limits is not None:
        return np.round(np.linspace(*limits, 21), 6), False
    far, usual = float(numbers.max()), float(np.percentile(numbers, 97))
    open_end = far > 2 * usual
    step = _nice(max(usual if open_end else far, 1e-9) / 20)
    count = int(np.floor((usual if open_end else far) / step)) + 1 + open_end
    return np.round(np.arange(count + 1) * step, 9), open_end


def _nice(value: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below a value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= value * (1 - 1e-9)))


def text_width(text: str) -> float:
    """Width of a text in a chart, px: at least what DejaVu Sans, a wide font, needs for it.

    Which font the page gets is the reader's machine's affair, so nothing can be measured.
    """
    return _TEXT * sum(map(_advance, text))


def _advance(letter: str) -> float:
    """At least the width of a letter as a share of the font's size."""
    if unicodedata.east_asian_width(letter) in "WF" or letter in "mwMW@%…":
        return 1.0
    if letter in "ijltfr.,:;|!'()[] -/\\":
        return 0.42
    return 0.65 if letter.islower() or letter.isdigit() or letter == "_" else 0.85


def _shortened(name: str) -> str:
    """A name as it fits beside its bar, its middle left out where there is no room for it."""
    keep, short = len(name), name
    while text_width(short) > _MOST_NAME:
        keep -= 1
        short = f"{name[: -(-keep // 2)]}…{name[len(name) - keep // 2 :]}"
    return short


def _nothing() -> str:
    return '<p class="empty">No defects were reported.</p>'


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
