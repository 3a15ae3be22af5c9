from __future__ import annotations

import json

import numpy as np
import pytest

from semiscope.errors import DataError
from semiscope.evaluate.inspection import (
    REVIEW,
    judge_classes,
    judge_units,
    verdicts,
)
from semiscope.evaluate.intervals import wilson
from semiscope.infer.model import ClassThreshold
from semiscope.inspection.thresholds import dispose
from semiscope.types import Annotations


def test_verdicts_by_hand():
    scores = [[0, 0], [0.2, 0], [0.3, 0], [0.9, 0], [0.3, 0.95], [0.2, 0.6], [0, 0.5]]
    found = verdicts(scores, report=[0.3, 0.6], accept=[0.9, 0.95])
    assert found.tolist() == ["pass", "pass", "review", "fail", "fail", "review", "pass"]
    # an accept below the report threshold does not let in what is not reported
    assert verdicts([[0.2]], [0.3], [0.1]).tolist() == ["pass"]
    # a threshold of 0 does not report what is not there
    assert verdicts([[0.0], [0.01]], [0.0], [1.0]).tolist() == ["pass", "review"]


def test_verdicts_are_what_inspection_makes_of_single_detections():
    rng = np.random.default_rng(0)
    cuts = {
        "a": ClassThreshold(report=0.3, accept=0.8),
        "b": ClassThreshold(report=0.5, accept=0.6),
    }
    for _ in range(50):
        n = int(rng.integers(0, 4))
        score, class_id = rng.random(n).astype(np.float32), rng.integers(0, 2, n)
        found = Annotations(np.tile([0, 0, 1, 1], (n, 1)), class_id, score)
        _, dispositions = dispose(found, ("a", "b"), cuts)
        expected = "pass" if not dispositions else "review"
        if "accept" in dispositions:
            expected = "fail"
        highest = [[score[class_id == k].max(initial=0) for k in range(2)]]
        (verdict,) = verdicts(highest, np.float32([0.3, 0.5]), np.float32([0.8, 0.6]))
        assert verdict == expected


def test_units_by_hand():
    bad = [True] * 5 + [False] * 10
    verdict = (
        ["pass", "review", "fail", "fail", "fail"] + ["pass"] * 6 + ["review"] * 1 + ["fail"] * 3
    )
    report = judge_units(bad, verdict)
    assert (report.escape.count, report.escape.of) == (1, 5)
    assert (report.over_reject.count, report.over_reject.of) == (3, 10)
    assert (report.review_bad.count, report.review_good.count) == (1, 1)
    told = json.loads(json.dumps(report.to_dict()))
    assert told["escape"]["value"] == 0.2
    assert (told["escape"]["low"], told["escape"]["high"]) == pytest.approx(wilson(1, 5))


def test_units_all_good():
    report = judge_units([False, False], np.array(["pass", "fail"]))
    assert report.escape.value is None and report.over_reject.value == 0.5


@pytest.mark.parametrize(
    ("bad", "verdict", "phrase"),
    [
        ([True], ["pass", "fail"], "for each unit"),
        ([True], ["good"], "found 'good'"),
        ([[True]], [["pass"]], "for each unit"),
    ],
)
def test_units_that_do_not_fit(bad, verdict, phrase):
    with pytest.raises(DataError, match=phrase):
        judge_units(bad, verdict)


def test_classes_by_hand():
    names = ("good", "crack", "scratch")
    truth = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]
    found = [0, 0, 0, 1, 1, 1, 2, REVIEW, 0, 1]
    report = judge_classes(truth, found, names)
    rows = {
        name: [(r.count, r.of) for r in (c.purity, c.accuracy, c.review)]
        for name, c in report.per_class.items()
    }
    assert rows == {
        "good": [(3, 4), (3, 4), (0, 4)],
        "crack": [(2, 4), (2, 4), (1, 5)],
        "scratch": [(0, 1), (0, 1), (0, 1)],
    }
    assert report.purity.value == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    assert report.accuracy.value == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    assert report.accuracy.low < report.accuracy.value < report.accuracy.high
    assert json.loads(json.dumps(report.to_dict()))["per_class"]["good"]["purity"]["of"] == 4


def test_purity_and_accuracy_of_many_units():
    # a class called right with 0.8: its accuracy lies in its interval, and so does the mean
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 2000)
    found = np.where(rng.random(2000) < 0.8, truth, 1 - truth)
    report = judge_classes(truth, found, ("a", "b"))
    for interval in (report.accuracy, report.purity):
        assert interval.low < 0.8 < interval.high
        # two shares of about 1000 units each, in the mean
        assert interval.high - interval.low == pytest.approx(
            2 * 1.96 * np.sqrt(0.16 / 2000), rel=0.1
        )


def test_all_for_review_is_no_figure():
    report = judge_classes([0, 1], [REVIEW, REVIEW], ("a", "b"))
    assert report.purity.value is None and report.per_class["a"].accuracy.value is None
    assert report.per_class["a"].review.value == 1


@pytest.mark.parametrize(
    ("truth", "found", "phrase"),
    [
        ([0, 1], [0], "for each unit"),
        ([0, 2], [0, 1], "truth: expected class ids from 0 to 1, found 2"),
        ([0, -1], [0, 1], "truth"),
        ([0, 1], [0, -2], "found: expected class ids from -1 to 1"),
    ],
)
def test_classes_that_do_not_fit(truth, found, phrase):
    with pytest.raises(DataError, match=phrase):
        judge_classes(truth, found, ("a", "b"))
