from __future__ import annotations

import numpy as np
import pytest

from semiscope.infer.groups import group


def plain(distance, widest):
    """Join the nearest two, again and again, all means taken anew."""
    groups = [[i] for i in range(len(distance))]
    while len(groups) > 1:
        mean, a, b = min(
            (distance[np.ix_(x, y)].mean(), i, j)
            for i, x in enumerate(groups)
            for j, y in enumerate(groups)
            if i < j
        )
        if mean > widest:
            break
        groups[a] += groups.pop(b)
    return {tuple(sorted(g)) for g in groups}


@pytest.mark.parametrize("seed", range(4))
def test_against_plain_joining(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (30, 3)) + 4 * rng.integers(0, 3, (30, 1))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    for widest in (0.0, 1.0, 2.5, 6.0, 99.0):
        numbers = group(distance, widest)
        found = {tuple(np.flatnonzero(numbers == k)) for k in range(numbers.max() + 1)}
        assert found == plain(distance, widest)
        # the largest first
        sizes = np.bincount(numbers)
        assert (np.diff(sizes) <= 0).all()


def test_few_and_equal():
    assert group(np.zeros((1, 1)), 1).tolist() == [0]
    assert group(np.zeros((5, 5)), 0).tolist() == [0] * 5
    apart = np.array([[0, 9, 9], [9, 0, 1], [9, 1, 0.0]])
    assert group(apart, 1).tolist() == [1, 0, 0]
    assert group(apart, 0.5).tolist() == [0, 1, 2]
