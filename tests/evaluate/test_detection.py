"""Detection figures against pycocotools, hand-worked examples and plain loops."""

from __future__ import annotations

import contextlib
import io
import json
import time

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from semiscope.errors import DataError
from semiscope.evaluate.detection import evaluate_detections, score_for_precision
from semiscope.evaluate.plots import plot_detections
from semiscope.geometry import mask_iou, rasterise
from semiscope.io.rle import encode_rle
from semiscope.types import Annotations, Polygons

SIDE = 400
CLASSES = ("gap", "bridge", "collapse")


def random_set(rng, images=30, classes=3, noise=2.0, per_image=8, side=SIDE):
    """Truth of all sizes, and predictions of which some are off, doubled, mistaken or invented."""
    truth, predictions = [], []
    for _ in range(images):
        n = rng.integers(0, per_image + 1)
        size = np.exp(rng.uniform(np.log(5), np.log(200), (n, 2)))
        corner = rng.uniform((0, 0), side - size)
        boxes = np.concatenate([corner, corner + size], axis=1)
        ids = rng.integers(0, classes, n)
        pick = rng.integers(0, max(n, 1), n + 2 if n else 0)
        near = boxes[pick] + rng.normal(0, noise, (len(pick), 4)) * rng.choice([0.3, 1, 4])
        stray = rng.uniform(0, side - 60, (3, 2))
        found = np.concatenate([near, np.concatenate([stray, stray + rng.uniform(3, 60)], axis=1)])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        known = np.where(rng.random(len(pick)) < 0.85, ids[pick], rng.integers(0, classes))
        found_ids = np.concatenate([known, rng.integers(0, classes, 3)])
        # Coarse scores give ties, where the order of detections decides.
        scores = np.round(rng.random(len(found)), 2)
        truth.append(Annotations(boxes, ids))
        predictions.append(Annotations(found.clip(0, side), found_ids, scores))
    return truth, predictions, [(side, side)] * images


