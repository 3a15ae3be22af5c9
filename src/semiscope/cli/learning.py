"""Verbs that need the training extra: train, export, dial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.config import Dict
from rich.table import Table

from semiscope.cli.show import (
    AsJson,
    can_plot,
    figure,
    image_bar,
    print_failed,
    print_figures,
    print_json,
    print_kept,
    stdout,
    training_bar,
)
from semiscope.compress import export as exporting
from semiscope.compress.graph import StoredBits
from semiscope.compress.promptable_graph import export_promptable, export_run
from semiscope.config import Settings
from semiscope.errors import SettingsError
from semiscope.infer.model import Model, Provenance
from semiscope.infer.rewrite import keep_in_file
from semiscope.inspection.dial import DialSettings, measure_dial, plot_dial
from semiscope.learn import run as runs
from semiscope.learn.loop import LoopSettings
from semiscope.learn.presets import PRESETS
from semiscope.learn.promptable import is_base
from semiscope.learn.tasks.classify import ClassifyLoopSettings, ClassifySettings
from semiscope.learn.tasks.detect import DetectSettings
from semiscope.learn.tasks.diffuse import DiffuseLoopSettings, DiffuseSettings
from semiscope.learn.tasks.instances import InstancesSettings
from semiscope.learn.tasks.pretrain import PretrainLoopSettings, PretrainSettings
from semiscope.learn.tasks.prompt import PromptLoopSettings, PromptTaskSettings
from semiscope.learn.tasks.segment import MapLoopSettings, SegmentSettings
from semiscope.learn.tasks.semi import SemiSettings

SettingsFile = Annotated[
    Path | None, Parameter(help="TOML file with task, [learn] and [loop]; options override it.")
]
Resume = Annotated[Path | None, Parameter(help="Continue this run with its own settings.")]
Out = Annotated[Path, Parameter(help="The run's folder.")]
Loop = Annotated[LoopSettings, Parameter(name="*")]

# how the teacher itself began, and the sparsity before it was pruned, are not for its student
_TEACHER_S_OWN = {"init", "pretrained", "sparsity"}


def train_classify(
    *,
    learn: Annotated[ClassifySettings, Parameter(name="*")],
    loop: Annotated[ClassifyLoopSettings, Parameter(name="*")] = ClassifyLoopSettings(),  # noqa: B008
    out: Out = Path("runs/classify"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train a classifier from images in folders of their classes."""
    run_training("classify", learn, loop, out, resume, as_json)


