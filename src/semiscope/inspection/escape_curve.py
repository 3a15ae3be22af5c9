"""Escapes against over-rejects as a curve, and its picture with the operating points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiscope.evaluate.intervals import Rate
from semiscope.evaluate.plots import LEGEND_CLASSES, write_figure

Floats = NDArray[np.float64]
UNITS = "(units)"
"""In place of a class name: bad units that pass, good ones that do not."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Escapes against over-rejects, one entry a threshold, from the lowest threshold up.

    Attributes:
        over_reject: Share of the images without the class on which it is reported, falling; for
            units, of the good ones.
        escape: Share of the images with the class on which it is not, rising; for units, of the bad
            ones.
    """

    over_reject: Floats
    escape: Floats


def class_curve(with_it: Floats, without: Floats) -> Curve:
    """One class, over every threshold at which something changes.

    Args:
        with_it: Highest score of the class on each image that shows it; 0 for none.
        without: Likewise on the others.
    """
    cuts = np.unique(np.concatenate([with_it, without, [0.0, np.inf]]))
    cuts = cuts[cuts > 0]
    return Curve(
        over_reject=_share(len(without) - np.searchsorted(np.sort(without), cuts), len(without)),
        escape=_share(np.searchsorted(np.sort(with_it), cuts), len(with_it)),
    )


def unit_curve(truth: NDArray[np.bool_], scores: Floats) -> Curve:
    """Whole units, over the part of each class's images that is let escape, from none to all.

    Args:
        truth: (n, K) whether an image shows a class.
        scores: (n, K) the highest score of a class on an image; 0 for none.
    """
    bad = truth.any(axis=1)
    ranked = [np.sort(scores[truth[:, k], k]) for k in range(truth.shape[1])]
    parts = np.unique(np.concatenate([np.arange(len(r) + 1) / max(len(r), 1) for r in ranked]))
    points = []
    for part in parts:
        # a hair more, so that 3 / 7 of 7 is 3
        places = [int(part * len(r) + 1e-9) for r in ranked]
        cuts = [r[i] if i < len(r) else np.inf for r, i in zip(ranked, places, strict=True)]
        reported = ((scores >= cuts) & (scores > 0)).any(axis=1)
        points.append((np.sum(reported & ~bad), np.sum(~reported & bad)))
    over, escaped = np.array(points).T
    return Curve(_share(over, int(np.sum(~bad))), _share(escaped, int(np.sum(bad))))


def _share(count: NDArray[np.intp], of: int) -> Floats:
    """NaN where there is nothing to be a share of."""
    return count / of if of else np.full(count.shape, np.nan)


def plot_curves(
    curves: Mapping[str, tuple[Curve, Rate, Rate]], max_escape: float, path: Path
) -> None:
    """Writes a PNG: escape over over-reject, with the bound and the operating points.

    Args:
        curves: By name, a curve and the escapes and over-rejects of its operating point; a curve
            without points is left out.
        max_escape: The bound.
        path: Where.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    for name, (curve, escape, over_reject) in curves.items():
        if escape.value is None or over_reject.value is None:
            continue
        label = f"{name}: {escape.count} of {escape.of}, {over_reject.count} of {over_reject.of}"
        (line,) = axes.step(curve.over_reject, curve.escape, where="pre", label=label)
        if name == UNITS:
            line.set(linewidth=2.5, color="black", zorder=3)
        axes.plot(over_reject.value, escape.value, "o", ms=8, color=line.get_color(), zorder=4)
    axes.axhline(max_escape, color="black", linestyle=":", linewidth=1)
    axes.annotate(f"bound {max_escape:g}", (1, max_escape), ha="right", va="bottom")
    axes.set(
        xlabel="over-reject: share of the images without it on which it is reported",
        ylabel="escape: share of the images with it on which it is not",
        title="at the points: escapes, over-rejects",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.grid(alpha=0.3)
    if len(axes.lines) > 1 and len(curves) <= LEGEND_CLASSES:
        axes.legend(fontsize="small")
    write_figure(figure, path)
