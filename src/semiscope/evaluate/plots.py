"""Pictures of evaluations."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semiscope.evaluate.detection import DetectionReport
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
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, whole or not at all.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())
