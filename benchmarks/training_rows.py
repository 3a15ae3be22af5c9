"""Networks trained for the same time on the same images and held against the same test images.

The time is the processor's, so that other programs on the machine do not change the comparison; on
a GPU it is the clock's. A row that was killed continues where it was, and a finished one is not
trained again. ``train_run`` does so for the benchmarks whose rows have a number of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from semiscope.cli.show import image_bar, stderr, training_bar
from semiscope.compress.export import export
from semiscope.config import Settings
from semiscope.evaluate.detection import DetectionReport, evaluate_detections
from semiscope.infer.model import Model
from semiscope.infer.tiled import detect
from semiscope.inspection.score import WHOLE_CURVE, labelled
from semiscope.io.image import read_image
from semiscope.learn.loop import LoopSettings, Progress, Task, train
from semiscope.learn.run import SETTINGS_FILE, TASKS, read_settings, resume, start
from semiscope.learn.tasks.common import LearnSettings
from semiscope.simulate.sem_lines import SemLinesSettings, write_scenes
from semiscope.types import Annotations

NETS = {"diffusion-inst": "diffuse", "pointrend": "instances", "mask-rcnn": "instances"}
"""Network to the way of learning that trains it."""

# what the paper and its baselines have are the defaults of the settings
SCALES: dict[str, dict[str, dict[str, Any]]] = {
    "full": {"diffuse": {}, "instances": {}},
    "small": {
        "diffuse": {
            "features": 64,
            "heads": 4,
            "hidden": 16,
            "feedforward": 256,
            "mask_features": 32,
            "learning_rate": 6e-4,
            "weight_decay": 0.05,
            "backbone_rate": 0.3,
        },
        "instances": {
            "features": 64,
            "hidden": 256,
            "proposals": 100,
            "detections": 30,
            "subdivisions": 4,
            "optimiser": "adamw",
            "learning_rate": 6e-4,
            "weight_decay": 0.05,
            "backbone_rate": 0.3,
        },
    },
}
TABLE1_SEED = 920120
PAPER_SCORE = 0.5  # detections below do not count in the paper's AP
WARM_UP = 12
_LEFT_OUT = 2  # the first steps read images and plan convolutions
_NOTE_STEPS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """What differs from row to row."""

    net: str
    backbone: str
    sampling: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A row's training as it was.

    Attributes:
        run: The run folder.
        file: Its exported model.
        steps: Of the whole training.
        minutes: That the steps took, without evaluations; None where it was too short to tell.
    """

    run: Path
    file: Path
    steps: int
    minutes: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """What the test images say of a model.

    Attributes:
        reports: By shape ("box", "mask"), the whole curve.
        cut: Likewise, with the paper's lowest score.
        seconds: Median of an image, from its pixels to outlines, all models in turn.
    """

    reports: dict[str, DetectionReport]
    cut: dict[str, DetectionReport]
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how rows are trained."""
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, each row")
    parser.add_argument("--data", type=Path, default=Path("runs/data/table1"))
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--side", type=int, default=320, help="of the network's input, px")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scale", choices=sorted(SCALES), default="small", help="of the heads")
    parser.add_argument("--boxes", type=int, default=100, help="random boxes, trained and tested")
    parser.add_argument("--pretrained", help="as of semiscope train; 'package' where there is one")
    parser.add_argument("--init", type=Path, help="a run whose backbone is every row's start")
    parser.add_argument("--frozen-stages", type=int, default=3)
    parser.add_argument("--channels", type=int, default=1, help="of the image")
    parser.add_argument("--scaling", default="percentile", help="as of semiscope train")
    parser.add_argument("--seed", type=int, default=0, help="of training and held-out part")


def clock() -> float:
    """Seconds of this process, or of the clock where a GPU does the work."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def render_table1(data: Path) -> None:
    """The paper's Table I in simulated scenes: 920 to train on, 120 to test; nothing if present.

    The simulation's part of 120 is moved from ``val`` to ``test``, so that what is held out of
    training for choosing weights and thresholds is a part of the 920. ``scenes.csv`` still says
    val.
    """
    if data.exists():
        return
    with image_bar("rendering") as bar:
        beside = data.with_name(f".{data.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        workers = torch.get_num_threads()
        write_scenes(SemLinesSettings(seed=TABLE1_SEED, workers=workers), beside, bar)
    os.replace(beside / "val", beside / "test")
    os.replace(beside, data)


def learn_settings(row: Row, given: argparse.Namespace) -> LearnSettings:
    """What a row learns and how."""
    task = NETS[row.net]
    package = "package" if row.backbone == "efficientnet-lite0" else ""
    values: dict[str, Any] = {
        "net": row.net,
        "data": given.data,
        "backbone": row.backbone,
        "pretrained": package if given.pretrained is None else given.pretrained,
        "init": given.init,
        "frozen_stages": given.frozen_stages,
        "height": given.side,
        "width": given.side,
        "channels": given.channels,
        "scaling": given.scaling,
        **SCALES[given.scale][task],
    }
    if task == "diffuse":
        values |= {"boxes": given.boxes, "sampling": {"boxes": given.boxes}}
    elif given.scale == "small":
        # the smallest defects are about a twentieth of the image
        values["anchor"] = given.side / 20
    return TASKS[task].settings.from_dict(values, row.net)


def loop_settings(row: Row, given: argparse.Namespace) -> LoopSettings:
    """How a row is trained, but for how long."""
    return LoopSettings(
        batch=given.batch,
        balanced=row.sampling == "balanced",
        clip_norm=1.0 if row.net == "diffusion-inst" else 10.0,
        warmup_epochs=0.5,
        ema_decay=0.995,
        ema_ramp=200.0,
        workers=2 if torch.cuda.is_available() else 0,
        seed=given.seed,
    )


class _Enough(Exception):
    pass


def first_steps(task: Task, loop: LoopSettings, steps: int) -> list[float]:
    """Does the first steps of a training that is thrown away.

    Returns:
        The clock after each.
    """
    marks: list[float] = []

    def note(done: int, total: int, figures: dict[str, float]) -> None:
        marks.append(clock())
        if done == steps:
            raise _Enough

    endless = loop.model_copy(update={"epochs": steps + 1, "evaluate_every": steps + 1})
    with tempfile.TemporaryDirectory() as folder:
        try:
            train(task, endless, Path(folder), note)
        except _Enough:
            pass
    return marks


class _Watch:
    """Notes beside the run what its steps take, evaluations left out."""

    def __init__(self, path: Path, steps: int, told: Progress) -> None:
        self._path, self._steps, self._told = path, steps, told
        self._last: float | None = None
        self._count, self._seconds = 0, 0.0

    def __call__(self, done: int, total: int, figures: dict[str, float]) -> None:
        now = clock()
        # before the first step of an epoch there was an evaluation
        if self._last is not None and (done - 1) % self._steps:
            self._count, self._seconds = self._count + 1, self._seconds + now - self._last
        self._last = now
        if self._count and (done % _NOTE_STEPS == 0 or done % self._steps == 0):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"steps": self._count, "seconds": self._seconds}) + "\n")
            self._count, self._seconds = 0, 0.0
        self._told(done, total, figures)


