"""Two processes learn together: what one learns the other has, and the data are shared out."""

import os
import subprocess
import sys

import pytest

CODE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from test_loop import SETTINGS, Line
from semiscope.config import Settings
from semiscope.learn import loop, run
class Kept(loop._Training):
    def run(self):
        result = super().run()
        weights = torch.cat([p.detach().flatten() for p in self.bare.parameters()])
        torch.save(weights, Path({out!r}) / f"{{self.accelerator.process_index}}.pt")
        return result
loop._Training = Kept
class LineSettings(Settings):
    pass
run.TASKS["line"] = run.Way(LineSettings, loop.LoopSettings, lambda learn, seed: Line())
run.start("line", LineSettings(), SETTINGS, Path({out!r}) / "run")
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(tmp_path):
    import torch

    script = tmp_path / "script.py"
    script.write_text(CODE.format(tests=os.path.dirname(__file__), out=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
         "--master_port", "29517", str(script)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in (0, 1))
    assert torch.equal(first, second)
    assert (tmp_path / "run/best/state.json").exists()
