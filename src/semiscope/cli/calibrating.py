"""The verb calibrate: thresholds under a bound on escapes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from semiscope.cli.show import (
    AsJson,
    image_bar,
    print_failed,
    print_json,
    print_kept,
    stderr,
    stdout,
)
from semiscope.evaluate.intervals import Rate
from semiscope.infer.model import Model
from semiscope.infer.rewrite import keep_in_file
from semiscope.inspection import calibrate as calibrating
from semiscope.inspection.escape_curve import UNITS, plot_curves


def calibrate(
    *,
    settings: Annotated[calibrating.CalibrateSettings, Parameter(name="*")],
    plot: Annotated[Path, Parameter(help="Draw escapes over over-rejects into this PNG file.")] = (
        Path("runs/calibrate.png")
    ),
    as_json: AsJson = False,
) -> int:
    """Choose thresholds that keep escapes below a bound; write them into the model file."""
    with image_bar("measuring") as progress:
        found = calibrating.calibrate(settings, progress)
    print_failed(found.failed)
    outcomes = {UNITS: found.after, **{k: c.outcome for k, c in found.classes.items()}}
    points = {k: (found.curves[k], o.escape, o.over_reject) for k, o in outcomes.items()}
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
