"""Packages by prompts, with models that draw their answer."""

import cv2
import numpy as np
import pytest

from semiscope.capture import prompt
from semiscope.capture.prompt import PromptSettings, prompt_finder
from semiscope.errors import ModelError
from semiscope.types import Annotations

PIXELS = np.zeros((240, 320, 3), np.uint8)
PACKAGE = np.array([[70.0, 40.0], [250.0, 60.0], [240.0, 200.0], [60.0, 180.0]])
DIE = np.array([[120.0, 90.0], [190.0, 95.0], [185.0, 150.0], [115.0, 145.0]])


def drawn(corners):
    """What a model would give: positive inside, sharp to a sixteenth of a pixel."""
    fine = np.zeros((240 * 4, 320 * 4), np.float32)
    cv2.fillPoly(fine, [np.round((corners * 4 - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return cv2.resize(fine, (320, 240), interpolation=cv2.INTER_AREA) - 0.5


def disc(radius):
    y, x = np.mgrid[:240, :320]
    return (radius - np.hypot(x - 160, y - 120)).astype(np.float32)


class Drawing:
    """A promptable model with the answers it was told."""

    def __init__(self, answers, claimed):
        self.answers, self.claimed = np.stack(answers), np.array(claimed, np.float32)
        self.encoded, self.asked = 0, None

    def encode(self, pixels):
        self.encoded += 1
        return "embedding"

    def decode(self, embedding, *, boxes):
        self.asked = boxes
        return self.answers > 0, self.claimed

    def logits(self, embedding, *, points):
        self.asked = points
        return self.answers[None], self.claimed[None]

    def enlarge(self, logits, embedding):
        return logits


class Detector:
    path = "detector.onnx"

    class meta:
        classes = ("die", "package")

    def __init__(self, found):
        self.found = found

    def predict(self, images):
        return [self.found]


@pytest.fixture
def finder(monkeypatch):
    def make(promptable, found=None):
        monkeypatch.setattr(prompt.Promptable, "load", lambda name, threads: promptable)
        monkeypatch.setattr(prompt.Model, "load", lambda name, threads: Detector(found))
        detector = "" if found is None else "detector"
        return prompt_finder(PromptSettings(model="promptable", detector=detector))

    return make


def boxes(*rows):
    return Annotations(
        np.array([r[:4] for r in rows], np.float32).reshape(-1, 4),
        np.array([r[4] for r in rows]),
        np.array([r[5] for r in rows], np.float32),
    )


def test_each_box_of_a_package_becomes_corners_best_first(finder):
    promptable = Drawing([drawn(DIE), drawn(PACKAGE)], [0.9, 0.8])
    found = boxes((110, 85, 195, 155, 1, 0.5), (0, 0, 9, 9, 0, 1.0), (55, 35, 255, 205, 1, 0.9))
    candidates = finder(promptable, found)(PIXELS)
    assert promptable.asked.tolist() == [[110, 85, 195, 155], [55, 35, 255, 205]]
    assert [c.method for c in candidates] == ["prompt", "prompt"]
    np.testing.assert_allclose([c.score for c in candidates], [0.72, 0.45], rtol=1e-5)
    np.testing.assert_allclose(candidates[0].corners, PACKAGE, atol=0.5)
    np.testing.assert_allclose(candidates[1].corners, DIE, atol=0.5)


def test_nothing_is_encoded_where_the_detector_sees_no_package(finder):
    promptable = Drawing([drawn(PACKAGE)], [0.9])
    assert finder(promptable, boxes((0, 0, 9, 9, 0, 1.0)))(PIXELS) == []
    assert promptable.encoded == 0


def test_a_mask_that_is_no_quadrilateral_is_no_candidate(finder):
    promptable = Drawing([disc(60)], [0.9])
    assert finder(promptable, boxes((100, 60, 220, 180, 1, 0.9)))(PIXELS) == []


def test_without_a_detector_the_middle_is_the_prompt_and_the_largest_is_the_package(finder):
    # the first of the four masks is for prompts that leave no doubt
    promptable = Drawing(
        [drawn(PACKAGE + 20), drawn(DIE), drawn(PACKAGE), disc(110)], [1.0, 0.95, 0.7, 0.9]
    )
    (candidate,) = finder(promptable)(PIXELS)
    assert np.asarray(promptable.asked).tolist() == [[[160, 120]]]
    np.testing.assert_allclose(candidate.corners, PACKAGE, atol=0.5)
    assert candidate.score == pytest.approx(0.7)


def test_no_quadrilateral_in_the_middle_is_no_candidate(finder):
    promptable = Drawing([disc(20), disc(40), disc(60), disc(80)], [0.9] * 4)
    assert finder(promptable)(PIXELS) == []


def test_the_shipped_models_are_the_default():
    assert prompt_finder(PromptSettings(), 1)(PIXELS) == []


def test_models_that_cannot_do_it_are_told(finder, monkeypatch):
    finder(Drawing([disc(9)], [1.0]))
    monkeypatch.setattr(prompt.Model, "load", lambda name, threads: Detector(None))
    settings = PromptSettings(model="p", detector="d", package_class="board")
    with pytest.raises(ModelError, match="the class 'board', found one with classes die, package"):
        prompt_finder(settings)
