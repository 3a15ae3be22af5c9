"""The verb evaluate: a model of any kind against the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter
from rich.table import Table

from semiscope.cli.show import AsJson, can_plot, figure, image_bar, print_failed, print_json, stdout
from semiscope.config import Settings
from semiscope.evaluate.classification import ClassificationReport
from semiscope.evaluate.detection import DetectionReport
from semiscope.evaluate.intervals import Interval, Rate
from semiscope.evaluate.plots import plot_detections, plot_labels
from semiscope.infer.model import locate
from semiscope.infer.rewrite import read_task
from semiscope.inspection.score import ScoreSettings, score
from semiscope.inspection.score_labels import LabelScoreSettings, score_labels
from semiscope.inspection.score_maps import MapScoreSettings, score_maps
from semiscope.inspection.score_promptable import PromptScoreSettings, score_promptable

_WORST = 5  # images listed


class EvaluateSettings(PromptScoreSettings, MapScoreSettings, ScoreSettings, LabelScoreSettings):
    """How a model is held against data sets; an option that is not of its kind is refused."""


class _Kind(NamedTuple):
    """What evaluates one kind of model."""

    settings: type[Settings]
    score: Callable[..., tuple[Any, tuple[tuple[str, str], ...]]]


_DETECTION = _Kind(ScoreSettings, score)
_KINDS = {
    "class-map": _Kind(MapScoreSettings, score_maps),
    "classify": _Kind(LabelScoreSettings, score_labels),
    "prompt": _Kind(PromptScoreSettings, score_promptable),
}


def evaluate(
    *,
    settings: Annotated[EvaluateSettings, Parameter(name="*")],
    plot: Annotated[
        Path | None,
        Parameter(help="Of a detector or a classifier: draw the curves into this PNG file."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Hold a model against the truth: AP, mean IoU, or accuracy and purity by class."""
    kind = _KINDS.get(str(read_task(locate(settings.model))), _DETECTION)
    given = settings.model_dump(exclude_unset=True)
    own = kind.settings.from_dict(given, f"evaluating {settings.model}")
    with image_bar("evaluating") as progress:
        report, failed = kind.score(own, progress)
    print_failed(failed)
    if plot is not None and can_plot():
        if isinstance(report, DetectionReport):
            plot_detections(report, plot)
        elif isinstance(report, ClassificationReport):
            plot_labels(report, plot)
    if as_json:
        lost = [{"file": file, "reason": reason} for file, reason in failed]
        print_json({**report.to_dict(), "failed": lost})
    elif isinstance(report, DetectionReport):
        _print_detections(report)
    elif isinstance(report, ClassificationReport):
        _print_labels(report)
    else:
        _print_overlap(report.to_dict())
    return 2 if failed else 0


def _print_detections(report: DetectionReport) -> None:
    table = Table("class", "instances", "AP", "AP50", "precision", "recall")
    for name, row in report.per_class.items():
        values = (row.ap, row.ap50, row.precision, row.recall)
        table.add_row(name, str(row.instances), *map(figure, values))
    table.add_section()
    values = (report.map, report.map50, report.precision, report.recall)
    table.add_row("mean", "", *map(figure, values))
    stdout.print(table)
    stdout.print("AP by size: " + ", ".join(f"{k} {figure(v)}" for k, v in report.by_size.items()))


def _print_overlap(figures: dict[str, Any]) -> None:
    """IoU by class, overall and by device, and the worst images."""
    parts = figures["per_device"]
    if len(parts) > 1:
        parts = {"all": figures, **parts}
    columns = parts.values()
    table = Table("IoU", *parts)
    for name in figures["per_class"]:
        table.add_row(name, *(figure(c["per_class"][name]) for c in columns))
    table.add_section()
    for name, key in (("mean", "mean_iou"), ("materials", "materials"), ("defect", "defect")):
        table.add_row(name, *(figure(c[key]) for c in columns))
    table.add_row("images", *(str(c["images"]) for c in columns))
    stdout.print(table)
    for row in figures["worst_first"][:_WORST]:
        stdout.print(f"{figure(row['mean_iou'])}  {row['file']}", markup=False)


def _print_labels(report: ClassificationReport) -> None:
    """What a fab asks of a classifier: by class, over all, and of what it puts aside."""
    table = Table("class", "images", "accuracy", "purity", "share", "automatic", "its purity")
    for name, row in report.per_class.items():
        rates = (row.accuracy, row.purity, row.share, row.automatic, row.automatic_purity)
        table.add_row(name, str(row.accuracy.of), *(figure(r.value) for r in rates))
    stdout.print(table)
    lines: dict[str, Interval | Rate] = {
        "accuracy": report.accuracy,
        "balanced accuracy": report.balanced_accuracy,
        "kappa": report.kappa,
        "automatic": report.automatic,
        "purity of these": report.automatic_purity,
        "escape": report.escape,
        "over-reject": report.over_reject,
        "unseen found": report.unseen_found,
        "known refused": report.known_refused,
    }
    for name, value in lines.items():
        if value.value is not None:
            of = value if isinstance(value, Interval) else value.interval
            counted = f"  {value.count} of {value.of}" if isinstance(value, Rate) else ""
            ends = f"{figure(of.low)} to {figure(of.high)}"
            stdout.print(f"{name:>18} {figure(of.value)}  95 %: {ends}{counted}", markup=False)
    stdout.print(f"{'calibration error':>18} {figure(report.calibration_error)}", markup=False)
    if report.unseen:
        told = ", ".join(f"{name} {count}" for name, count in report.unseen.items())
        stdout.print(f"classes that the model never saw: {told}", markup=False)
