"""What networks cost to run and to train.

``speed`` and ``memory`` are of sem_diffusion.py, ``costs`` is of few_labels.py. Times of different
works are taken in turn, again and again, in one run.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from semiscope.compress.diffusion_graph import diffusion_graph
from semiscope.compress.export import trained_network
from semiscope.compress.fuse import fuse
from semiscope.compress.graph import to_onnx
from semiscope.config import Settings
from semiscope.evaluate.speed import Work, peak_memory_mb, rates
from semiscope.infer.decoders import DiffusionDecoder
from semiscope.infer.sampling import Dial
from semiscope.learn.loop import LoopSettings
from semiscope.learn.run import TASKS
from semiscope.learn.tasks.diffuse import DiffuseSettings
from semiscope.nets.backbones import BACKBONES
from semiscope.nets.diffusion_inst import Denoiser, DiffusionInst
from training_rows import first_steps, render_table1

CHOICES = tuple(product((500, 100, 25), (1, 4)))
ENGINES = ("torch", "ONNX")
_CLASSES = 5
_LEFT_OUT = 2  # the first steps read images and plan convolutions


class _Features(nn.Module):
    """What is computed once an image: backbone, pyramid and mask branch."""

    def __init__(self, network: DiffusionInst) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels, masks = self.network.features(images)
        return pixels.rows, masks


def speed(given: argparse.Namespace) -> None:
    """Seconds an image by boxes and steps in both engines, and the backbone's share of them."""
    if given.run is not None:
        network, state = trained_network(given.run)
        shape = [state["spec"]["input"][k] for k in ("channels", "height", "width")]
        _speed(str(given.run), network, shape, given)
        return
    for backbone in given.backbones:
        torch.manual_seed(0)
        network = Denoiser(DiffusionInst(_CLASSES, backbone)).eval()
        name = f"{backbone} at full width, fresh weights"
        _speed(name, network, [3, given.side, given.side], given)


def _speed(name: str, network: nn.Module, shape: list[int], given: argparse.Namespace) -> None:
    network = fuse(network)
    assert isinstance(network, Denoiser)
    bare = network.network
    images = torch.randn(2, *shape)
    parts: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
        "backbone": (bare.backbone, ("c2", "c3", "c4", "c5")),
        "features": (_Features(bare), ("pixels", "masks")),
    }
    one = images[:1].contiguous(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    works: dict[tuple[str, object], Work] = {}
    for part, (module, outputs) in parts.items():
        works["torch", part] = _in_torch(module, {"images": one})
        model = to_onnx(module, {"images": images}, outputs, {"images": {0: "batch"}})
        works["ONNX", part] = _in_onnx(model, {"images": one}, given.threads)
    decoder = DiffusionDecoder(iou_threshold=0.5)
    session = _session(diffusion_graph(network, images), given.threads)
    for boxes, steps in CHOICES:
        dial = decoder.inputs(Dial(boxes=boxes, steps=steps))
        inputs = {"images": one, **{k: torch.from_numpy(v) for k, v in dial.items()}}
        works["torch", (boxes, steps)] = _in_torch(network, inputs)
        works["ONNX", (boxes, steps)] = _run(session, inputs)
    for work in works.values():
        work()
    measured = rates(list(works.values()), given.repetitions)
    seconds = {key: [1 / r for r in each] for key, each in zip(works, measured, strict=True)}
    _print_speed(name, shape, seconds, given)


def _print_speed(
    name: str,
    shape: list[int],
    seconds: dict[tuple[str, object], list[float]],
    given: argparse.Namespace,
) -> None:
    def ratio(engine: str, over: object, under: object, less: object = None) -> float:
        """Median over the repetitions of (over - less) / under."""
        takes = seconds[engine, less] if less else [0.0] * given.repetitions
        pairs = zip(seconds[engine, over], takes, seconds[engine, under], strict=True)
        return median((a - b) / c for a, b, c in pairs)

    print(f"{name}; {' x '.join(map(str, shape))} px, {given.threads} core(s)\n")
    columns = ("seconds an image", "backbone's share", "heads over backbone")
    print(f"| what | {' | '.join(f'{e}: {c}' for e in ENGINES for c in columns)} |")
    print("|---" * 7 + "|")
    for part, label in (("backbone", "backbone alone"), ("features", "with pyramid, mask branch")):
        cells = [
            f"{median(seconds[e, part]):.3f} | {ratio(e, 'backbone', part):.2f} | " for e in ENGINES
        ]
        print(f"| {label} | {' | '.join(cells)} |")
    for boxes, steps in CHOICES:
        key = (boxes, steps)
        cells = [
            f"{median(seconds[e, key]):.3f} | {ratio(e, 'backbone', key):.2f} "
            f"| {ratio(e, key, 'backbone', 'features'):.2f}"
            for e in ENGINES
        ]
        print(f"| {boxes} boxes, {steps} step(s) | {' | '.join(cells)} |")
    print(
        f"\nMedians of {given.repetitions} turns of all works in one run; networks alone, without "
        "decoding. Heads: what comes on top of backbone, pyramid and mask branch.\n"
    )
    for engine in ENGINES:
        found = ratio(engine, (100, 1), "backbone", "features")
        print(
            f"- {engine}: at 100 boxes and one step the heads cost less than twice the backbone "
            f"({found:.2f} times): **{'confirmed' if found < 2 else 'refuted'}**"
        )
    print(flush=True)


def _in_torch(module: nn.Module, inputs: dict[str, Tensor]) -> Work:
    def work() -> int:
        with torch.inference_mode():
            module(*inputs.values())
        return 1

    return work


def _in_onnx(model: onnx.ModelProto, inputs: dict[str, Tensor], threads: int) -> Work:
    return _run(_session(model, threads), inputs)


def _session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, Tensor]) -> Work:
    arrays = {k: v.contiguous().numpy() for k, v in inputs.items()}

    def work() -> int:
        session.run(None, arrays)
        return 1

    return work


