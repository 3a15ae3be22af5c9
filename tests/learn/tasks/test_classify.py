"""From folders of images to a run, an exported file, and the same answers from both."""

import json

import numpy as np
import onnxruntime
import pytest

from semiscope.compress.export import export, trained_network
from semiscope.errors import DataError, SettingsError
from semiscope.infer.model import METADATA_KEY, ClassifierMeta, prepare
from semiscope.io.image import read_image
from semiscope.learn import run as runs
from semiscope.learn.class_examples import ClassViewSettings
from semiscope.learn.tasks.classify import ClassifyLoopSettings, ClassifySettings, ClassifyTask

# a mirrored left is a right
STILL = ClassViewSettings(flip_horizontal=0, flip_vertical=0, quarter_turns=False)
LOOP = ClassifyLoopSettings(
    epochs=4, batch=9, warmup_epochs=0, workers=0, ema_decay=0.5, ema_ramp=1
)


def settings_for(data, **changes) -> ClassifySettings:
    small = {"height": 32, "width": 32, "augment": STILL, "net": "resnet18"}
    return ClassifySettings(data=data, **{**small, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, halves):
    folder = tmp_path_factory.mktemp("classify")
    learn = settings_for(halves(folder / "data"))
    return folder, runs.start("classify", learn, LOOP, folder / "run")


def answers(path, images):
    session = onnxruntime.InferenceSession(path)
    meta = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    meta = ClassifierMeta.model_validate(meta)
    inputs = np.stack([prepare(read_image(p).specimen, meta.input).tensor for p in images])
    return meta, session.run(["logits", "features"], {"images": inputs})


def test_what_is_learned_is_in_the_file(trained):
    folder, figures = trained
    assert figures["accuracy"] > 0.6 and figures["fitness"] == figures["kappa"] > 0.4
    written = export(folder / "run", folder / "halves.onnx", licence="CC0")
    images = sorted((folder / "data" / "val").rglob("*.png"))
    meta, (logits, features) = answers(folder / "halves.onnx", images)
    assert meta == written and meta.classes == ("even", "left", "right")
    assert meta.metrics["val_accuracy"] == round(figures["accuracy"], 4)
    assert meta.thresholds.keys() == set(meta.classes) and not meta.two_magnifications
    truth = np.array([meta.classes.index(p.parent.name) for p in images])
    assert np.mean(logits.argmax(1) == truth) == pytest.approx(figures["accuracy"])
    # the features are what the last layer sees
    head = trained_network(folder / "run")[0].head
    expected = features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_bad_data_is_told(tmp_path, halves):
    data = halves(tmp_path / "data")
    with pytest.raises(SettingsError, match="expected some of even, left, right, found up"):
        ClassifyTask(settings_for(data, leave_out=("up",)), 0)
    with pytest.raises(DataError, match="at least two classes, found even"):
        ClassifyTask(settings_for(data, leave_out=("left", "right")), 0)
