from __future__ import annotations

import numpy as np
import pytest

from semiscope.errors import ModelError
from semiscope.infer.classifier import Classifier, is_classifier
from semiscope.infer.open_set import learn_examples
from semiscope.infer.rewrite import rewrite_meta


def halves(left, right, size=32):
    pixels = np.empty((size, size), np.uint8)
    pixels[:, : size // 2] = round(255 * left)
    pixels[:, size // 2 :] = round(255 * right)
    return pixels


def test_labels_by_hand_of_any_size_grey_and_colour_and_bits(class_model):
    model = Classifier.load(class_model)
    assert is_classifier(class_model) and model.known is None
    images = [
        halves(1, 0),
        np.dstack([halves(0, 1, 64)] * 3),
        halves(0, 0, 8).astype(np.uint16) * 257,
        halves(1, 1),
    ]
    found = model.classify(images)
    assert found.features == pytest.approx(np.array([[1, 0], [0, 1], [0, 0], [1, 1]]), abs=1e-3)
    assert found.probability.sum(1) == pytest.approx(1)
    assert found.probability[:3].argmax(1).tolist() == [0, 1, 2]
    # two bright halves: left and right have logits 10, even 4
    ten, four = np.exp(10), np.exp(4)
    assert found.probability[3] == pytest.approx(np.array([ten, ten, four]) / (2 * ten + four))
    # in one batch or alone
    alone = [model.classify([i]).probability[0] for i in images]
    np.testing.assert_allclose(found.probability, alone, atol=1e-6)
    assert model.card()["name"] == "halves" and len(model.card()["sha256"]) == 64


def test_what_it_has_seen_travels_in_the_file(class_model):
    model = Classifier.load(class_model)
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (20, 2)).astype(np.float32)
    truth = rng.integers(0, 3, 20)
    known = learn_examples(features, truth, truth, [f"train/{i}.png" for i in range(20)], 3)
    assert model.keep(known, clean=("even",))
    again = Classifier.load(class_model)
    assert again.known is not None and again.meta.clean == ("even",)
    assert again.known.names == known.names and again.card()["known_examples"] == 20
    np.testing.assert_array_equal(again.known.thresholds, known.thresholds)
    # once more replaces it
    assert again.keep(known.allowing(features, 0.5))
    assert Classifier.load(class_model).known.factor < 1
    same = Classifier.load(class_model).classify([halves(1, 0)])
    np.testing.assert_array_equal(same.probability, model.classify([halves(1, 0)]).probability)
    # other classes than the file's
    fewer = again.meta.model_copy(update={"classes": ("left", "right")})
    rewrite_meta(class_model, fewer)
    with pytest.raises(ModelError, match="other classes"):
        Classifier.load(class_model)


def test_files_that_are_no_classifier(tmp_path, blob_model):
    with pytest.raises(ModelError, match="labels images, found task 'detect'"):
        Classifier.load(blob_model)
    with pytest.raises(ModelError, match="found none"):
        Classifier.load(tmp_path / "gone.onnx")
    assert not is_classifier(blob_model)
