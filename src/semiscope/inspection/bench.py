"""How fast inspection is beside the bare engine; what ``semiscope bench`` calls."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pydantic import Field

from semiscope.errors import DataError, ImageError, SemiscopeError
from semiscope.evaluate.speed import Speed, peak_memory_mb, rates
from semiscope.infer.classifier import Classifier, is_classifier
from semiscope.infer.ensemble import load
from semiscope.infer.predictor import Predictor
from semiscope.infer.tiled import prepare_inputs
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
from semiscope.io.image import find_images, read_image
from semiscope.workers import plan_threads

_PRELOADED_BATCHES = 16
_CHILD = "from semiscope.inspection.bench import _measure_memory; _measure_memory()"


class BenchSettings(InspectSettings):
    """How the speed of inspection is measured."""

    repetitions: int = Field(3, ge=1, description="How often each way is timed")


def bench(images: Sequence[str | Path], settings: BenchSettings) -> Speed:
    """Times the engine alone and the whole of ``inspect`` in turn, on the same images.

    The engine gets inputs that lie in memory, of the same batch size, on as many cores; of two
    ways to use the cores, one inference on all of them or one on each, the faster counts. End to
    end is a call of ``inspect``: from opening the model to the written report.

    Args:
        images: Files, folders and glob patterns; those that cannot be read are left out.
        settings: How.

    Raises:
        ModelError: The model cannot be used.
        DataError: There is no image that can be read.
        SemiscopeError: The inspection could not be run.
    """
    streams, threads = plan_threads(sys.maxsize, settings.threads)
    cores = streams * threads
    one_each, one_on_all = (_engine(settings, n) for n in (threads, cores))
    paths, batches, inputs = _load(images, one_each, settings)
    count = -(-inputs // settings.batch)

    def run(model: Predictor[Any, Any] | Classifier, workers: int) -> int:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(model.run, islice(cycle(batches), count)):
                pass
        return len(paths)

    plain = InspectSettings(**settings.model_dump(exclude={"repetitions"}))
    with tempfile.TemporaryDirectory() as folder:

        def whole() -> int:
            inspect(paths, plain, Path(folder))
            return len(paths)

        one_each.run(batches[0])
        one_on_all.run(batches[0])
        works = [lambda: run(one_each, streams), whole, lambda: run(one_on_all, 1)]
        each, end_to_end, on_all = rates(works, settings.repetitions)
        memory = _memory_of(paths, plain, Path(folder))
    engine = tuple(max(pair) for pair in zip(each, on_all, strict=True))
    return Speed(len(paths), inputs, settings.batch, cores, engine, tuple(end_to_end), memory)


def _engine(settings: InspectSettings, threads: int) -> Predictor[Any, Any] | Classifier:
    if is_classifier(settings.model):
        return Classifier.load(settings.model, threads)
    return load(settings.model, threads).dialled(settings)


def _load(
    images: Sequence[str | Path],
    model: Predictor[Any, Any] | Classifier,
    settings: InspectSettings,
) -> tuple[list[Path], list[list[Any]], int]:
    """The readable images, some batches of their inputs, and how many inputs they all make."""
    paths, inputs = [], 0
    batches: list[list[Any]] = []
    waiting: list[Any] = []
    for path in find_images(images):
        try:
            pixels = read_image(path).specimen
        except ImageError:
            continue
        prepared: Sequence[Any]
        if isinstance(model, Classifier):
            prepared = [model.prepare(pixels)]
        else:
            prepared = prepare_inputs(model, pixels, settings.overlap).prepared
        paths.append(path)
        inputs += len(prepared)
        waiting += prepared
        while len(waiting) >= settings.batch:
            if len(batches) < _PRELOADED_BATCHES:
                batches.append(waiting[: settings.batch])
            del waiting[: settings.batch]
    if not batches and waiting:
        batches.append(waiting)
    if not batches:
        raise DataError(f"{' '.join(map(str, images))}: no image in it can be read")
    return paths, batches, inputs


def _memory_of(paths: Sequence[Path], settings: InspectSettings, folder: Path) -> float | None:
    """Peak memory of a fresh process that inspects the same images."""
    order = {"paths": [str(p) for p in paths], "settings": settings.model_dump(mode="json")}
    order["out"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SemiscopeError(f"the inspection of the memory measurement failed: {done.stderr}")
    peak = json.loads(done.stdout)
    return None if peak is None else float(peak)


def _measure_memory() -> None:
    order = json.load(sys.stdin)
    settings = InspectSettings.from_dict(order["settings"], "bench")
    inspect(order["paths"], settings, Path(order["out"]))
    sys.stdout.write(json.dumps(peak_memory_mb()))
