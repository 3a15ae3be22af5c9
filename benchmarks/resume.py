"""Kills a training with SIGKILL at random moments, resumes it, and compares every weight.

    python benchmarks/resume.py --kills 3

The training is the real detector on simulated scenes, small so that it ends in minutes; what is
compared are network, averaged weights and optimiser of the last checkpoint, bit for bit, and the
log.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = """
task = "detect"
[learn]
data = "scenes"
height = 96
width = 96
channels = 1
[learn.augment]
mosaic = 0.5
paste = 0.2
rotation_deg = 10
shot_noise = 0.05
[loop]
epochs = 4
batch = 4
accumulate = 2
workers = 1
checkpoint_steps = 3
"""


def command(*arguments: str) -> list[str]:
    """The command line in a process of its own."""
    return [sys.executable, "-m", "semiscope", *arguments]


def main() -> None:
    """Prints a table row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; by default, none")
    given = parser.parse_args()
    moments = random.Random(given.seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "s.toml").write_text(SETTINGS)

        def run(*arguments: str) -> None:
            subprocess.run(
                command(*arguments), cwd=root, env=environment, check=True, capture_output=True
            )

        run("simulate", "sem-lines", "--count", "40", "--out", "scenes")
        began = time.monotonic()
        run("train", "detect", "--settings", "s.toml", "--out", "whole")
        seconds = time.monotonic() - began
        steps = []
        first = command("train", "detect", "--settings", "s.toml", "--out", "killed")
        again = command("train", "detect", "--resume", "killed")
        for kill in range(given.kills):
            process = subprocess.Popen(
                first if kill == 0 else again,
                cwd=root,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(moments.uniform(0.3, 0.9) * seconds / (1 if kill == 0 else 2))
            process.send_signal(signal.SIGKILL)
            process.wait()
            found = sorted((root / "killed" / "checkpoints").glob("step-*"))
            steps.append(found[-1].name if found else "none")
        run("train", "detect", "--resume", "killed")
        same = (root / "whole/metrics.jsonl").read_bytes() == (
            root / "killed/metrics.jsonl"
        ).read_bytes()
        (ours,) = (root / "killed/checkpoints").glob("step-*")
        (theirs,) = (root / "whole/checkpoints").glob("step-*")
        equal = all(
            (ours / p.name).read_bytes() == p.read_bytes() for p in theirs.glob("*.safetensors")
        )
    print(
        f"| killed {given.kills} times, newest checkpoints then {', '.join(steps)} of "
        f"{theirs.name} | network, average and optimiser "
        f"{'identical' if equal else 'DIFFERENT'} | log {'identical' if same else 'DIFFERENT'} |"
    )


if __name__ == "__main__":
    main()
