"""A cycle, with a network of random weights and files of a model that answers with boxes."""

import json

import cv2
import numpy as np
import pytest
import torch

from semiscope.errors import DataError, SettingsError
from semiscope.io import coco
from semiscope.label import cycle
from semiscope.label.cycle import (
    CycleSettings,
    ProposeSettings,
    RehearseSettings,
    best_fits,
    learn,
    propose,
    rehearse,
)
from semiscope.label.rounds import read_rounds
from semiscope.learn.tasks.prompt import PromptLoopSettings
from semiscope.nets.promptable import PromptableNetwork
from semiscope.types import Annotations, Mask

LOOP = PromptLoopSettings(epochs=1, batch=1, warmup_epochs=0, workers=0, ema_decay=0)


class Attention(torch.nn.Module):
    """One convolution with a fused layer after it."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 256, 16, 16)
        self.qkv = torch.nn.Linear(256, 768)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.qkv(x.permute(0, 2, 3, 1)).chunk(3, -1)
        return x + (q.sigmoid() * k.sigmoid() * v).permute(0, 3, 1, 2)


@pytest.fixture
def small(monkeypatch, write_discs):
    """A network that learns in no time, in place of a base; its export is tested elsewhere."""

    def load(source):
        torch.manual_seed(0)
        return PromptableNetwork(Attention(), 64, {"image_encoder.qkv": 1}).eval()

    def write(network, path, *_, **__):
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_discs(path)

    monkeypatch.setattr(cycle, "load_base", load)
    monkeypatch.setattr("semiscope.learn.tasks.prompt.load_base", load)
    monkeypatch.setattr(cycle, "write_promptable", write)
    monkeypatch.setattr(cycle, "export_run", write)


@pytest.fixture
def data(tmp_path):
    """Six images with a layer and a particle, in class maps."""
    root, rng = tmp_path / "device-b", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for i in range(6):
        indices = np.zeros((64, 64), np.uint8)
        indices[10 + i : 24 + i] = 1
        cv2.circle(indices, (20 + i, 44), 8, 2, -1)
        grey = np.array([40, 120, 220])[indices] + rng.normal(0, 9, indices.shape)
        cv2.imwrite(str(root / "images" / f"{i}.png"), grey.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(root / "masks" / f"{i}.png"), indices)
    (root / "classes.txt").write_text("background\nlayer\nparticle\n")
    return root


def square(x, side):
    return Mask(x, 0, np.ones((side, side), bool))


def test_a_region_is_held_against_the_best_proposal_of_its_class():
    truth = Annotations(
        np.zeros((3, 4)), [0, 0, 1], shapes=(square(0, 10), square(20, 10), square(40, 10))
    )
    found = Annotations(
        np.zeros((3, 4)), [1, 1, 0], shapes=(square(0, 5), square(0, 10), square(40, 10))
    )
    # by name: the second list has the classes in another order, and one of them differs
    iou = best_fits(truth, ("void", "crack"), found, ("residue", "void"))
    assert iou.tolist() == [1.0, 0.0, 0.0]
    assert best_fits(truth, ("void", "crack"), Annotations.empty(), ()).tolist() == [0, 0, 0]


def test_a_rehearsal_records_each_round_and_goes_on(tmp_path, small, data, monkeypatch):
    settings = RehearseSettings(
        base="mobile-sam:x", rank=2, data=data, rounds=2, images=2, devices=(data,),
        validation=0.5,
    )  # fmt: skip
    folder = tmp_path / "cycle"
    real = cycle.export_run
    monkeypatch.setattr(cycle, "export_run", lambda *_, **__: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        rehearse(folder, settings, LOOP)
    monkeypatch.setattr(cycle, "export_run", real)
    rounds = rehearse(folder, settings, LOOP)
    assert [r.number for r in rounds] == [0, 1, 2]
    assert read_rounds(folder) == rounds
    first, second = rounds[1:]
    assert first.regions == 4 and len(set(first.images + second.images)) == 4
    assert first.manual_s == pytest.approx(4 * 79.2)
    # the layer is its box; the particle of radius 8 is not, and is not good enough as it is
    particle = 2 * first.before_iou - 1
    assert particle == pytest.approx(np.pi / 4, abs=0.08)
    assert first.assisted_s == pytest.approx(4 * 9 + 2 * (1 - particle) * 79.2, rel=0.02)
    assert 2 <= first.changed <= 4 and first.missed == 0
    assert first.after_iou == pytest.approx(first.before_iou, abs=1e-6)
    assert first.worse == first.fell == ()
    assert first.devices.keys() == {str(data)} == rounds[0].devices.keys()
    labelled = json.loads((folder / "round-2/labelled/annotations.json").read_text())
    assert len(labelled["images"]) == 4 and len(labelled["annotations"]) == 8
    assert (folder / "report.html").is_file() and (folder / "round-2/model.onnx").is_file()


def test_a_device_that_got_worse_is_flagged(tmp_path, small, data, monkeypatch):
    figures = iter([{"A": 0.8, "B": 0.5}, {"A": 0.7, "B": 0.6}])
    monkeypatch.setattr(cycle, "_devices", lambda *_: next(figures))
    settings = CycleSettings(base="mobile-sam:x", rank=2, validation=0.5)
    done = learn(tmp_path / "cycle", data, settings, LOOP)
    assert done.worse == done.fell == ("A",)
    assert "Worse than the base on 1 of 2" in (tmp_path / "cycle/report.html").read_text()


def test_masks_drawn_by_hand_are_a_round_without_proposals(tmp_path, small, data):
    folder = tmp_path / "cycle"
    settings = CycleSettings(base="mobile-sam:x", rank=2, labelled=data, validation=0.5)
    done = learn(folder, data, settings, LOOP)
    assert done.before_iou is None and done.missed == done.regions == 12
    assert done.manual_s == done.assisted_s and done.devices == {}
    # the same images twice: those of the data set that every round learns from, and the corrected
    assert len(coco.read(folder / "round-1/labelled").samples) == 12
    _, summary = propose(
        folder, [data / "images"], ProposeSettings(prompts="grid", grid=1, least_claim=0)
    )
    assert summary.images == 6 and (folder / "round-2/proposals/annotations.json").is_file()


def test_what_cannot_be_is_told(tmp_path, small, data):
    with pytest.raises(SettingsError, match="no round is finished yet: name the first --model"):
        propose(tmp_path / "new", [data], ProposeSettings(prompts="grid"))
    short = RehearseSettings(base="mobile-sam:x", data=data, rounds=4, images=2)
    with pytest.raises(DataError, match="expected 8 images for 4 rounds of 2, found 6"):
        rehearse(tmp_path / "new", short, LOOP)
    odd = tmp_path / "proposals"
    odd.mkdir()
    with pytest.raises(DataError, match="proposals: expected proposals"):
        cycle.read_proposals(odd)