def memory(given: argparse.Namespace) -> None:
    """Peak memory of training steps at full width by backbone, each in a process of its own."""
    render_table1(given.data)
    what = "GPU memory" if torch.cuda.is_available() else "resident memory"
    print(f"| backbone | peak {what} of training, batch {given.batch}, {given.side} px |")
    print("|---|---|")
    for backbone in given.backbones or BACKBONES:
        settings = DiffuseSettings(
            data=given.data, backbone=backbone, height=given.side, width=given.side
        )
        # AdamW has its moments from the first step on
        steps = _steps("diffuse", settings, given.batch, 2, given.threads)
        print(f"| {backbone} | {_told(steps)} |", flush=True)


def costs(
    ways: Mapping[str, tuple[str, Settings]],
    batch: int,
    steps: int,
    turns: int,
    threads: int | None,
) -> None:
    """Prints peak memory and images a second of training, by name of the way.

    Args:
        ways: Task and settings by name.
        batch: Images a step.
        steps: That are timed, a turn.
        turns: Each is a process of its own for each way; medians and the highest peak count.
        threads: Cores; all when not given.
    """
    threads = threads or torch.get_num_threads()
    found: dict[str, list[_Steps]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, (task, settings) in ways.items():
            found[name].append(_steps(task, settings, batch, _LEFT_OUT + steps, threads))
    first = next(iter(found.values()))
    if torch.cuda.is_available():
        what, clock = "GPU memory", "a second"
    else:
        what, clock = "resident memory", f"a processor's second, {threads} thread(s)"
    print(f"| training | peak {what} | images {clock} | x the first row |")
    print("|---" * 4 + "|")
    for name, runs in found.items():
        rates = [s.rate for s in runs if s.rate is not None]
        pairs = zip(runs, first, strict=True)
        ratios = [a.rate / b.rate for a, b in pairs if a.rate is not None and b.rate is not None]
        cells = (f"{median(v):.2f}" if v else "-" for v in (rates, ratios))
        most = max(runs, key=lambda s: float("inf") if s.peak is None else s.peak)
        print(f"| {name} | {_told(most)} | {' | '.join(cells)} |")


class _Steps(NamedTuple):
    """What the first steps of a training took.

    Attributes:
        peak: MB; None if there was not so much memory.
        room: Bytes that there were.
        rate: Images a second, see ``training_rows.clock``; None where it was not measured.
    """

    peak: float | None
    room: int
    rate: float | None = None


def _told(steps: _Steps) -> str:
    if steps.peak is None:
        return f"more than the {steps.room / 1e9:.1f} GB free"
    return f"{steps.peak / 1e3:.2f} GB"


def _steps(task: str, settings: Settings, batch: int, count: int, threads: int) -> _Steps:
    """The first steps of a training in a process of its own."""
    room = _available()
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_measured, task, settings, batch, count, threads, room).result()
    except BrokenProcessPool:
        return _Steps(None, room)


def _measured(
    task: str, settings: Settings, batch: int, count: int, threads: int, room: int
) -> _Steps:
    """The limit keeps the system from ending other programs for want of memory."""
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    try:
        made = TASKS[task].task(settings, 0)
        marks = first_steps(made, LoopSettings(batch=batch, workers=0), count)
    except (MemoryError, RuntimeError) as error:
        # torch's allocators say so in words
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return _Steps(None, room)
    timed = marks[_LEFT_OUT - 1 :]
    rate = (len(timed) - 1) * batch / (timed[-1] - timed[0]) if len(timed) > 1 else None
    if torch.cuda.is_available():
        return _Steps(torch.cuda.max_memory_allocated() / 1e6, room, rate)
    return _Steps(peak_memory_mb(), room, rate)


def _available() -> int:
    """Bytes that the system can give without swapping."""
    fields = dict(s.split(":") for s in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024
