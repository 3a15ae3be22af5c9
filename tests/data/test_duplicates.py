from __future__ import annotations

import time

import numpy as np
import pytest

from semiscope.data.duplicates import near_pairs, thumbnail

RNG = np.random.default_rng(0)


def test_the_dot_product_of_thumbnails_is_the_correlation():
    a, b = RNG.integers(0, 65536, (2, 32, 32)).astype(np.uint16)
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert thumbnail(a) @ thumbnail(b) == pytest.approx(expected, abs=1e-5)
    assert thumbnail(a) @ thumbnail(a // 2 + 99) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_thumbnails_of_every_depth_and_of_colour(dtype: type):
    grey = RNG.integers(0, 200, (100, 70)).astype(dtype)
    colour = np.dstack([grey] * 3)
    assert thumbnail(grey) @ thumbnail(colour) > 0.999
    assert not thumbnail(np.full((40, 40), 7, dtype)).any()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [1, -1])
def test_turned_copies_are_found_and_nothing_else(turns: int, flip: int):
    first = [RNG.integers(0, 256, (64, 64)).astype(np.uint8) for _ in range(5)]
    copy = np.ascontiguousarray(np.rot90(first[3], turns)[:, ::flip])
    second = [RNG.integers(0, 256, (64, 64)).astype(np.uint8), copy]
    (pair,) = near_pairs(
        np.stack([thumbnail(i) for i in first]), np.stack([thumbnail(i) for i in second]), 0.98
    )
    assert pair[:2] == (3, 1)
    assert pair[2] == pytest.approx(1, abs=1e-5)


def test_thousands_are_compared_in_seconds():
    thumbnails = RNG.normal(size=(2500, 1024)).astype(np.float32)
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    thumbnails[2499] = np.rot90(thumbnails[7].reshape(32, 32)).ravel()
    start = time.process_time()
    pairs = list(near_pairs(thumbnails[:2000], thumbnails[2000:], 0.98))
    assert [(a, b) for a, b, _ in pairs] == [(7, 499)]
    assert time.process_time() - start < 10
