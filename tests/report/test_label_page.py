from __future__ import annotations

import re

import numpy as np
import pytest

from semiscope.report.embedding import Dot, embedding_map, project
from semiscope.report.label_page import LabelGallery, LabelPicture, LabelReport, label_page
from semiscope.report.montage import montage


def test_the_axes_are_those_of_the_widest_spread():
    rng = np.random.default_rng(0)
    along = np.arange(50)
    # 3 times as far along the first of two directions as along the second, and noise
    one, other = np.array([0.6, 0.8, 0, 0]), np.array([0, 0, 1, 0])
    places = 128 + np.outer(1.8 * (along - 25), one) + np.outer(0.6 * rng.permutation(along), other)
    levels = places.round().astype(np.uint8)
    found = project(levels)
    assert abs(np.corrcoef(found[:, 0], along)[0, 1]) > 0.999
    assert abs(np.corrcoef(found[:, 1], places[:, 2])[0, 1]) > 0.95
    np.testing.assert_array_equal(found, project(levels))
    # one image, and images that are all the same
    assert project(levels[:1]).tolist() == [[0, 0]]
    assert np.allclose(project(levels[[3, 3, 3]]), 0)


@pytest.mark.parametrize("spread", [(1, 0), (0, 1), (5, 5), (0, 0)])
def test_dots_lie_within_the_map(spread):
    rng = np.random.default_rng(1)
    places = rng.uniform(-1, 1, (40, 2)) * spread + 7
    kinds = ["accept", "review", "unknown"]
    dots = [Dot(f"<{i}>", i % 12, kinds[i % 3]) for i in range(40)]
    drawn = embedding_map(places, dots)
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawn).groups())
    circles = re.findall(r'cx="(\S+)" cy="(\S+)"', drawn)
    assert len(circles) == 27 and drawn.count("<path") == 13
    for x, y in circles:
        assert 0 < float(x) < width and 0 < float(y) < height
    assert "<title>&lt;0&gt;</title>" in drawn


def test_a_page_that_runs_and_loads_nothing():
    name = '<script>alert("x")</script>{{style}}'
    picture = LabelPicture(
        name, name, 0.5, "review", "AAAA", second=("b", 0.3), truth=name, nearest=[(name, name)]
    )
    report = LabelReport(
        title=name,
        facts={name: name},
        classes=(name, "b"),
        images=3,
        dispositions={"accept": 1, "review": 1, "unknown": 1},
        counts={name: (1, 1), "b": (0, 0)},
        scores=np.array([0.5, 0.9, 0.2]),
        review=np.array([True, False, True]),
        pairs=[(name, "b", 4)],
        pairs_title=name,
        pairs_note=name,
        galleries=[
            LabelGallery("Doubtful", name, [picture], 7),
            LabelGallery("Empty", "nothing", [], 0),
        ],
        places=np.zeros((1, 2)),
        dots=[Dot(name, 1, "unknown")],
        failed=[(name, name)],
        model={"name": name},
        settings={},
    )
    page = label_page(report)
    assert "<script" not in page and "script-src" not in page and page.count("{{style}}") > 5
    assert "7 images, 1 shown" in page and "Empty" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_a_montage_by_its_pixels():
    import cv2

    images = [
        np.full((10, 20), 255, np.uint8),
        np.full((64, 64, 3), (200, 0, 0), np.uint8),
        np.linspace(1000, 3000, 4096).reshape(64, 64).astype(np.uint16),
    ]
    picture = cv2.imdecode(np.frombuffer(montage(images, side=64, columns=2), np.uint8), 1)
    assert picture.shape == (4 + 2 * 68, 4 + 2 * 68, 3)
    # letterboxed: bright in the middle, black above
    assert picture[36, 36].tolist() == [255] * 3 and picture[6, 36].tolist() == [0] * 3
    # red, as OpenCV orders it
    assert picture[36, 104].tolist() == [0, 0, 200]
    # 16 bits are stretched
    stretched = picture[72:136, 4:68, 0]
    assert stretched.min() == 0 and stretched.max() == 255
