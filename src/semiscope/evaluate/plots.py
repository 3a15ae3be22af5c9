"""Pictures of evaluations."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semiscope.evaluate.classification import ClassificationReport
from semiscope.evaluate.detection import DetectionReport
from semiscope.io.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    _draw_confusion(right, report.confusion, [*names, "background"], [*names, "background"])
    write_figure(figure, path)


def plot_labels(report: ClassificationReport, path: Path) -> None:
    """Writes a PNG: reliability, purity over the share taken, and the confusion matrix by truth.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    bins = [b for b in report.reliability if b.images]
    most = max((b.images for b in bins), default=1)
    left.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
    left.bar(
        [b.low for b in bins],
        [b.images / most for b in bins],
        width=1 / len(report.reliability),
        align="edge",
        color="lightgrey",
        label=f"images (highest bar {most})",
    )
    left.plot([b.score for b in bins], [b.accuracy for b in bins], marker="o", label="accuracy")
    error = report.calibration_error
    left.set(
        xlabel="score",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title="reliability" + ("" if error is None else f", calibration error {error:.3f}"),
    )
    left.legend(fontsize="small", loc="upper left")
    share, purity = report.curve
    middle.plot(share, purity)
    taken, pure = report.automatic.value, report.automatic_purity.value
    if taken is not None and pure is not None:
        middle.plot([taken], [pure], "o", color="black", label="by the model's thresholds")
        middle.legend(fontsize="small")
    middle.set(
        xlabel="share of the images, the surest first",
        ylabel="purity",
        xlim=(0, 1),
        title="what needs no person",
    )
    names = list(report.per_class)
    _draw_confusion(right, report.confusion, [*names, "unseen"], [*names, "unknown"])
    write_figure(figure, path)


def _draw_confusion(
    axes: Axes, counts: NDArray[np.int64], truth: Sequence[str], called: Sequence[str]
) -> None:
    """Counts, coloured by part of their row."""
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmax=1)
    axes.set_xticks(np.arange(len(called)), called, rotation=90)
    axes.set_yticks(np.arange(len(truth)), truth)
    axes.set(xlabel="prediction", ylabel="truth", title="counts, coloured by part of the truth")
    if len(truth) <= LEGEND_CLASSES + 1:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                shade = count / counts[row].sum()
                colour = "white" if shade > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, whole or not at all.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())
