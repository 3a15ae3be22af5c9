import numpy as np
import pytest

from semiscope.evaluate.promptable import RegionRow, region_iou, region_report, true_regions
from semiscope.types import Annotations, Mask, Polygons


def square(x, y, side):
    return Mask(x, y, np.ones((side, side), bool))


def test_regions_above_the_least_area_and_of_a_class_the_largest_count():
    shapes = [square(0, 0, 10), square(20, 0, 11), square(40, 0, 14), square(60, 0, 12)]
    ring = np.array([[80.0, 0], [95, 0], [95, 15], [80, 15]])
    truth = Annotations(
        np.zeros((6, 4)), [1, 1, 1, 1, 0, 0], shapes=(*shapes, Polygons((ring,)), None)
    )
    class_id, regions = true_regions(truth, (100, 100), least=100, most=2)
    assert class_id.tolist() == [0, 1, 1]
    assert [(r.x, r.area) for r in regions] == [(80, 225), (40, 196), (60, 144)]
    class_id, regions = true_regions(Annotations.empty(), (10, 10))
    assert class_id.tolist() == [] and regions == ()


def test_iou_of_a_region_by_hand():
    found = np.zeros((20, 20), bool)
    found[4:10, 5:15] = True  # 60 px, of which 4 x 4 in the region of 6 x 6
    assert region_iou(square(3, 2, 6), found) == pytest.approx(16 / (60 + 36 - 16))
    assert region_iou(square(3, 12, 6), found) == 0
    assert region_iou(square(3, 12, 6), np.zeros((20, 20), bool)) == 0


def test_means_are_over_regions_then_over_classes():
    rows = [
        RegionRow("a.png", "A", np.array([1, 1, 2]), np.array([0.5, 0.7, 0.2])),
        RegionRow("b.png", "B", np.array([1]), np.array([0.9])),
        RegionRow("c.png", "B", np.zeros(0, np.int64), np.zeros(0)),
    ]
    report = region_report(rows, ("background", "oxide", "crack"), ["crack"])
    assert report.per_class == {
        "background": None, "oxide": pytest.approx(0.7), "crack": pytest.approx(0.2),
    }  # fmt: skip
    assert report.mean_iou == pytest.approx(0.45)
    assert report.materials == pytest.approx(0.7) and report.defect == pytest.approx(0.2)
    assert report.regions == {"background": 0, "oxide": 3, "crack": 1}
    assert report.images == 3
    assert report.per_device["A"].mean_iou == pytest.approx(0.4)
    assert report.per_device["B"].defect is None
    values = report.to_dict()
    assert [i["file"] for i in values["worst_first"]] == ["a.png", "b.png", "c.png"]
    assert values["per_device"]["B"]["mean_iou"] == pytest.approx(0.9)
    assert region_report([], ("x",)).mean_iou is None
