"""Training speed: images a second of the loop against a bare loop, in one run.

    python benchmarks/training.py --data ../shared/data/wafer_die_optical

The bare loop does forward, loss, backward and step on one fixed batch that lies in memory; the
whole loop also reads, augments, averages weights, logs and writes checkpoints. Both are timed in
turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from semiscope.learn.loop import LoopSettings, train
from semiscope.learn.tasks.detect import DetectSettings, DetectTask


def main() -> None:
    """Prints a table row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="timed steps a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    settings = DetectSettings(data=given.data, height=given.side, width=given.side)
    task = DetectTask(settings, 0)
    examples = task.examples()
    # every image is read once, so that the loop is timed as it runs from the second epoch on
    views = [examples.example(i, np.random.default_rng(i)) for i in range(len(examples))]
    fixed = examples.collate(views[: given.batch])
    torch.manual_seed(0)
    network = task.network().train()
    optimiser = task.optimiser(network)

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(given.steps):
            loss, _ = task.loss(network, fixed)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        return given.steps * given.batch / (time.perf_counter() - start)

    def whole() -> float:
        marks: list[float] = []
        loop = LoopSettings(epochs=1, batch=given.batch, workers=given.workers, checkpoint_steps=10)

        class Enough(Exception):
            pass

        def note(done: int, total: int, figures: dict[str, float]) -> None:
            marks.append(time.perf_counter())
            if done == given.steps + 1:
                raise Enough

        with tempfile.TemporaryDirectory() as folder:
            try:
                train(task, loop, Path(folder), note)
            except Enough:
                pass
        return (len(marks) - 1) * given.batch / (marks[-1] - marks[0])

    bare()
    pairs = [(bare(), whole()) for _ in range(given.turns)]
    ratio = median(w / b for b, w in pairs)
    print(
        f"| yolov7-tiny, {given.side} px, batch {given.batch}, {torch.get_num_threads()} threads "
        f"| bare {median(b for b, _ in pairs):.2f} images/s "
        f"| loop {median(w for _, w in pairs):.2f} images/s | ratio {ratio:.3f} |"
    )


if __name__ == "__main__":
    main()
