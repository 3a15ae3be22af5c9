"""Pictures of evaluations."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semiscope.evaluate.detection import DetectionReport
from semiscope.infer.model import DialPoint
from semiscope.io.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND_CLASSES = 20


def plot_detections(report: DetectionReport, path: Path) -> None:
    """Writes a PNG: precision over recall, F1 over score, and the confusion matrix by truth.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    # Matplotlib takes a second to import, and most runs draw nothing. A bare Figure draws with Agg
    # and is not kept alive by pyplot.
    from matplotlib.figure import Figure

    names = list(report.per_class)
    curves = report.curves
    figure = Figure(figsize=(16, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for k, (name, result) in enumerate(report.per_class.items()):
        if result.ap50 is not None:
            left.plot(
                curves.recall_grid, curves.precision_at_recall[k], label=f"{name} {result.ap50:.3f}"
            )
            middle.plot(curves.score, curves.f1[k], label=name)
    left.set(xlabel="recall", ylabel="precision", title="IoU 0.5, AP50 in the legend")
    middle.set(xlabel="score", ylabel="F1", title="IoU 0.5")
    if report.score_at_best_f1 is not None:
        middle.axvline(report.score_at_best_f1, color="black", linestyle=":", linewidth=1)
    for axes in (left, middle):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if 0 < len(axes.lines) and len(names) <= LEGEND_CLASSES:
            axes.legend(fontsize="small")
    counts = report.confusion
    right.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmax=1)
    ticks = np.arange(len(names) + 1)
    right.set_xticks(ticks, [*names, "background"], rotation=90)
    right.set_yticks(ticks, [*names, "background"])
    right.set(xlabel="prediction", ylabel="truth", title="counts, coloured by part of the truth")
    if len(names) <= LEGEND_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                shade = count / counts[row].sum()
                colour = "white" if shade > 0.5 else "black"
                right.text(column, row, str(count), ha="center", va="center", color=colour)
    _write(figure, path)


def plot_dial(points: Sequence[DialPoint], knee: DialPoint, path: Path) -> None:
    """Writes a PNG: AP over seconds an image, a line for each number of steps.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for steps in sorted({p.steps for p in points}):
        line = sorted((p for p in points if p.steps == steps), key=lambda p: p.boxes)
        times, heights = [p.seconds for p in line], [p.map for p in line]
        axes.plot(times, heights, marker="o", label=f"{steps} step{'s' * (steps > 1)}")
        for point in line:
            axes.annotate(
                str(point.boxes),
                (point.seconds, point.map),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize="small",
            )
    axes.plot(knee.seconds, knee.map, "o", ms=16, mfc="none", mec="black", label="knee")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.xaxis.set_minor_formatter("{x:.3g}")
    axes.set(xlabel="seconds an image", ylabel="AP", title="random boxes at the points")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())
