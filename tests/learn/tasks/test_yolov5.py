"""From outlined instances to a run, an exported file, and the same boxes and masks from both."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semiscope.compress.export import export, trained_network
from semiscope.data.augment import AugmentSettings
from semiscope.errors import DataError, SettingsError
from semiscope.geometry import mask_iou
from semiscope.infer.model import Model
from semiscope.learn import run as runs
from semiscope.learn.loop import LoopSettings
from semiscope.learn.tasks.detect import DetectSettings
from semiscope.learn.tasks.yolov5 import YoloV5Task, detect_task


def settings_for(data: Path, **changes) -> DetectSettings:
    given = {"net": "yolov5n-seg", "height": 64, "width": 96, "channels": 1}
    rates = {"optimiser": "adamw", "learning_rate": 0.002}
    augment = AugmentSettings(scale=0.1, translate=0.05, paste=0)
    return DetectSettings(data=data, augment=augment, **{**given, **rates, **changes})


LOOP = LoopSettings(epochs=1, batch=4, warmup_epochs=0, workers=0, ema_decay=0.5, ema_ramp=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, outlined):
    folder = tmp_path_factory.mktemp("yolov5")
    figures = runs.start("detect", settings_for(outlined(folder / "data")), LOOP, folder / "run")
    return folder, figures


def test_the_run_says_what_it_is(trained):
    folder, figures = trained
    assert set(figures) == {"fitness", "map", "map50", "precision", "recall"}
    name, learn, _ = runs.read_settings(folder / "run" / "settings.toml")
    assert name == "detect" and learn.net == "yolov5n-seg"


@pytest.mark.slow
def test_the_file_finds_what_torch_finds(trained):
    folder, _ = trained
    meta = export(folder / "run", folder / "model.onnx", licence="CC0")
    assert meta.task == "segment" and meta.network == "yolov5n-seg"
    model = Model.load(folder / "model.onnx")
    network, _ = trained_network(folder / "run")
    images = [
        cv2.imread(str(p), cv2.IMREAD_UNCHANGED)
        for p in sorted((folder / "data/val/images").iterdir())
    ]
    for image, found in zip(images, model.predict(images, min_score=0.001), strict=True):
        prepared = model.prepare(image)
        with torch.no_grad():
            raw = [v.numpy() for v in network(torch.from_numpy(prepared.tensor)[None])]
        expected = meta.decoder.annotations(raw, 0, prepared.placement, image.shape, 0.001)
        assert len(found) == len(expected) > 0
        # those of nearly the same score may have changed places
        apart = np.abs(found.xyxy[:, None] - expected.xyxy).max(2)
        apart += 1e3 * (found.class_id[:, None] != expected.class_id)
        apart += 1e4 * np.abs(found.score[:, None] - expected.score)
        expected = expected[apart.argmin(1)]
        np.testing.assert_array_equal(found.class_id, expected.class_id)
        np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
        np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=0.05)
        overlap = mask_iou(found.shapes, expected.shapes).diagonal()
        empty = [not mask.area for mask in expected.shapes]
        assert np.maximum(overlap, empty).min() > 0.98


@pytest.mark.parametrize("net", ["yolov5n", "yolov5n-seg"])
def test_steps_on_one_batch_find_boxes_classes_and_masks(net, tmp_path, outlined):
    task = detect_task(settings_for(outlined(tmp_path, 4), net=net), 0)
    assert isinstance(task, YoloV5Task)
    torch.manual_seed(0)
    network = task.network().train()
    optimiser = task.optimiser(network)
    examples, rng = task.examples(), np.random.default_rng(0)
    batch = examples.collate([examples.example(i, rng) for i in range(len(examples))])
    history = []
    for _ in range(8):
        optimiser.zero_grad()
        loss, parts = task.loss(network, batch)
        loss.backward()
        optimiser.step()
        history.append(parts)
    assert ("mask" in parts) == (net == "yolov5n-seg")
    # better boxes are worth a higher objectness, so that this term may rise at first
    for name in parts.keys() - {"objectness"}:
        assert history[-1][name] < history[0][name], name


def test_boxes_alone_are_refused_where_outlines_are_learned(tmp_path, outlined):
    data = outlined(tmp_path)
    for label in data.glob("*/labels/*.txt"):
        if label.read_text():
            label.write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match="outline"):
        detect_task(settings_for(data), 0)
    assert isinstance(detect_task(settings_for(data, net="yolov5n"), 0), YoloV5Task)


def test_settings_of_another_network_are_refused():
    given = {"data": "x", "net": "yolov5n", "neck": "slim"}
    with pytest.raises(SettingsError, match="neck: of net yolov7-tiny alone, found yolov5n"):
        DetectSettings.from_dict(given, "s.toml")


def test_a_run_can_start_from_another_s_weights(trained):
    folder, _ = trained
    learn = settings_for(folder / "data", init=folder / "run")
    ours = detect_task(learn, 0).network().state_dict()
    theirs = trained_network(folder / "run")[0].state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    other = settings_for(folder / "data", init=folder / "run", net="yolov5s-seg")
    with pytest.raises(SettingsError, match="yolov5s-seg"):
        detect_task(other, 0).network()
