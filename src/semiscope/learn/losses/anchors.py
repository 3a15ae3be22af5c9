"""Anchors fitted to the data, as YOLO does: k-means, then mutation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOOD_RECALL = 0.98
_RATIO = 4.0
_MUTATION_RATE = 0.9
_MUTATION_SIGMA = 0.1


def _fit(sizes: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each size and anchor the worse side's ratio, in (0, 1]."""
    ratio = sizes[:, None] / anchors[None]
    worse: NDArray[np.float64] = np.minimum(ratio, 1 / ratio).min(2)
    return worse


def best_possible_recall(sizes: NDArray[np.float64], anchors: NDArray[np.float64]) -> float:
    """Share of boxes that some anchor fits within a factor of four.

    Args:
        sizes: (n, 2) widths and heights in input pixels.
        anchors: (..., 2) pixels.
    """
    if not len(sizes):
        return 1.0
    return float((_fit(sizes, anchors.reshape(-1, 2)).max(1) > 1 / _RATIO).mean())


def fit_anchors(
    sizes: NDArray[np.float64],
    anchors: NDArray[np.float64],
    seed: int,
    generations: int = 1000,
) -> NDArray[np.float64]:
    """Anchors for the data: the given ones where they reach a recall of 0.98, else fitted ones.

    Fitted ones are kept only where they raise the recall.

    Args:
        sizes: (n, 2) widths and heights of the true boxes in input pixels.
        anchors: (L, A, 2) present anchors.
        seed: Of the k-means start and the mutations.
        generations: Number of mutations tried.

    Returns:
        (L, A, 2), sorted by area.
    """
    sizes = sizes[(sizes >= 2).all(1)]
    present = best_possible_recall(sizes, anchors)
    count = anchors.size // 2
    if present >= GOOD_RECALL or len(np.unique(sizes, axis=0)) < count:
        return anchors
    rng = np.random.default_rng(seed)
    spread = sizes.std(0) + 1e-9
    best = _k_means(sizes / spread, count, rng) * spread
    score = _fitness(sizes, best)
    for _ in range(generations):
        factor = np.where(
            rng.random(best.shape) < _MUTATION_RATE,
            1 + _MUTATION_SIGMA * rng.standard_normal(best.shape),
            1.0,
        ).clip(0.3, 3.0)
        trial = (best * factor).clip(2.0)
        trial_score = _fitness(sizes, trial)
        if trial_score > score:
            best, score = trial, trial_score
    if best_possible_recall(sizes, best) <= present:
        return anchors
    by_area: NDArray[np.float64] = best[np.argsort(best.prod(1))]
    return by_area.reshape(anchors.shape)


def _fitness(sizes: NDArray[np.float64], anchors: NDArray[np.float64]) -> float:
    best: NDArray[np.float64] = _fit(sizes, anchors).max(1)
    return float((best * (best > 1 / _RATIO)).mean())


def _k_means(
    points: NDArray[np.float64], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    centres = np.array(rng.permutation(np.unique(points, axis=0))[:count], np.float64)
    for _ in range(30):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(2).argmin(1)
        for i in range(count):
            if (nearest == i).any():
                centres[i] = points[nearest == i].mean(0)
    return centres
