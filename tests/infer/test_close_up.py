"""Small regions asked for close up, by a network that any one can check by hand."""

import numpy as np
import pytest

from semiscope.errors import DataError
from semiscope.infer.close_up import LEAST, close_windows, decode_close
from semiscope.infer.promptable import Promptable


@pytest.fixture
def model(tmp_path, write_discs):
    return Promptable.load(write_discs(tmp_path / "discs.onnx"), threads=1)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def test_a_window_shows_what_is_asked_for_and_as_much_again():
    rng = np.random.default_rng(1)
    size = (1500, 2048)
    start = rng.uniform(0, 1, (500, 2)) * (size[1] - 2, size[0] - 2)
    extents = np.concatenate([start, start + 2 ** rng.uniform(0, 10, (500, 2))], 1)
    extents = extents.clip(0, [size[1], size[0]] * 2)
    windows = close_windows(extents, size)
    assert (windows[:, :2] <= extents[:, :2]).all() and (extents[:, 2:] <= windows[:, 2:]).all()
    assert (windows >= 0).all() and (windows[:, 2:] <= [size[1], size[0]]).all()
    sides = (windows[:, 2:] - windows[:, :2]).max(1)
    longest = (extents[:, 2:] - extents[:, :2]).max(1)
    assert set(sides) == {256, 512, 1024, 2048}
    assert (sides >= np.minimum(2 * longest, 2048)).all()
    # and not twice as wide as it need be
    assert (sides < 2 * np.maximum(2 * longest, LEAST) + 1).all()


def test_neighbours_share_a_window():
    extents = np.array([[700, 300, 710, 320], [704, 310, 712, 316]], np.float64)
    first, second = close_windows(extents, (1024, 1024))
    np.testing.assert_array_equal(first, second)


def test_a_small_image_is_its_own_window():
    found = close_windows(np.array([[3.0, 4.0, 5.0, 6.0]]), (300, 400))
    assert found.tolist() == [[0, 0, 400, 300]]
    assert close_windows(np.zeros((0, 4)), (300, 400)).shape == (0, 4)


def test_a_box_is_answered_in_finer_cells(model):
    pixels = noise(1024, 1024)
    box = np.array([603.0, 407.0, 668.0, 443.0])
    # the network's answer to a box is the box, in cells of 4 px of an input of 64
    coarse, _ = model.decode(model.encode(pixels), boxes=[box])
    fine, claimed = decode_close(model, pixels, boxes=[box, (0, 0, 1024, 1024)])
    assert fine.shape == (2, 1024, 1024) and claimed.shape == (2,)
    truth = np.zeros((1024, 1024), bool)
    truth[407:443, 603:668] = True

    def iou(found):
        return (found & truth).sum() / (found | truth).sum()

    assert iou(fine[0]) > 0.75 > 0.5 > iou(coarse[0])
    assert fine[1].mean() > 0.95


def test_a_point_is_asked_again_about_its_first_answer(model):
    pixels = noise(1024, 1024)
    point = np.array([[512.0, 640.0]])
    # the first answer of that network is a disc whose radius is a part of the input: in a window
    # it is smaller
    first, _ = model.decode(model.encode(pixels), points=point[:, None])
    found, _ = decode_close(model, pixels, points=point)
    assert found[0, 640, 512]
    assert found.sum() <= first.sum()


def test_what_cannot_be_is_told(model):
    pixels = noise(300, 300)
    with pytest.raises(DataError, match="within the image"):
        decode_close(model, pixels, boxes=[(400, 400, 500, 500)])
    with pytest.raises(DataError, match="inside the image"):
        decode_close(model, pixels, points=[(400, 10)])
    with pytest.raises(ValueError, match="points or boxes"):
        decode_close(model, pixels)