def trained(row: Row, given: argparse.Namespace) -> Trained:
    """A row's best weights as a model file: trained, continued, or found finished.

    The epochs are chosen so that the steps take ``given.minutes``, by what the first steps of this
    network take on this machine.

    Raises:
        SystemExit: The folder holds a run with other settings.
    """
    name = (
        f"{row.net}-{row.backbone}-{row.sampling}-{given.side}px-{given.minutes:g}min-{given.seed}"
    )
    run, task = given.out / name, NETS[row.net]
    learn, loop = learn_settings(row, given), loop_settings(row, given)
    made = TASKS[task].task(learn, loop.seed)
    steps = max(1, len(made.examples()) // loop.batch)
    begun = (run / SETTINGS_FILE).exists()
    if begun:
        _, was, loop = read_settings(run / SETTINGS_FILE)
        if was.model_dump() != learn.model_dump() or loop.batch != given.batch:
            raise SystemExit(
                f"{run}: was trained with other options: take it away, or another --out"
            )
    else:
        marks = first_steps(made, loop, WARM_UP)[_LEFT_OUT - 1 :]
        second = (marks[-1] - marks[0]) / (len(marks) - 1)
        epochs = max(1, round(60 * given.minutes / (second * steps)))
        loop = loop.model_copy(update={"epochs": epochs, "evaluate_every": max(1, epochs // 4)})
        stderr.print(f"{name}: {second:.2f} s a step, {epochs} epochs of {steps} steps")
    times = run / "seconds.jsonl"
    with training_bar() as bar:
        watch = _Watch(times, steps, bar)
        if begun:
            resume(run, watch)
        else:
            start(task, learn, loop, run, watch)
    file = given.out / f"{name}.onnx"
    best = run / "best" / "state.json"
    if not file.exists() or file.stat().st_mtime < best.stat().st_mtime:
        export(run, file, limits="a row of a benchmark")
    noted = [json.loads(line) for line in times.open()] if times.exists() else []
    count = sum(n["steps"] for n in noted)
    total = loop.epochs * steps
    minutes = sum(n["seconds"] for n in noted) / count * total / 60 if count else None
    return Trained(run, file, total, minutes)


def train_run(
    task: str, learn: Settings, loop: LoopSettings, run: Path, *, done: bool = False
) -> None:
    """One training, continued when it was begun.

    Args:
        task: Name in ``TASKS``.
        learn: What is learned.
        loop: For how long.
        run: Its folder.
        done: It is finished: only whether it is the one that is meant is looked at.

    Raises:
        SystemExit: It was begun with other options.
    """
    begun = (run / SETTINGS_FILE).exists()
    if begun and read_settings(run / SETTINGS_FILE) != (task, learn, loop):
        raise SystemExit(f"{run}: was trained with other options: take it away, or another --out")
    if done:
        return
    stderr.print(f"{run}:", markup=False)
    with training_bar() as bar:
        if begun:
            resume(run, bar)
        else:
            start(task, learn, loop, run, bar)


def tested(files: Sequence[Path], data: Path, threads: int) -> list[Tested]:
    """Models on the test images as ``semiscope evaluate`` infers them, in turn on each image.

    Each time another model goes first, so that what else the machine does falls on all alike.
    """
    models = [Model.load(file, threads) for file in files]
    classes = models[0].meta.classes
    truth: list[Annotations] = []
    sizes: list[tuple[int, int]] = []
    found: list[list[Annotations]] = [[] for _ in models]
    seconds: list[list[float]] = [[] for _ in models]
    samples = labelled(models[0].meta, data, "test")
    with image_bar("testing") as bar:
        for done, sample in enumerate(samples, 1):
            assert sample.annotations is not None
            pixels = read_image(sample.path).specimen
            if not truth:
                for model in models:
                    detect(model, pixels, WHOLE_CURVE)
            truth.append(sample.annotations)
            sizes.append(pixels.shape[:2])
            for place in range(len(models)):
                k = (place + done) % len(models)
                began = time.perf_counter()
                found[k].append(detect(models[k], pixels, WHOLE_CURVE))
                seconds[k].append(time.perf_counter() - began)
            bar(done, len(samples))

    def reports(detections: list[Annotations], least: float) -> dict[str, DetectionReport]:
        return {
            shape: evaluate_detections(
                truth, detections, classes, sizes, shape=shape, min_score=least
            )
            for shape in ("box", "mask")
        }

    return [
        Tested(reports(f, WHOLE_CURVE), reports(f, PAPER_SCORE), median(t))
        for f, t in zip(found, seconds, strict=True)
    ]