def ellipse(box):
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    (x0, y0, x1, y1) = box
    return Polygons(
        (
            np.stack(
                [
                    (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(t),
                    (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(t),
                ],
                axis=1,
            ),
        )
    )


def with_shapes(many):
    return [
        Annotations(a.xyxy, a.class_id, a.score, tuple(ellipse(b.astype(float)) for b in a.xyxy))
        for a in many
    ]


def pycocotools_precision(truth, predictions, classes, sizes, shape):
    def entries(many):
        for image, (a, (h, w)) in enumerate(zip(many, sizes, strict=True), 1):
            for i, (x0, y0, x1, y1) in enumerate(a.xyxy.astype(np.float64).tolist()):
                entry = {"image_id": image, "category_id": int(a.class_id[i]) + 1}
                entry |= {"score": float(a.score[i]), "iscrowd": 0}
                if shape == "mask":
                    mask = rasterise(a.shapes[i], h, w)
                    yield entry | {"segmentation": encode_rle(mask, h, w), "area": mask.area}
                else:
                    area = (x1 - x0) * (y1 - y0)
                    yield entry | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": area}

    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        real.dataset = {
            "info": {},
            "images": [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes, 1)],
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(classes)],
            "annotations": [e | {"id": i} for i, e in enumerate(entries(truth), 1)],
        }
        real.createIndex()
        evaluation = COCOeval(
            real, real.loadRes(list(entries(predictions))), "segm" if shape == "mask" else "bbox"
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.eval["precision"][..., -1], evaluation.stats


@pytest.mark.parametrize("shape", ["box", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_pycocotools(shape, seed):
    truth, predictions, sizes = random_set(np.random.default_rng(seed))
    if shape == "mask":
        truth, predictions = with_shapes(truth), with_shapes(predictions)
    report = evaluate_detections(truth, predictions, CLASSES, sizes, shape=shape)
    precision, stats = pycocotools_precision(truth, predictions, CLASSES, sizes, shape)
    assert 0.05 < report.map < 0.95
    ours = [report.map, report.map50, *report.by_size.values()]
    np.testing.assert_allclose(ours, stats[[0, 1, 3, 4, 5]], atol=1e-6)
    for k, name in enumerate(CLASSES):
        ours = [report.per_class[name].ap, report.per_class[name].ap50]
        theirs = [precision[:, :, k, 0].mean(), precision[0, :, k, 0].mean()]
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    curve = precision[0, :, :, 0].T
    np.testing.assert_allclose(report.curves.precision_at_recall, curve, atol=1e-6)


def test_more_than_a_hundred_detections_are_cut_as_in_coco():
    truth, predictions, sizes = random_set(np.random.default_rng(9), images=2, classes=1)
    rng = np.random.default_rng(10)
    crowd = [
        Annotations(
            np.tile(p.xyxy, (20, 1)) + rng.normal(0, 1, (20 * len(p), 4)),
            np.tile(p.class_id, 20),
            rng.random(20 * len(p)),
        )
        for p in predictions
    ]
    assert max(len(c) for c in crowd) > 100
    report = evaluate_detections(truth, crowd, ("gap",), sizes)
    _, stats = pycocotools_precision(truth, crowd, ("gap",), sizes, "box")
    np.testing.assert_allclose([report.map, report.map50], stats[:2], atol=1e-6)


def box(x, y=0.0, size=10.0):
    return [x, y, x + size, y + size]


def worked():
    """Two images, worked by hand; "gap" has 3 truths, "bridge" 1, "collapse" none.

    gap by falling score: 0.9 hit, 0.8 no truth there, 0.7 hit, 0.6 a second one on a taken truth,
    0.3 hit. bridge: 0.5 hit.
    """
    truth = [Annotations([box(0), box(50), box(100)], [0, 0, 1]), Annotations([box(20)], [0])]
    predictions = [
        Annotations(
            [box(0), box(200), box(1), box(50), box(100)],
            [0, 0, 0, 0, 1],
            [0.9, 0.8, 0.6, 0.3, 0.5],
        ),
        Annotations([box(21)], [0], [0.7]),
    ]
    return truth, predictions, CLASSES, [(300, 300)] * 2


def test_precision_and_recall_worked_by_hand():
    report = evaluate_detections(*worked())
    at = {round(float(s), 3): i for i, s in enumerate(report.curves.score)}
    # At 0.2 all detections count: 3 hits of 5 for gap.
    low, middle = at[0.2], at[0.7]
    np.testing.assert_allclose(report.curves.precision[:, low], [3 / 5, 1, 0])
    np.testing.assert_allclose(report.curves.recall[:, low], [1, 1, 0])
    np.testing.assert_allclose(report.curves.recall[0, middle], 2 / 3, atol=0.01)
    # gap alone: F1 is 6/8 from 0.3 up, 4/6 from 0.7 up.
    assert report.per_class["gap"].best_f1_score == np.float32(0.3)
    assert report.per_class["bridge"].best_f1_score == 0.5
    # Mean F1: (0.75 + 1) / 2 up to 0.3; precision (3/5 + 1) / 2, recall 1.
    assert report.score_at_best_f1 <= 0.3
    np.testing.assert_allclose([report.precision, report.recall], [0.8, 1.0])
    assert (report.per_class["gap"].precision, report.per_class["gap"].recall) == (0.6, 1.0)
    assert report.per_class["gap"].instances == 3
    assert report.per_class["collapse"].ap is None and report.per_class["collapse"].recall is None
    # AP50 of gap, interpolated: 1 up to recall 1/3, 2/3 up to 2/3, 3/5 up to 1, at 101 recalls.
    np.testing.assert_allclose(
        report.per_class["gap"].ap50, (34 * 1 + 33 * 2 / 3 + 34 * 3 / 5) / 101, atol=1e-9
    )
    assert report.map50 == pytest.approx((report.per_class["gap"].ap50 + 1) / 2)


def test_confusion_worked_by_hand():
    truth = [Annotations([box(0), box(50), box(100), box(150)], [0, 0, 1, 2])]
    predictions = [
        Annotations(
            [box(0), box(51), box(50), box(250), box(150)],
            [0, 0, 1, 2, 2],
            [0.9, 0.9, 0.3, 0.5, 0.2],
        )
    ]
    report = evaluate_detections(truth, predictions, CLASSES, [(300, 300)])
    # box(50) as "bridge" overlaps better than box(51) as "gap", which is left for background;
    # the one at 150 scores below 0.25.
    expected = [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [1, 0, 1, 0]]
    np.testing.assert_array_equal(report.confusion, expected)


def test_a_score_cut_leaves_predictions_out():
    truth, predictions, classes, sizes = worked()
    cut = evaluate_detections(truth, predictions, classes, sizes, min_score=0.5)
    by_hand = [p[p.score >= 0.5] for p in predictions]
    np.testing.assert_equal(
        cut.to_dict(), evaluate_detections(truth, by_hand, classes, sizes).to_dict()
    )
    assert cut.map < evaluate_detections(truth, predictions, classes, sizes).map


def test_perfect_predictions():
    truth, _, sizes = random_set(np.random.default_rng(0))
    report = evaluate_detections(truth, truth, CLASSES, sizes)
    assert report.map == report.map50 == report.precision == report.recall == pytest.approx(1)
    assert np.count_nonzero(report.confusion - np.diag(np.diag(report.confusion))) == 0


def test_score_for_precision_worked_by_hand():
    truth, predictions, _, _ = worked()
    # Precision of "gap" from each score up: 0.9: 1, 0.8: 1/2, 0.7: 2/3, 0.6: 1/2, 0.3: 3/5.
    for wanted, expected in [(1.0, 0.9), (0.66, 0.7), (0.6, 0.3), (0.0, 0.3)]:
        assert score_for_precision(truth, predictions, 0, wanted) == np.float32(expected)
    assert score_for_precision(truth, predictions, 1, 1.0) == 0.5
    assert score_for_precision(truth, predictions, 2, 0.5) is None
    missed = [Annotations([box(250)], [0], [0.9]), Annotations.empty()]
    assert score_for_precision(truth, missed, 0, 0.5) is None


def test_the_higher_score_takes_the_truth_whatever_the_order():
    truth = [Annotations([box(0)], [0])]
    found = [Annotations([box(0), box(1)], [0, 0], [0.4, 0.8])]
    assert score_for_precision(truth, found, 0, 1.0) == np.float32(0.8)


def test_a_detection_of_another_class_takes_no_truth():
    truth = [Annotations([box(0)], [0])]
    found = [Annotations([box(0), box(0)], [1, 0], [0.8, 0.6])]
    assert score_for_precision(truth, found, 0, 1.0) == np.float32(0.6)
    assert score_for_precision(truth, found, 1, 0.1) is None


def test_equal_scores_stand_or_fall_together():
    truth = [Annotations([box(0)], [0])]
    tied = [Annotations([box(0), box(100)], [0, 0], [0.5, 0.5])]
    assert score_for_precision(truth, tied, 0, 0.9) is None
    assert score_for_precision(truth, tied, 0, 0.5) == 0.5


def test_a_box_counts_as_a_filled_mask_where_masks_are_compared():
    truth = [Annotations([[10, 10, 30, 30]], [0])]
    half = Polygons((np.array([(10, 10), (30, 10), (30, 20), (10, 20)], float),))
    found = [Annotations([[10, 10, 30, 30]], [0], [0.9], (half,))]
    report = evaluate_detections(truth, found, ("gap",), [(50, 50)], shape="mask")
    assert report.map50 == pytest.approx(1) and report.map == pytest.approx(0.1)
    assert evaluate_detections(truth, found, ("gap",), [(50, 50)]).map == pytest.approx(1)


def test_matching_of_masks_looks_at_pixels():
    # Two diagonals of one box: the boxes agree, the masks hardly do.
    rings = [(0, 80), (80, 0), (90, 10), (10, 90)], [(10, 0), (90, 80), (80, 90), (0, 10)]
    rising, falling = (rasterise(Polygons((np.array(r, float),)), 100, 100) for r in rings)
    assert mask_iou([rising], [falling])[0, 0] < 0.2
    truth = [Annotations([[0, 0, 90, 90]], [0], None, (rising,))]
    found = [Annotations([[0, 0, 90, 90]], [0], [0.9], (falling,))]
    masks = evaluate_detections(truth, found, ("gap",), [(100, 100)], shape="mask")
    boxes = evaluate_detections(truth, found, ("gap",), [(100, 100)])
    assert (masks.recall, boxes.recall) == (0, 1)
    assert boxes.confusion.tolist() == [[1, 0], [0, 0]]
    assert masks.confusion.tolist() == [[0, 1], [1, 0]]


def test_nothing_to_compare_gives_none_or_zero_never_nan():
    empty, one = Annotations.empty(), Annotations([box(0)], [0])
    size = [(50, 50)]
    for truth, found in ([[], []], [[empty], [empty]], [[empty], [one]]):
        report = evaluate_detections(truth, found, CLASSES, size[: len(truth)])
        assert report.map is report.map50 is report.precision is report.recall is None
        assert report.score_at_best_f1 is None
        assert set(report.by_size.values()) == {None}
        assert report.confusion.sum() == sum(map(len, found))
    missed = evaluate_detections([one], [empty], CLASSES, size)
    assert missed.map == missed.map50 == missed.precision == missed.recall == 0
    assert missed.by_size == {"small": 0, "medium": None, "large": None}
    assert missed.per_class["gap"].best_f1_score is None
    assert np.isfinite(missed.curves.f1).all()
    assert evaluate_detections([], [], (), []).per_class == {}


@pytest.mark.parametrize("wrong", [-1, 3])
def test_class_ids_outside_the_list_are_named(wrong):
    good, bad = Annotations([box(0)], [2]), Annotations([box(0)], [wrong])
    sizes = [(50, 50)] * 2
    with pytest.raises(DataError, match=f"truth of image 1: .* from 0 to 2, found {wrong}"):
        evaluate_detections([good, bad], [good, good], CLASSES, sizes)
    with pytest.raises(DataError, match=f"predictions of image 0: .* from 0 to 2, found {wrong}"):
        evaluate_detections([good, good], [bad, good], CLASSES, sizes)


def test_different_numbers_of_images_are_named():
    with pytest.raises(DataError, match="found 2, 1 and 2"):
        evaluate_detections([Annotations.empty()] * 2, [Annotations.empty()], CLASSES, [(9, 9)] * 2)


def test_the_report_is_plain_json():
    report = evaluate_detections(*worked())
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["per_class"]["gap"]["instances"] == 3 and plain["images"] == 2
    assert set(plain["by_size"]) == {"small", "medium", "large"}


def test_evaluation_prints_nothing(capsys):
    evaluate_detections(*worked())
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_five_hundred_images_take_less_than_a_few_seconds():
    truth, predictions, sizes = random_set(np.random.default_rng(3), images=500)
    start = time.process_time()
    evaluate_detections(truth, predictions, CLASSES, sizes)
    assert time.process_time() - start < 5


def test_the_picture(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "curves.png"
    plot_detections(evaluate_detections(*worked()), path)
    full = cv2.imread(str(path))
    assert full.shape == (500, 1600, 3) and full.std() > 10
    plot_detections(evaluate_detections([], [], CLASSES, []), path)
    assert cv2.imread(str(path)).shape == full.shape
