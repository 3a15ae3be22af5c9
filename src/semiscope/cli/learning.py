"""Verbs that need the training extra: train, export, dial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.config import Dict
from rich.table import Table

from semiscope.cli.show import (
    AsJson,
    figure,
    image_bar,
    print_failed,
    print_figures,
    print_json,
    stdout,
    training_bar,
)
from semiscope.compress import export as exporting
from semiscope.compress.graph import StoredBits
from semiscope.compress.metadata import rewrite_meta
from semiscope.errors import SettingsError
from semiscope.infer.model import ZOO, Model
from semiscope.inspection.dial import DialSettings, measure_dial, plot_dial
from semiscope.learn import run as runs
from semiscope.learn.loop import LoopSettings
from semiscope.learn.tasks.common import LearnSettings
from semiscope.learn.tasks.detect import DetectSettings
from semiscope.learn.tasks.diffuse import DiffuseLoopSettings, DiffuseSettings
from semiscope.learn.tasks.instances import InstancesSettings

SettingsFile = Annotated[
    Path | None, Parameter(help="TOML file with task, [learn] and [loop]; options override it.")
]
Resume = Annotated[Path | None, Parameter(help="Continue this run with its own settings.")]
Out = Annotated[Path, Parameter(help="The run's folder.")]
Loop = Annotated[LoopSettings, Parameter(name="*")]


def train_detect(
    *,
    learn: Annotated[DetectSettings, Parameter(name="*")],
    loop: Loop = LoopSettings(),  # noqa: B008
    out: Out = Path("runs/detect"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train a detector; the best weights come to RUN/best, ready for ``export``."""
    _train("detect", learn, loop, out, resume, as_json)


def train_diffuse(
    *,
    learn: Annotated[DiffuseSettings, Parameter(name="*")],
    loop: Annotated[DiffuseLoopSettings, Parameter(name="*")] = DiffuseLoopSettings(),  # noqa: B008
    out: Out = Path("runs/diffuse"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train DiffusionInst: instances with masks from random boxes."""
    _train("diffuse", learn, loop, out, resume, as_json)


def train_instances(
    *,
    learn: Annotated[InstancesSettings, Parameter(name="*")],
    loop: Loop = LoopSettings(),  # noqa: B008
    out: Out = Path("runs/instances"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train Mask R-CNN or PointRend: instances with masks from region proposals."""
    _train("instances", learn, loop, out, resume, as_json)


def _train(
    task: str,
    learn: LearnSettings,
    loop: LoopSettings,
    out: Path,
    resume: Path | None,
    as_json: bool,
) -> None:
    with training_bar() as progress:
        if resume is not None:
            figures = runs.resume(resume, progress)
        else:
            figures = runs.start(task, learn, loop, out, progress)
    if as_json:
        print_json(figures)
        return
    print_figures(figures)
    stdout.print(f"next: semiscope export {resume or out} --out model.onnx", markup=False)


def export(
    run: Annotated[Path, Parameter(help="The run's folder.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The .onnx file; its stem becomes the model's name.")],
    weights: Annotated[StoredBits, Parameter(help="Bits in which weights are stored.")] = 32,
    licence: Annotated[str, Parameter(help="Under which it may be used.")] = "unstated",
    limits: Annotated[str, Parameter(help="What it is not fit for.")] = "",
) -> None:
    """Write a run's best weights as one model file, checked against torch."""
    meta = exporting.export(run, out, weights=weights, licence=licence, limits=limits)
    size = out.stat().st_size / 1e6
    stdout.print(f"written: {out} ({size:.1f} MB, {meta.gflops:.2f} GFLOPs)", markup=False)


def dial(
    *,
    settings: Annotated[DialSettings, Parameter(name="*")],
    plot: Annotated[Path, Parameter(help="Draw AP over time into this PNG file.")] = Path(
        "runs/dial.png"
    ),
    as_json: AsJson = False,
) -> int:
    """Measure accuracy and time over boxes and steps; write the knee into the model file."""
    with image_bar("measuring") as progress:
        points, knee, failed = measure_dial(settings, progress)
    print_failed(failed)
    plot_dial(points, knee, plot)
    model = Model.load(settings.model)
    # a shipped model belongs to the installation, not to this data set
    kept = model.path.parent != ZOO
    if kept:
        decoder = model.meta.decoder.at(boxes=knee.boxes, steps=knee.steps)  # type: ignore[union-attr]
        rewrite_meta(model.path, model.meta.model_copy(update={"decoder": decoder, "dial": points}))
    if as_json:
        print_json(
            {
                "points": [p.model_dump() for p in points],
                "knee": knee.model_dump(),
                "written": kept,
                "failed": [{"file": file, "reason": reason} for file, reason in failed],
            }
        )
        return 2 if failed else 0
    table = Table("boxes", "steps", "AP", "ms an image")
    for p in points:
        mark = "  knee" if p == knee else ""
        table.add_row(str(p.boxes), str(p.steps), figure(p.map), f"{p.seconds * 1e3:.1f}{mark}")
    stdout.print(table)
    where = f"written into {model.path}" if kept else f"not written: {settings.model} is shipped"
    stdout.print(f"{where}; plot: {plot}", markup=False)
    return 2 if failed else 0


def settings_file(arguments: list[str]) -> Dict | None:
    """The values of --settings FILE, or of the run that --resume RUN names, under the options.

    Raises:
        SettingsError: The file holds a fault, or --resume stands beside other options.
    """
    file, run = _option(arguments, "--settings"), _option(arguments, "--resume")
    if file is None and run is None:
        return None
    if run is not None and any(
        a.startswith("--") and a.split("=")[0] not in ("--resume", "--json") for a in arguments
    ):
        raise SettingsError(
            "--resume continues a run with its own settings: give no other option with it"
        )
    path = Path(run) / runs.SETTINGS_FILE if run is not None else Path(str(file))
    task, learn, loop = runs.read_settings(path)
    if arguments[1:2] != [task]:
        raise SettingsError(f"{path}: its task is {task}: use semiscope train {task}")
    values = {
        **learn.model_dump(mode="json", exclude_unset=True),
        **loop.model_dump(mode="json", exclude_unset=True),
    }
    return Dict({"train": {task: _dashed(values)}}, source=str(path))


def _dashed(values: dict[str, Any]) -> dict[str, Any]:
    return {
        k.replace("_", "-"): _dashed(v) if isinstance(v, dict) else v for k, v in values.items()
    }


def _option(arguments: list[str], name: str) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == name:
            return following
        if argument.startswith(f"{name}="):
            return argument.split("=", 1)[1]
    return None
