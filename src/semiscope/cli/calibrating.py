"""The verb calibrate: thresholds of a detector or a classifier, on images that were held out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from semiscope.cli.show import (
    AsJson,
    can_plot,
    figure,
    image_bar,
    print_failed,
    print_json,
    print_kept,
    stderr,
    stdout,
)
from semiscope.evaluate.intervals import Rate
from semiscope.infer.classifier import is_classifier
from semiscope.infer.model import Model
from semiscope.infer.rewrite import keep_in_file
from semiscope.inspection import calibrate as calibrating
from semiscope.inspection.calibrate_labels import (
    LabelCalibrateSettings,
    LabelCalibration,
    calibrate_labels,
)
from semiscope.inspection.escape_curve import UNITS, plot_curves

_PLOT = Path("runs/calibrate.png")


class AnyCalibrateSettings(calibrating.CalibrateSettings, LabelCalibrateSettings):
    """How thresholds are chosen; an option that is not of the model's kind is refused."""


def calibrate(
    *,
    settings: Annotated[AnyCalibrateSettings, Parameter(name="*")],
    plot: Annotated[
        Path | None,
        Parameter(help=f"Of a detector: where escapes over over-rejects are drawn ({_PLOT})."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Choose a model's thresholds, and show a classifier what is known; write into its file."""
    given = settings.model_dump(exclude_unset=True)
    source = f"calibrating {settings.model}"
    if is_classifier(settings.model):
        return _labels(LabelCalibrateSettings.from_dict(given, source), as_json)
    own = calibrating.CalibrateSettings.from_dict(given, source)
    return _detections(own, (plot or _PLOT) if can_plot() else None, as_json)


def _detections(settings: calibrating.CalibrateSettings, plot: Path | None, as_json: bool) -> int:
    with image_bar("measuring") as progress:
        found = calibrating.calibrate(settings, progress)
    print_failed(found.failed)
    outcomes = {UNITS: found.after, **{k: c.outcome for k, c in found.classes.items()}}
    points = {k: (found.curves[k], o.escape, o.over_reject) for k, o in outcomes.items()}
    if plot is not None:
        plot_curves(points, settings.max_escape, plot)
    model = Model.load(settings.model)
    kept = keep_in_file(model, thresholds=found.thresholds(model.meta))
    if as_json:
        print_json({**found.to_dict(), "written": kept})
    else:
        _print(found)
        print_kept(model.path, kept, plot)
    for problem in found.problems:
        stderr.print(f"warning: {problem}", markup=False)
    missed = any(c.kept and c.outcome.escape.of for c in found.classes.values())
    return 2 if found.failed or missed else 0


def _print(found: calibrating.Calibration) -> None:
    table = Table("class", "report", "accept", "escape", "at most", "over-reject", "unreviewed")
    for name, c in found.classes.items():
        cuts = f"{c.report:.4f}", f"{c.accept:.4f}"
        escape, *others = _rates(c.outcome)
        table.add_row(name, *cuts, escape, f"{c.escape_limit:.3f}", *others)
    table.add_section()
    units = {"before": found.before, "after": found.after, "left out": found.left_out}
    for name, outcome in units.items():
        escape, *others = _rates(outcome)
        table.add_row(f"units, {name}", "", "", escape, "", *others)
    stdout.print(table)


def _rates(outcome: calibrating.Outcome) -> list[str]:
    return [_rate(r) for r in (outcome.escape, outcome.over_reject, outcome.unreviewed)]


def _rate(rate: Rate) -> str:
    return "-" if rate.value is None else f"{rate.count}/{rate.of} {rate.value:.3f}"


def _labels(settings: LabelCalibrateSettings, as_json: bool) -> int:
    with image_bar("looking") as progress:
        found = calibrate_labels(settings, progress)
    print_failed(found.failed)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_labels(found, settings.model)
    for note in found.notes:
        stderr.print(f"warning: {note}", markup=False)
    return 2 if found.failed else 0


def _print_labels(found: LabelCalibration, model: str) -> None:
    table = Table("class", "known examples", "reach", "accept from")
    for name, count in found.examples.items():
        table.add_row(name, str(count), figure(found.reach[name]), figure(found.accept[name]))
    stdout.print(table)
    held = found.held_out
    stdout.print(
        f"on the held-out images, on which this was chosen: {_rate(held.automatic)} need no "
        f"person, of these {_rate(held.automatic_purity)} are right; {_rate(held.known_refused)} "
        "are put to unknown",
        markup=False,
    )
    stdout.print(
        f"written into {model}" if found.written else f"not written: {model} is shipped",
        markup=False,
    )
