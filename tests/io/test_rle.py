"""COCO RLE against pycocotools."""

from __future__ import annotations

import numpy as np
import pycocotools.mask
import pytest

from semiscope.geometry import crop, dense
from semiscope.io.coco import decode_rle, encode_rle
from semiscope.types import Mask


def masks():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 40, 2)
        yield rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    yield np.pad(np.ones((200, 3), bool), ((0, 0), (500, 700)))


def test_both_ways_as_pycocotools_has_them():
    for bits in masks():
        height, width = bits.shape
        truth = pycocotools.mask.encode(np.asfortranarray(bits.astype(np.uint8)))
        rle = encode_rle(crop(bits), height, width)
        assert rle == {"size": [height, width], "counts": truth["counts"].decode()}
        np.testing.assert_array_equal(dense(decode_rle(rle), height, width), bits)
        np.testing.assert_array_equal(dense(decode_rle(truth), height, width), bits)


def test_runs_that_are_not_compressed():
    mask = decode_rle({"size": [3, 4], "counts": [4, 2, 1, 1, 4]})
    np.testing.assert_array_equal(dense(mask, 3, 4).T.ravel(), np.isin(np.arange(12), [4, 5, 7]))
    assert (mask.x, mask.y) == (1, 1)


def test_a_mask_that_reaches_outside_is_cut():
    mask = Mask(-1, 2, np.ones((4, 3), bool))
    inside = dense(decode_rle(encode_rle(mask, 4, 5)), 4, 5)
    assert inside.sum() == 4
    assert inside[2:, :2].all()


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [3, 4], "counts": [4, 2]},
        {"size": [3, 4], "counts": [14, -2]},
        {"size": [60_000, 60_000], "counts": [3_600_000_000]},
        {"size": [3, 4], "counts": "o"},
        {"size": [3, 4], "counts": "é"},
        {"size": [3, 4]},
        {"size": 12, "counts": [12]},
    ],
)
def test_what_is_no_rle_is_an_error(rle: dict):
    with pytest.raises(ValueError, match="expected|cut off"):
        decode_rle(rle)
