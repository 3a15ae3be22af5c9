from __future__ import annotations

import json

import numpy as np
import pytest

from semiscope.evaluate.classification import (
    UNSEEN,
    accept_thresholds,
    automatic_curve,
    balanced_accuracy,
    classification_report,
    confusion,
    kappa,
    reliability,
    suspected_errors,
)


def sure(labels, scores, classes):
    """Probabilities with these labels and scores, the rest spread evenly."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    rest = np.repeat(((1 - scores) / (classes - 1))[:, None], classes, axis=1)
    rest[np.arange(len(labels)), labels] = scores
    return rest


def test_kappa_by_hand():
    # two readers of 50 grant applications, the textbook example: 0.4
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    # of 200, 0.70 agree and 0.6 * 0.5 + 0.3 * 0.3 + 0.1 * 0.2 would by chance
    counts = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    assert kappa(counts) == pytest.approx((0.70 - 0.41) / 0.59)
    assert np.isnan(kappa(np.array([[7, 0], [0, 0]]))) and np.isnan(kappa(np.zeros((2, 2), int)))
    # a class that truth lacks is no class of the mean
    assert balanced_accuracy(np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]])) == 0.625


def test_calibration_error_by_hand():
    # 0.9 (bin 14: right, wrong) and 0.62 (bin 10: right); 2/3 * |0.9 - 0.5| + 1/3 * 0.38
    probability = sure([0, 0, 1], [0.9, 0.9, 0.62], 2)
    bins, error = reliability(np.array([0, 1, 1]), probability)
    assert error == pytest.approx((0.8 + 0.38) / 3)
    assert [(i, b.images) for i, b in enumerate(bins) if b.images] == [(9, 1), (13, 2)]
    assert bins[13].accuracy == 0.5 and bins[13].score == pytest.approx(0.9)
    # who is right as often as its score says has none
    rng = np.random.default_rng(0)
    score = rng.uniform(0.5, 1, 40_000)
    truth = (rng.uniform(size=40_000) > score).astype(np.int64)
    assert reliability(truth, sure(np.zeros(40_000, int), score, 2))[1] < 0.02
    assert reliability(np.zeros(0, np.int64), np.zeros((0, 2)))[1] is None


def test_every_figure_by_hand():
    classes = ("clean", "bridge", "open")
    #         ok  ok    escape over-reject  ok  mixed up  unseen x 2
    truth = np.array([0, 1, 1, 0, 2, 2, UNSEEN, UNSEEN, 2])
    label = np.array([0, 1, 0, 2, 2, 1, 0, 1, 2])
    aside = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1], bool)
    accepted = np.array([1, 1, 1, 0, 1, 0, 0, 1, 1], bool)
    probability = sure(label, np.full(9, 0.8), 3)
    report = classification_report(
        truth, probability, classes, clean=("clean",), unknown=aside, accepted=accepted
    )
    assert report.images == 9
    # labels of the seven images of known classes, those put aside too
    assert report.accuracy.value == pytest.approx(4 / 7)
    assert report.balanced_accuracy.value == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)
    assert report.accuracy.low < 4 / 7 < report.accuracy.high
    open_ = report.per_class["open"]
    assert (open_.accuracy.count, open_.accuracy.of) == (1, 3)
    assert (open_.purity.count, open_.purity.of) == (1, 2)
    assert (open_.share.count, open_.share.of) == (2, 9)
    assert (open_.automatic.count, open_.automatic_purity.value) == (1, 1.0)
    # of three called clean one is, an escape and an unseen class are not
    assert report.per_class["clean"].purity.value == pytest.approx(1 / 3)
    # what is put aside is never accepted
    assert (report.automatic.count, report.automatic_purity.count) == (4, 3)
    assert (report.escape.count, report.escape.of) == (2, 7)
    assert (report.over_reject.count, report.over_reject.of) == (1, 2)
    assert report.automatic_escape.count == 1 and report.automatic_over_reject.count == 0
    assert report.unseen_found.value == 0.5
    assert (report.known_refused.count, report.known_refused.of) == (1, 7)
    assert report.confusion.tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 1]]
    told = json.loads(json.dumps(report.to_dict()))
    assert told["per_class"]["open"]["purity"]["value"] == 0.5 and len(told["reliability"]) == 15
    # no class is clean: nothing can escape
    none = classification_report(truth, probability, classes)
    assert none.escape.of == none.over_reject.of == none.automatic.count == 0


def test_nothing_to_judge_and_what_does_not_fit():
    none = np.zeros(0, np.int64)
    report = classification_report(none, np.zeros((0, 2)), ("a", "b"))
    assert report.accuracy.value is None and report.calibration_error is None
    json.dumps(report.to_dict())
    with pytest.raises(ValueError, match="true classes"):
        classification_report(np.array([2]), np.ones((1, 2)), ("a", "b"))
    with pytest.raises(ValueError, match="probabilities"):
        classification_report(np.array([0]), np.ones((2, 2)), ("a", "b"))


def test_accept_thresholds_keep_the_bound_on_their_images():
    # class 0: right 0.99, right 0.9, wrong 0.8, right 0.7; class 1: wrong 0.95, right 0.6
    label = np.array([0, 0, 0, 0, 1, 1])
    probability = sure(label, [0.99, 0.9, 0.8, 0.7, 0.95, 0.6], 3)
    truth = np.array([0, 0, 1, 0, UNSEEN, 1])
    # 0 is pure to 3 in 4 at 0.7, to all at 0.9; all together only at 0.99
    strict = accept_thresholds(truth, probability, 1.0)
    assert strict[0] == pytest.approx(0.99, abs=1e-6) and np.isinf(strict[1:]).all()
    # together 4 of 6 are right, 3 of 4 of class 0, 1 of 2 of class 1
    loose = accept_thresholds(truth, probability, 0.5)
    assert loose[:2] == pytest.approx([0.7, 0.6], abs=1e-6)
    assert accept_thresholds(truth, probability, 0.6)[1] == np.inf
    # whoever is at the threshold is accepted
    assert probability[3, 0] >= loose[0]
    assert np.isinf(accept_thresholds(truth[:0], probability[:0], 0.5)).all()
    # equal scores go together
    same = sure([0, 0], [0.8, 0.8], 2)
    assert np.isinf(accept_thresholds(np.array([0, 1]), same, 0.9)).all()


def test_the_curve_against_a_plain_loop():
    rng = np.random.default_rng(1)
    probability = rng.dirichlet(np.ones(4), 60)
    truth = rng.integers(0, 4, 60)
    share, purity = automatic_curve(truth, probability)
    order = sorted(range(60), key=lambda i: -probability[i].max())
    for n in (1, 17, 60):
        right = sum(probability[i].argmax() == truth[i] for i in order[:n])
        assert share[n - 1] == n / 60 and purity[n - 1] == pytest.approx(right / n)
    assert confusion(truth, probability.argmax(1), 4).sum(1).tolist() == np.bincount(truth).tolist()


def test_suspected_label_errors_by_hand():
    # images labelled 0 have 0.66 of class 0 in the mean, those labelled 1 have 0.54 of class 1
    probability = np.array([[0.9, 0.1], [0.98, 0.02], [0.1, 0.9], [0.2, 0.8], [0.72, 0.28]])
    truth = np.array([0, 0, 0, 1, 1])
    # image 2 is surely a 1 and image 4 surely a 0, the first more clearly
    assert suspected_errors(truth, probability).tolist() == [2, 4]
    # surer than others labelled so it must be: with 0.62 of class 0 image 4 is not suspected
    probability[4] = 0.62, 0.38
    assert suspected_errors(truth, probability).tolist() == [2]
    truth[2] = UNSEEN
    assert suspected_errors(truth, probability).tolist() == []
    assert suspected_errors(truth[:0], probability[:0]).tolist() == []


def test_only_swapped_labels_are_suspected():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 4, 400)
    probability = sure(right, rng.uniform(0.6, 0.99, 400), 4)
    truth = right.copy()
    truth[:20] = (truth[:20] + 1) % 4
    found = suspected_errors(truth, probability)
    # those of which the model is surer than it usually is: about half
    assert 8 <= len(found) <= 14 and (found < 20).all()
