"""Training on a CPU with and without the memory of freed tensors kept by the process.

    python benchmarks/freed_memory.py [--steps 6] [--turns 3]

Forward, loss, backward and update of yolov7-tiny on EfficientNet-Lite0 at 320 px, batch 8, on one
thread; each way in a fresh process, in turn. Processor time counts, so that other work on the
machine matters little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

CHILD = """
import json, resource, sys
import torch
from semiscope.evaluate.speed import peak_memory_mb
from semiscope.learn.memory import keep_freed_memory
from semiscope.nets.yolov7_tiny import YoloV7Tiny

kept, steps = sys.argv[1] == "kept", int(sys.argv[2])
if kept:
    keep_freed_memory()
torch.set_num_threads(1)
torch.manual_seed(0)
network = YoloV7Tiny(3, backbone="efficientnet-lite0").to(memory_format=torch.channels_last).train()
optimiser = torch.optim.SGD(network.parameters(), 1e-3)
images = torch.rand(8, 3, 320, 320).to(memory_format=torch.channels_last)

def step():
    sum(level.square().mean() for level in network(images)).backward()
    optimiser.step()
    optimiser.zero_grad()

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_stime

step()
before = spent()
for _ in range(steps):
    step()
after = spent()
print(json.dumps([(b - a) / steps for a, b in zip(before, after)] + [peak_memory_mb()]))
"""


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    rows: dict[str, list[list[float]]] = {"given back": [], "kept": []}
    for _ in range(given.turns):
        for way, found in rows.items():
            done = subprocess.run(
                [sys.executable, "-c", CHILD, way, str(given.steps)],
                capture_output=True,
                text=True,
                check=True,
            )
            found.append(json.loads(done.stdout))
    print("| freed memory | processor time of a step, s | of it the system's | peak memory, MB |")
    print("|---|---|---|---|")
    for way, found in rows.items():
        whole, system, peak = (median(column) for column in zip(*found, strict=True))
        print(f"| {way} | {whole:.2f} | {system:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
