"""The speed dial of a diffusion model: accuracy and time by number of boxes and of steps.

One training serves them all (SEMI-DiffusionInst 2023, table VI): the fewest boxes that still find
everything are chosen afterwards, on the data at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from statistics import median

from pydantic import Field

from semiscope.config import Settings
from semiscope.evaluate.detection import evaluate_detections
from semiscope.evaluate.plots import write_figure
from semiscope.infer.model import DialPoint, Model
from semiscope.infer.sampling import Dial
from semiscope.infer.tiled import OVERLAP, infer, prepare_inputs
from semiscope.inspection.score import WHOLE_CURVE, compared, labelled, read_each
from semiscope.types import Annotations


class DialSettings(Settings):
    """Which choices are measured on what."""

    model: str = Field(description="A diffusion model's .onnx file, or its name in the zoo")
    data: Path = Field(description="Data set with boxes or outlines; not the one for final figures")
    split: str = Field(
        "", description="Which part: train, val or test; by default val, else test, else all"
    )
    boxes: tuple[int, ...] = Field(
        (500, 300, 200, 100, 50, 25), min_length=1, description="Numbers of random boxes"
    )
    steps: tuple[int, ...] = Field((1, 2, 4), min_length=1, description="Numbers of steps")
    seed: int = Field(0, ge=0, description="Of the random boxes")
    loss: float = Field(
        0.01, ge=0, le=1, description="AP that the knee may lose against the best choice"
    )
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


def measure_dial(
    settings: DialSettings, progress: Callable[[int, int], None] | None = None
) -> tuple[tuple[DialPoint, ...], DialPoint, tuple[tuple[str, str], ...]]:
    """Accuracy and time of every choice of boxes and steps.

    The choices take turns on each image, each time another first, so that what else the machine
    does falls on all of them alike.

    Args:
        settings: Which choices on what.
        progress: Called after each image with how many are done and how many there are.

    Returns:
        The points; the knee, which is the fastest that loses no more AP than the settings allow;
        and file and reason of the images that could not be read.

    Raises:
        DataError: No image with boxes.
        ModelError: The model cannot be used.
        SettingsError: It is no diffusion model, or a choice is out of range.
    """
    model = Model.load(settings.model, settings.threads)
    choices = [
        Dial.from_dict({"boxes": b, "steps": s, "seed": settings.seed}, "dial")
        for b, s in product(settings.boxes, settings.steps)
    ]
    dialled = [model.dialled(choice) for choice in choices]
    samples = labelled(model.meta, settings.data, settings.split or ("val", "test"))
    truth: list[Annotations] = []
    sizes: list[tuple[int, int]] = []
    failed: list[tuple[str, str]] = []
    found: list[list[Annotations]] = [[] for _ in choices]
    seconds: list[list[float]] = [[] for _ in choices]
    for done, (labels, image) in enumerate(read_each(samples, failed, progress), 1):
        pixels = image.specimen
        inputs = prepare_inputs(model, pixels, OVERLAP)
        if not truth:
            for each in dialled:
                each.run(inputs.prepared[:1])
        truth.append(labels)
        sizes.append(pixels.shape[:2])
        for place in range(len(choices)):
            k = (place + done) % len(choices)
            started = time.perf_counter()
            parts = infer(dialled[k], inputs.prepared, inputs.sizes, 1, WHOLE_CURVE, nullcontext())
            found[k].append(inputs.joined(parts, *pixels.shape[:2]))
            seconds[k].append(time.perf_counter() - started)
    shape = compared(model.meta, truth)
    points = tuple(
        DialPoint(
            boxes=choice.boxes or 0,
            steps=choice.steps or 0,
            map=evaluate_detections(truth, f, model.meta.classes, sizes, shape=shape).map or 0.0,
            seconds=median(t),
        )
        for choice, f, t in zip(choices, found, seconds, strict=True)
    )
    return points, knee(points, settings.loss), tuple(failed)


def knee(points: Sequence[DialPoint], loss: float) -> DialPoint:
    """The fastest point whose AP is at most ``loss`` below the best."""
    least = max(p.map for p in points) - loss
    return min((p for p in points if p.map >= least), key=lambda p: p.seconds)


def plot_dial(points: Sequence[DialPoint], knee: DialPoint, path: Path) -> None:
    """Writes a PNG: AP over seconds an image, a line for each number of steps.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for steps in sorted({p.steps for p in points}):
        line = sorted((p for p in points if p.steps == steps), key=lambda p: p.boxes)
        times, heights = [p.seconds for p in line], [p.map for p in line]
        axes.plot(times, heights, marker="o", label=f"{steps} step{'s' * (steps > 1)}")
        for point in line:
            axes.annotate(
                str(point.boxes),
                (point.seconds, point.map),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize="small",
            )
    axes.plot(knee.seconds, knee.map, "o", ms=16, mfc="none", mec="black", label="knee")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel="seconds an image", ylabel="AP", title="random boxes at the points")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(figure, path)
