"""From outlined instances to a run, an exported file, and the same masks from both."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semiscope.compress.export import export, trained_network
from semiscope.errors import DataError, SettingsError
from semiscope.geometry import mask_iou
from semiscope.infer.decoders import InstanceDecoder
from semiscope.infer.model import Model
from semiscope.infer.sampling import Dial
from semiscope.learn import run as runs
from semiscope.learn.loop import LoopSettings
from semiscope.learn.tasks.common import StillSettings
from semiscope.learn.tasks.instances import InstancesSettings, InstancesTask


def settings_for(data: Path, **changes) -> InstancesSettings:
    small = {"features": 16, "hidden": 32, "proposals": 40, "detections": 10, "anchor": 8}
    given = {"height": 64, "width": 96, "channels": 1, "backbone": "resnet18"}
    rates = {"optimiser": "adamw", "learning_rate": 0.002}
    augment = StillSettings()
    return InstancesSettings(data=data, augment=augment, **{**small, **given, **rates, **changes})


LOOP = LoopSettings(epochs=1, batch=4, warmup_epochs=0, workers=0, ema_decay=0.5, ema_ramp=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, outlined):
    folder = tmp_path_factory.mktemp("instances")
    learn = settings_for(outlined(folder / "data"), net="pointrend", subdivisions=3)
    figures = runs.start("instances", learn, LOOP, folder / "run")
    return folder, figures


def test_the_run_says_what_it_is(trained):
    folder, figures = trained
    assert set(figures) == {"fitness", "map", "map50", "precision", "recall"}
    name, learn, _ = runs.read_settings(folder / "run" / "settings.toml")
    assert name == "instances" and learn.net == "pointrend"


@pytest.mark.slow
def test_the_file_finds_what_torch_finds(trained):
    folder, _ = trained
    meta = export(folder / "run", folder / "model.onnx", licence="CC0")
    assert meta.task == "segment" and meta.classes == ("square", "triangle")
    assert meta.network == "pointrend, backbone resnet18, width 16"
    model = Model.load(folder / "model.onnx")
    network, _ = trained_network(folder / "run")
    images = [
        cv2.imread(str(p), cv2.IMREAD_UNCHANGED)
        for p in sorted((folder / "data/val/images").iterdir())
    ]
    ours = model.predict(images, min_score=0.001)
    for image, found in zip(images, ours, strict=True):
        prepared = model.prepare(image)
        with torch.no_grad():
            raw = [v.numpy() for v in network(torch.from_numpy(prepared.tensor)[None])]
        expected = meta.decoder.annotations(raw, 0, prepared.placement, image.shape, 0.001)
        assert len(found) == len(expected) > 0
        np.testing.assert_array_equal(found.class_id, expected.class_id)
        np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
        np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.05)
        overlap = mask_iou(found.shapes, expected.shapes).diagonal()
        empty = [not mask.area for mask in expected.shapes]
        assert np.maximum(overlap, empty).min() > 0.98


def test_a_dial_is_refused():
    with pytest.raises(SettingsError, match="diffusion"):
        InstanceDecoder().inputs(Dial(steps=4))


def test_both_networks_train_on_one_batch(tmp_path, outlined):
    data = outlined(tmp_path, 4)
    for net in ("mask-rcnn", "pointrend"):
        task = InstancesTask(settings_for(data, net=net), 0)
        torch.manual_seed(0)
        network = task.network()
        examples, rng = task.examples(), np.random.default_rng(0)
        batch = examples.collate([examples.example(i, rng) for i in range(len(examples))])
        loss, parts = task.loss(network, batch)
        loss.backward()
        assert torch.isfinite(loss) and ("points" in parts) == (net == "pointrend")


def test_boxes_alone_are_refused(tmp_path, outlined):
    data = outlined(tmp_path)
    for label in data.glob("*/labels/*.txt"):
        if label.read_text():
            label.write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match="outline"):
        InstancesTask(settings_for(data), 0)


def test_weights_of_another_backbone_are_refused(tmp_path, outlined):
    weights = tmp_path / "other.pth"
    torch.save({"stem.weight": torch.zeros(3)}, weights)
    task = InstancesTask(settings_for(outlined(tmp_path / "data"), pretrained=str(weights)), 0)
    with pytest.raises(SettingsError, match="resnet18"):
        task.network()


def test_a_frozen_backbone_does_not_learn(tmp_path, outlined):
    task = InstancesTask(settings_for(outlined(tmp_path), frozen_stages=4), 0)
    network = task.network()
    assert not any(p.requires_grad for p in network.backbone.parameters())
    learning = [p for row in task.optimiser(network).param_groups for p in row["params"]]
    assert len(learning) == sum(1 for p in network.parameters() if p.requires_grad)