def train_detect(
    *,
    learn: Annotated[DetectSettings, Parameter(name="*")],
    loop: Loop = LoopSettings(),  # noqa: B008
    out: Out = Path("runs/detect"),
    preset: Annotated[
        str | None, Parameter(help=f"Settings by name, under all others: {', '.join(PRESETS)}.")
    ] = None,
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train a detector; the best weights come to RUN/best, ready for ``export``."""
    run_training("detect", learn, loop, out, resume, as_json)


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
    run_training("diffuse", learn, loop, out, resume, as_json)


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
    run_training("instances", learn, loop, out, resume, as_json)


def train_segment(
    *,
    learn: Annotated[SegmentSettings, Parameter(name="*")],
    loop: Annotated[MapLoopSettings, Parameter(name="*")] = MapLoopSettings(),  # noqa: B008
    out: Out = Path("runs/segment"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train DeepLabV3+: a class for every pixel, from labelled images."""
    run_training("segment", learn, loop, out, resume, as_json)


def train_pretrain(
    *,
    learn: Annotated[PretrainSettings, Parameter(name="*")],
    loop: Annotated[PretrainLoopSettings, Parameter(name="*")] = PretrainLoopSettings(),  # noqa: B008
    out: Out = Path("runs/pretrain"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Pre-train an encoder on images without labels, for ``train classify --init RUN``."""
    run_training("pretrain", learn, loop, out, resume, as_json)


def train_prompt(
    *,
    learn: Annotated[PromptTaskSettings, Parameter(name="*")],
    loop: Annotated[PromptLoopSettings, Parameter(name="*")] = PromptLoopSettings(),  # noqa: B008
    out: Out = Path("runs/prompt"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Adapt a promptable network by LoRA; ``export RUN`` merges it into the base."""
    run_training("prompt", learn, loop, out, resume, as_json)


def train_semi(
    *,
    learn: Annotated[SemiSettings, Parameter(name="*")],
    loop: Annotated[MapLoopSettings, Parameter(name="*")] = MapLoopSettings(),  # noqa: B008
    out: Out = Path("runs/semi"),
    settings: SettingsFile = None,
    resume: Resume = None,
    as_json: AsJson = False,
) -> None:
    """Train DeepLabV3+ from few labelled and many unlabelled images."""
    run_training("semi", learn, loop, out, resume, as_json)


def run_training(
    task: str,
    learn: Settings,
    loop: LoopSettings,
    out: Path,
    resume: Path | None,
    as_json: bool,
) -> None:
    """Begins or continues a run and prints its figures."""
    with training_bar() as progress:
        if resume is not None:
            figures = runs.resume(resume, progress)
        else:
            figures = runs.start(task, learn, loop, out, progress)
    if as_json:
        print_json(figures)
        return
    print_figures(figures)
    following = f"export {resume or out} --out model.onnx"
    if task == "pretrain":
        following = f"train classify --data FOLDERS --net NET --init {resume or out}"
    stdout.print(f"next: semiscope {following}", markup=False)


def export(
    run: Annotated[
        Path,
        Parameter(help="The run's folder; or a promptable base: mobile-sam:FILE, sam:FOLDER."),
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="The .onnx file; its stem becomes the model's name.")],
    adapter: Annotated[Path | None, Parameter(help="LoRA to merge into the base.")] = None,
    weights: Annotated[StoredBits, Parameter(help="Bits in which weights are stored.")] = 32,
    licence: Annotated[str, Parameter(help="Under which it may be used.")] = "unstated",
    limits: Annotated[str, Parameter(help="What it is not fit for.")] = "",
) -> None:
    """Write a run's best weights as one model file, checked against torch."""
    meta: Provenance
    if is_base(str(run)):
        meta = export_promptable(
            str(run), out, adapter=adapter, weights=weights, licence=licence, limits=limits
        )
    elif adapter is not None:
        raise SettingsError("--adapter belongs to a base: mobile-sam:FILE or sam:FOLDER")
    elif runs.task_of(run) == "prompt":
        meta = export_run(run, out, weights=weights, licence=licence, limits=limits)
    else:
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
    drawn = plot if can_plot() else None
    if drawn is not None:
        plot_dial(points, knee, drawn)
    model = Model.load(settings.model)
    decoder = model.meta.decoder.at(boxes=knee.boxes, steps=knee.steps)  # type: ignore[union-attr]
    kept = keep_in_file(model, decoder=decoder, dial=points)
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
    print_kept(model.path, kept, drawn)
    return 2 if failed else 0


def settings_file(arguments: list[str]) -> Dict | None:
    """The values that stand under the options of a verb that trains.

    Those of --settings FILE, over those of --preset NAME; or of the run that --resume RUN names;
    or, to distill without a file, of the run that --teacher RUN names.

    Raises:
        SettingsError: A file holds a fault, a preset is unknown, or --resume stands beside other
            options.
    """
    task = arguments[1] if len(arguments) > 1 else ""
    file, run = _option(arguments, "--settings"), _option(arguments, "--resume")
    preset, teacher = _option(arguments, "--preset"), _option(arguments, "--teacher")
    values: dict[str, Any] = {}
    sources = []
    if run is not None:
        if any(
            a.startswith("--") and a.split("=")[0] not in ("--resume", "--json") for a in arguments
        ):
            raise SettingsError(
                "--resume continues a run with its own settings: give no other option with it"
            )
        file = str(Path(run) / runs.SETTINGS_FILE)
    if preset is not None:
        if preset not in PRESETS:
            raise SettingsError(f"--preset: expected one of {', '.join(PRESETS)}, found {preset!r}")
        values = {**PRESETS[preset]["learn"], **PRESETS[preset]["loop"]}
        sources.append(preset)
    if file is not None:
        found, learn, loop = runs.read_settings(Path(file))
        if found != task:
            verb = "compress" if found == "distill" else "train"
            raise SettingsError(f"{file}: its task is {found}: use semiscope {verb} {found}")
        values = _over(values, _given(learn, loop))
        sources.append(file)
    elif task == "distill" and teacher is not None:
        path = Path(teacher) / runs.SETTINGS_FILE
        found, learn, loop = runs.read_settings(path)
        if found not in ("detect", "distill"):
            raise SettingsError(f"{teacher}: expected a run of train detect, found {found}")
        known = DetectSettings.model_fields.keys() | LoopSettings.model_fields.keys()
        values = {k: v for k, v in _given(learn, loop).items() if k in known - _TEACHER_S_OWN}
        sources.append(str(path))
    if not values:
        return None
    return Dict({arguments[0]: {task: _dashed(values)}}, source=", ".join(sources))


def _given(learn: Settings, loop: Settings) -> dict[str, Any]:
    return {
        **learn.model_dump(mode="json", exclude_unset=True),
        **loop.model_dump(mode="json", exclude_unset=True),
    }


def _over(under: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Values over others, setting by setting."""
    merged = dict(under)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = _over(under[key], value) if both else value
    return merged


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
