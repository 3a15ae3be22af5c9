"""The verbs of the labelling cycle: cycle propose, cycle learn, cycle rehearse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from semiscope.cli.show import (
    AsJson,
    figure,
    image_bar,
    print_failed,
    print_json,
    stderr,
    stdout,
    training_bar,
)
from semiscope.label import cycle as cycling
from semiscope.label.rounds import REPORT, Round, read_rounds, saved
from semiscope.learn.tasks.prompt import PromptLoopSettings

Cycle = Annotated[Path, Parameter(help="The cycle's folder.")]
Loop = Annotated[PromptLoopSettings, Parameter(name="*")]


def propose(
    images: Annotated[list[str], Parameter(help="Files, folders and glob patterns.")],
    /,
    *,
    cycle: Cycle,
    settings: Annotated[cycling.ProposeSettings, Parameter(name="*")],
    resume: Annotated[bool, Parameter(help="Go on where it was killed.", negative="")] = False,
    as_json: AsJson = False,
) -> int:
    """Write the next round's masks for a person to correct, as ``label`` does."""
    with image_bar("labelling") as progress:
        folder, summary = cycling.propose(cycle, images, settings, resume=resume, progress=progress)
    for note in summary.notes:
        stderr.print(f"note: {note}", markup=False)
    print_failed(summary.failed)
    if as_json:
        print_json({**summary.to_dict(), "folder": str(folder)})
    else:
        stdout.print(
            f"written: {folder} ({summary.masks} masks on {summary.images} images)\n"
            f"next: correct them, then semiscope cycle learn CORRECTED --cycle {cycle}",
            markup=False,
        )
    return 2 if summary.failed else 0


def learn(
    corrected: Annotated[
        Path, Parameter(help="The corrected data set: Label Studio, COCO or class maps.")
    ],
    /,
    *,
    cycle: Cycle,
    settings: Annotated[cycling.CycleSettings, Parameter(name="*")],
    loop: Loop = PromptLoopSettings(),  # noqa: B008
    as_json: AsJson = False,
) -> None:
    """Take corrected masks back, learn from all so far, tell the time saved and what got worse."""
    with training_bar() as progress:
        cycling.learn(cycle, corrected, settings, loop, progress)
    _show(cycle, read_rounds(cycle), as_json)


def rehearse(
    *,
    cycle: Cycle,
    settings: Annotated[cycling.RehearseSettings, Parameter(name="*")],
    loop: Loop = PromptLoopSettings(),  # noqa: B008
    as_json: AsJson = False,
) -> None:
    """Run a whole cycle on labelled images, to see what it would save; goes on after a kill."""
    with training_bar() as progress:
        rounds = cycling.rehearse(cycle, settings, loop, progress)
    _show(cycle, rounds, as_json)


def _show(cycle: Path, rounds: list[Round], as_json: bool) -> None:
    if as_json:
        figures: dict[str, Any] = {"rounds": [r.model_dump(mode="json") for r in rounds]}
        print_json({**figures, "saved_s": saved(rounds), "report": str(cycle / REPORT)})
        return
    devices = list(rounds[-1].devices)
    table = Table("round", "regions", "proposed", "learned", "by hand, s", "assisted, s", *devices)
    for r in rounds:
        seconds = (f"{v:.0f}" for v in (r.manual_s, r.assisted_s))
        held_out = (figure(r.devices.get(d)) + (" worse" if d in r.worse else "") for d in devices)
        fits = figure(r.before_iou), figure(r.after_iou)
        table.add_row(str(r.number), str(r.regions), *fits, *seconds, *held_out)
    stdout.print(table)
    stdout.print(
        f"{saved(rounds):.0f} s of labelling saved under the cost model; report: {cycle / REPORT}",
        markup=False,
    )
