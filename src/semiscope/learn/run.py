"""A training run: a folder with its settings, its log, its checkpoints and its best weights."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from semiscope.config import Settings, read_toml
from semiscope.errors import SettingsError
from semiscope.io.files import write_atomic
from semiscope.learn.loop import LoopSettings, Progress, Task, train
from semiscope.learn.tasks.classify import ClassifyLoopSettings, ClassifySettings, ClassifyTask
from semiscope.learn.tasks.detect import DetectSettings
from semiscope.learn.tasks.diffuse import DiffuseLoopSettings, DiffuseSettings, DiffuseTask
from semiscope.learn.tasks.distill import DistillSettings, DistillTask
from semiscope.learn.tasks.instances import InstancesSettings, InstancesTask
from semiscope.learn.tasks.pretrain import PretrainLoopSettings, PretrainSettings, PretrainTask
from semiscope.learn.tasks.prompt import PromptLoopSettings, PromptTask, PromptTaskSettings
from semiscope.learn.tasks.segment import MapLoopSettings, SegmentSettings, SegmentTask
from semiscope.learn.tasks.semi import SemiSettings, SemiTask
from semiscope.learn.tasks.yolov5 import detect_task

SETTINGS_FILE = "settings.toml"


class Way(NamedTuple):
    """A way of learning.

    Attributes:
        settings: What is learned.
        loop: How long and how.
        task: Made from the first and a seed.
    """

    settings: type[Settings]
    loop: type[LoopSettings]
    task: Callable[[Any, int], Task]


TASKS = {
    "classify": Way(ClassifySettings, ClassifyLoopSettings, ClassifyTask),
    "detect": Way(DetectSettings, LoopSettings, detect_task),
    "diffuse": Way(DiffuseSettings, DiffuseLoopSettings, DiffuseTask),
    "distill": Way(DistillSettings, LoopSettings, DistillTask),
    "instances": Way(InstancesSettings, LoopSettings, InstancesTask),
    "pretrain": Way(PretrainSettings, PretrainLoopSettings, PretrainTask),
    "prompt": Way(PromptTaskSettings, PromptLoopSettings, PromptTask),
    "segment": Way(SegmentSettings, MapLoopSettings, SegmentTask),
    "semi": Way(SemiSettings, MapLoopSettings, SemiTask),
}


def read_settings(path: Path) -> tuple[str, Settings, LoopSettings]:
    """Task name, its settings and the loop's from a TOML file with ``task``, [learn] and [loop].

    Raises:
        SettingsError: The file is missing or holds a fault.
    """
    values = read_toml(path)
    name = values.get("task")
    if name not in TASKS:
        raise SettingsError(f"{path}: expected task = one of {', '.join(TASKS)}, found {name!r}")
    unknown = values.keys() - {"task", "learn", "loop"}
    if unknown:
        raise SettingsError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    way = TASKS[name]
    learn = way.settings.from_dict(values.get("learn", {}), path)
    return name, learn, way.loop.from_dict(values.get("loop", {}), path)


def task_of(run: Path) -> str | None:
    """The name of the task that a folder is a run of; None when it holds no run."""
    path = run / SETTINGS_FILE
    return read_settings(path)[0] if path.is_file() else None


def start(
    task: str, learn: Settings, loop: LoopSettings, run: Path, progress: Progress | None = None
) -> dict[str, float]:
    """Begins a run in an empty or missing folder.

    Returns:
        The figures of the best evaluation.

    Raises:
        SettingsError: The folder already holds a run.
    """
    # by itself it heeds that flag later, when the groups of processes are made already
    process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if process.is_main_process and (run / SETTINGS_FILE).exists():
        raise SettingsError(
            f"{run}: already holds a run. Continue it with --resume {run}, or choose another --out."
        )
    made = TASKS[task].task(learn, loop.seed)
    text = tomli_w.dumps(
        {
            "task": task,
            "learn": tomllib.loads(learn.to_toml()),
            "loop": tomllib.loads(loop.to_toml()),
        }
    )
    process.wait_for_everyone()
    if process.is_main_process:
        write_atomic(run / SETTINGS_FILE, text)
    return train(made, loop, run, progress)


def resume(run: Path, progress: Progress | None = None) -> dict[str, float]:
    """Continues a run from its newest checkpoint; a finished run gives its figures again.

    Raises:
        SettingsError: The folder holds no run.
    """
    name, learn, loop = read_settings(run / SETTINGS_FILE)
    return train(TASKS[name].task(learn, loop.seed), loop, run, progress)
