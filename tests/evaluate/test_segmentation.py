import numpy as np
import pytest

from semiscope.evaluate.segmentation import confusion, segmentation_report

CLASSES = ("matrix", "oxide", "crack")


def test_confusion_by_hand():
    truth = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
    found = np.array([[0, 1, 1], [1, 0, 2]], np.int64)
    assert confusion(truth, found, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_confusion_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, (2, 13, 17))
    truth[rng.random(truth.shape) < 0.2] = 9
    expected = np.zeros((5, 5), int)
    for t, f in zip(truth.ravel(), found.ravel(), strict=True):
        if t != 9:
            expected[t, f] += 1
    np.testing.assert_array_equal(confusion(truth, found, 5, ignore=9), expected)


@pytest.mark.parametrize(
    "truth, found, message",
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), "one size"),
        (np.full((2, 2), 7), np.zeros((2, 2)), "truth: expected classes 0 to 2, found 7"),
        (np.zeros((2, 2)), np.full((2, 2), 3), "prediction: expected classes 0 to 2, found 3"),
        (np.zeros((2, 2)), np.full((2, 2), -1), "found -1"),
    ],
)
def test_what_cannot_be_compared_is_refused(truth, found, message):
    with pytest.raises(ValueError, match=message):
        confusion(truth, found, 3)


def test_a_report_by_hand():
    # device a: matrix 6 right and 2 called crack, oxide 2 right; device b: matrix and crack right
    a = np.array([[6, 0, 2], [0, 2, 0], [0, 0, 0]])
    b = np.array([[3, 0, 0], [0, 0, 0], [0, 0, 1]])
    report = segmentation_report([("b.png", "b", b), ("a.png", "a", a)], CLASSES, ("crack",))
    assert report.per_class == {"matrix": 9 / 11, "oxide": 1.0, "crack": 1 / 3}
    assert report.mean_iou == pytest.approx((9 / 11 + 1 + 1 / 3) / 3)
    assert report.materials == pytest.approx((9 / 11 + 1) / 2)
    assert report.defect == pytest.approx(1 / 3)
    first, second = report.per_device["a"], report.per_device["b"]
    assert first.per_class == {"matrix": 0.75, "oxide": 1.0, "crack": 0.0}
    assert second.per_class == {"matrix": 1.0, "oxide": None, "crack": 1.0}
    assert second.mean_iou == 1.0 and report.images == 2
    told = report.to_dict()
    assert [i["file"] for i in told["worst_first"]] == ["a.png", "b.png"]
    assert told["per_class"]["crack"] == pytest.approx(1 / 3)


def test_without_any_judged_pixel_nothing_is_claimed():
    empty = confusion(np.full((4, 4), 255), np.zeros((4, 4)), 3)
    judged = np.diag([4, 0, 0])
    report = segmentation_report([("x", "d", empty), ("y", "d", judged)], CLASSES)
    assert [i.file for i in report.worst_first] == ["y", "x"]
    assert report.worst_first[1].result.mean_iou is None and report.defect is None
    assert segmentation_report([], CLASSES).mean_iou is None
