"""Equations 8 and 9 against plain loops."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import normalize

from semiscope.learn.losses.pretrain import contrast_loss, reconstruction_loss

TAU = 0.1


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def everything(count):
    return torch.ones(count, 2, dtype=torch.bool)


def equation_9(features, own=True, cross=True):
    """The paper's sums, written out: view 1 of a defect is i, view 2 is i + N."""
    count = len(features)
    f = [[features[i % count, m, i // count] for i in range(2 * count)] for m in (0, 1)]
    total, terms = 0.0, 0
    for m in (0, 1):
        for n in (0, 1):
            if not (own if m == n else cross):
                continue
            terms += 1
            inner = 0.0
            for i in range(2 * count):
                a, b = (m, n) if i < count else (n, m)
                j = (i + count) % (2 * count)
                similar = [math.exp(float(f[a][i] @ f[b][k]) / TAU) for k in range(2 * count)]
                # neither the view itself nor, across magnifications, the same view of the defect
                inner += math.log(similar[j] / (sum(similar) - similar[i]))
            total -= inner / (2 * count)
    return total / terms


@pytest.mark.parametrize("own, cross", [(True, True), (True, False), (False, True)])
def test_contrast_is_equation_9(own, cross):
    features = unit(5, 2, 2, 6)
    found = contrast_loss(features, everything(5), TAU, own, cross)
    assert found.item() == pytest.approx(equation_9(features, own, cross), rel=1e-5)


def test_one_magnification_is_simclr():
    features = unit(4, 2, 2, 6)
    views = features[:, 0].transpose(0, 1).flatten(0, 1)
    logits = (views @ views.T / TAU).fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(8).roll(4))
    alone = torch.tensor([[True, False]] * 4)
    found = contrast_loss(features, alone, TAU, own=True, cross=True)
    torch.testing.assert_close(found, expected)


def test_a_missing_magnification_counts_nowhere():
    features = unit(5, 2, 2, 6)
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True], [True, True]])
    found = contrast_loss(features, present, TAU, own=True, cross=True)
    features[1, 1] = features[2, 0] = torch.nan
    again = contrast_loss(features, present, TAU, own=True, cross=True)
    torch.testing.assert_close(found, again)
    # self-consistency of one magnification: the four defects that have it
    high = contrast_loss(
        features[present[:, 0]], torch.tensor([[True, False]] * 4), TAU, own=True, cross=False
    )
    low = contrast_loss(
        features[present[:, 1]], torch.tensor([[False, True]] * 4), TAU, own=True, cross=False
    )
    own = contrast_loss(features, present, TAU, own=True, cross=False)
    torch.testing.assert_close(own, (high + low) / 2)


def test_without_pairs_there_is_nothing_across():
    features = unit(3, 2, 2, 6).requires_grad_()
    found = contrast_loss(features, torch.tensor([[True, False]] * 3), TAU, own=False, cross=True)
    found.backward()
    assert found.item() == 0 and not features.grad.any()


def test_alike_views_of_a_defect_cost_least():
    aligned = unit(6, 1, 1, 8).expand(-1, 2, 2, -1)
    loss = contrast_loss(aligned, everything(6), TAU, own=True, cross=True)
    assert loss < contrast_loss(unit(6, 2, 2, 8), everything(6), TAU, own=True, cross=True) / 5


def test_reconstruction_is_equation_8():
    found, truth = unit(8, 5, 3), unit(8, 5, 3, seed=1)  # two defects, their eight views
    kept = torch.tensor([[0, 3]] * 7 + [[4, 1]])
    expected = 0.0
    for i in range(8):
        masked = [p for p in range(5) if p not in kept[i].tolist()]
        errors = [(found[i, p] - truth[i, p]).square().mean().item() for p in masked]
        expected += sum(errors) / len(errors)
    assert reconstruction_loss(found, truth, kept, 2).item() == pytest.approx(expected / 4)


CODE = """
import sys
import torch
import torch.distributed as dist
from semiscope.learn.losses.pretrain import contrast_loss
dist.init_process_group("gloo")
torch.manual_seed(0)
features = torch.nn.functional.normalize(torch.randn(6, 2, 2, 5), dim=-1)
present = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 1], [1, 1], [1, 1]], dtype=torch.bool)
if dist.get_rank() == 0:
    whole = features.clone().requires_grad_()
mine = slice(3 * dist.get_rank(), 3 * dist.get_rank() + 3)
own = features[mine].clone().requires_grad_()
(contrast_loss(own, present[mine], 0.1, True, False) / 2).backward()
parts = [torch.zeros_like(own) for _ in range(2)]
dist.all_gather(parts, own.grad)
everyone = torch.cat(parts)
dist.destroy_process_group()
if mine.start == 0:
    # each process averages over its own anchors: 3 and 2 of high, 2 and 3 of low magnification
    total = 0
    for m in (0, 1):
        flat = whole[present[:, m], m].flatten(0, 1)
        logits = (flat @ flat.T / 0.1).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
        each = torch.nn.functional.cross_entropy(logits, torch.arange(10) ^ 1, reduction="none")
        first = 2 * int(present[:3, m].sum())
        total = total + (each[:first].mean() + each[first:].mean()) / 4
    total.backward()
    torch.testing.assert_close(everyone, whole.grad)
"""


@pytest.mark.slow
def test_negatives_come_from_all_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CODE)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
         "--master_port", "29518", str(script)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
