import cv2
import numpy as np
import pytest

from semiscope.data.prompts import inner_point, jittered_box, partial_mask, random_points


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def blob(rng):
    """A random shape that touches the edges of its crop."""
    return cv2.GaussianBlur(rng.normal(size=(40, 60)), (0, 0), 4) > 0


def test_the_inner_point_is_farthest_from_the_border(blob):
    x, y = inner_point(blob)
    inside, outside = np.argwhere(blob), np.argwhere(~np.pad(blob, 1)) - 1
    distance = np.hypot(*(inside[:, None] - outside).transpose(2, 0, 1)).min(axis=1)
    found = distance[(inside == (int(y), int(x))).all(axis=1)]
    assert found == pytest.approx(distance.max(), abs=1e-4)
    assert inner_point(np.ones((1, 1), bool)) == (0.5, 0.5)
    assert inner_point(np.ones((5, 9), bool))[1] == 2.5


def test_random_points_lie_on_set_pixels_everywhere(blob, rng):
    points = random_points(blob, 3000, rng)
    columns, rows = np.floor(points).astype(int).T
    assert blob[rows, columns].all()
    assert len(set(zip(rows, columns, strict=True))) > 0.6 * blob.sum()
    with pytest.raises(ValueError):
        random_points(np.zeros((3, 3), bool), 1, rng)


def test_boxes_are_off_by_at_most_their_share_and_stay_in_the_image(rng):
    true = np.array([20, 30, 60, 50], np.float32)
    boxes = np.array([jittered_box(true, 0.1, (100, 100), rng) for _ in range(500)])
    off = np.abs(boxes - true).max(0)
    assert (off <= [4, 2, 4, 2]).all() and (off > [3.5, 1.75, 3.5, 1.75]).all()
    np.testing.assert_array_equal(jittered_box(true, 0, (100, 100), rng), true)
    corner = np.array([0, 90, 10, 100], np.float32)
    boxes = np.array([jittered_box(corner, 0.5, (100, 100), rng) for _ in range(200)])
    assert boxes.min() >= 0 and boxes.max() <= 100
    pixel = np.array([99, 99, 100, 100], np.float32)
    low, high = np.split(jittered_box(pixel, 0.9, (100, 100), rng), 2)
    assert (high - low >= 1).all() and (high <= 100).all()


def test_a_partial_mask_is_smaller_and_lies_inside_about_one_place(blob, rng):
    shares = []
    for _ in range(50):
        part = partial_mask(blob, rng)
        assert not (part & ~blob).any()
        assert 0 < part.sum() < blob.sum()
        shares.append(part.sum() / blob.sum())
        rows, columns = np.nonzero(part)
        reach = [np.hypot(rows - r, columns - c).max() for r, c in zip(rows, columns, strict=True)]
        rest = np.argwhere(blob & ~part)
        centre = rows[np.argmin(reach)], columns[np.argmin(reach)]
        # about its own centre, nearly nothing nearer was left out
        nearer = np.hypot(*(rest - centre).T) < 0.5 * min(reach)
        assert nearer.mean() < 0.2
    assert min(shares) < 0.35 and max(shares) > 0.65
    assert partial_mask(np.ones((1, 2), bool), rng).sum() == 1
    assert partial_mask(np.ones((1, 1), bool), rng).sum() == 1
