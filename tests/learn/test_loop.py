"""The loop with a small task: what it learns, and that a kill leaves no trace."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from semiscope.errors import SemiscopeError
from semiscope.learn import checkpoint
from semiscope.learn.loop import Average, LoopSettings, rate, train


class Line:
    """Learns y = 3 x - 1 with dropout and batch norm, from noisy views."""

    def __init__(self, count=24, poison=0):
        self.count, self.poison, self.evaluations = count, poison, 0

    def __len__(self):
        return self.count

    def weights(self):
        return np.arange(self.count) + 1.0

    def example(self, index, rng):
        x = rng.normal(size=4).astype(np.float32)
        return torch.from_numpy(x), torch.tensor(3 * x.sum() - 1)

    def collate(self, views):
        return torch.stack([x for x, _ in views]), torch.stack([y for _, y in views])

    def network(self):
        return nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1)
        )

    def spec(self):
        return {"kind": "line"}

    def optimiser(self, network):
        return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)

    def examples(self):
        return self

    def loss(self, network, batch):
        x, y = batch
        loss = (network(x)[:, 0] - y).square().mean()
        if self.poison:
            loss = loss * float("nan")
        return loss, {"square": loss.detach()}

    def evaluate(self, network):
        self.evaluations += 1
        rng = np.random.default_rng(9)
        x, y = self.collate([self.example(0, rng) for _ in range(64)])
        with torch.no_grad():
            return {"fitness": -(network(x)[:, 0] - y).square().mean().item()}


SETTINGS = LoopSettings(
    epochs=6,
    batch=4,
    accumulate=2,
    warmup_epochs=1,
    workers=0,
    ema_decay=0.9,
    ema_ramp=10,
    checkpoint_steps=3,
    clip_norm=50,
)


def weights(run):
    return load_file(checkpoint.newest(run / "checkpoints") / "network.safetensors")


def test_it_learns_and_keeps_the_best(tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 40})
    figures = train(Line(), settings, tmp_path)
    untrained = Line().evaluate(Line().network().eval())
    assert figures["fitness"] > untrained["fitness"] / 4  # minus the squared error
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(r["fitness"] for r in rows if "fitness" in r) == figures["fitness"]
    tensors, state = checkpoint.load(tmp_path / "best")
    assert state["spec"] == {"kind": "line"} and "0.weight" in tensors["model"]


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Line(), SETTINGS.model_copy(update={"seed": seed}), tmp_path / name)
    a, b, c = (weights(tmp_path / n) for n in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["0.weight"], c["0.weight"])


def test_worker_processes_change_nothing(tmp_path):
    train(Line(), SETTINGS, tmp_path / "none")
    train(Line(), SETTINGS.model_copy(update={"workers": 2}), tmp_path / "two")
    a, b = weights(tmp_path / "none"), weights(tmp_path / "two")
    assert all(torch.equal(a[k], b[k]) for k in a)


SLOW = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_loop import SETTINGS, Line
    from semiscope.learn.loop import train
    class Slow(Line):
        def loss(self, network, batch):
            time.sleep(0.03)
            return super().loss(network, batch)
    train(Slow(), SETTINGS, Path({run!r}))
"""


@pytest.mark.parametrize("seconds", [0.25, 0.6])
def test_a_killed_run_resumes_to_the_same_weights_and_log(tmp_path, seconds):
    train(Line(), SETTINGS, tmp_path / "whole")
    run = tmp_path / "killed"
    code = textwrap.dedent(SLOW).format(tests=os.path.dirname(__file__), run=str(run))
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (run / "checkpoints").exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.newest(run / "checkpoints") is not None
    train(Line(), SETTINGS, run)
    whole, resumed = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert (run / "metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_a_finished_run_gives_its_figures_again(tmp_path):
    first, again = Line(), Line()
    figures = train(first, SETTINGS, tmp_path)
    assert train(again, SETTINGS, tmp_path) == figures
    assert first.evaluations == 6 and again.evaluations == 0


def test_endless_nan_is_an_error_that_says_what_to_do(tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 20})
    with pytest.raises(SemiscopeError, match="Lower the learning rate"):
        train(Line(poison=1), settings, tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(Line(), SETTINGS, tmp_path)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    (newest / "network.safetensors").write_bytes(b"nothing")
    with pytest.raises(SemiscopeError, match="step-"):
        train(Line(), SETTINGS, tmp_path)


def test_the_rate_warms_up_then_falls_to_its_last_share():
    assert rate(0, 100, 10, 0.01) == 1 and rate(50, 100, 10, 0.0) == pytest.approx(0.5)
    assert rate(100, 100, 10, 0.01) == pytest.approx(0.01)


def test_the_average_is_the_mean_that_its_definition_gives():
    network = nn.Linear(1, 1)
    average = Average(network, 0.5, 1e-9)
    before = network.weight.item()
    with torch.no_grad():
        network.weight += 1
    average.update(network, 1)
    assert average.network.weight.item() == pytest.approx(before + 0.5)
