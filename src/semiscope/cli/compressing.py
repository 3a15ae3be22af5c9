"""Verbs that make a trained network smaller: compress prune, compress distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from semiscope.cli.learning import Loop, Resume, SettingsFile, run_training
from semiscope.cli.show import AsJson, image_bar, print_figures, print_json, stdout
from semiscope.compress.prune import PruneSettings
from semiscope.compress.prune import prune as prune_run
from semiscope.errors import SettingsError
from semiscope.learn.loop import LoopSettings
from semiscope.learn.tasks.distill import DistillSettings


def prune(
    run: Annotated[Path, Parameter(help="The run of a detector.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The pruned run's folder, new or empty.")],
    settings: Annotated[PruneSettings, Parameter(name="*")] = PruneSettings(),  # noqa: B008
    as_json: AsJson = False,
) -> None:
    """Take the least channels out of a detector; train again from the pruned run."""
    with image_bar("pruning") as progress:
        report = prune_run(run, out, settings, progress)
    if as_json:
        print_json(report.figures())
        return
    print_figures(report.figures())
    stdout.print(f"written: {out} (channels.png, scale_factors.png, pruning.json)", markup=False)
    dense = " --sparsity 0" if settings.method == "slimming" else ""
    stdout.print(
        f"next: semiscope train detect --settings {run / 'settings.toml'} --init {out}{dense}, or "
        f"semiscope compress distill {out} --teacher {run}",
        markup=False,
    )


def distill(
    run: Annotated[Path | None, Parameter(help="The pruned run that learns.")] = None,
    /,
    *,
    learn: Annotated[DistillSettings, Parameter(name="*")],
    loop: Loop = LoopSettings(),  # noqa: B008
    out: Annotated[Path, Parameter(help="The run's folder.")] = Path("runs/distill"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train a pruned detector on the truth and on the whole network's answers.

    The teacher's settings hold where no option or file says otherwise.
    """
    if run is not None:
        learn = learn.model_copy(update={"init": run})
    elif learn.init is None:
        raise SettingsError("expected the run that learns: semiscope compress distill RUN")
    run_training("distill", learn, loop, out, resume, as_json)
