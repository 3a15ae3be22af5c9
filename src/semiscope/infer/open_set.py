"""What a classifier has seen, so that it can tell what it never saw: the unknown bin.

Cheon et al. 2019 as the thesis tells it (section 2.3.2.1). Of the training images that are called
what they are, the features before the last layer go through a sigmoid. For each of them the squared
Euclidean distance to the nearest other one of its class is taken; the 90th percentile of these is
the class's threshold. An image is unknown when it is further than that from every class; else the
network's label stands. Numpy only.

Two things are ours. Features are kept as 256 levels, a quarter of the size and exact enough:
rounding d of them moves a squared distance by about 3e-6 d. And because a network knows the images
it was trained on better than any others, so that the 90th percentile refuses more than a tenth of
new ones, a factor on all thresholds can be set on images that were held out (``allowing``); at 1
the thresholds are the paper's.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiscope.errors import DataError, ModelError

QUANTILE = 0.9
NEAREST = 3
"""Examples told with an image."""
_LEVELS = 255
_BLOCK = 1 << 23  # distances held at once
_LEAST = 1e-9  # threshold of a class whose examples are all the same

Levels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def to_levels(features: NDArray[np.float32]) -> Levels:
    """(n, d) features as 255 times their sigmoid, rounded."""
    share = 1 / (1 + np.exp(-features.astype(np.float32).clip(-30, 30)))
    return np.asarray((_LEVELS * share).round(), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """What is known about how n images are like the known examples.

    Attributes:
        strangeness: (n,) distance to the nearest class as a share of what is allowed: above 1 an
            image is unknown.
        nearest: (n, m) places of the nearest examples, the nearest first.
        distance: (n, m) squared distances to them.
    """

    strangeness: Floats
    nearest: Ints
    distance: Floats

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """(n,) whether an image is further from every class than its threshold."""
        return self.strangeness > 1


class KnownExamples:
    """Training images that a classifier calls what they are, and how far each class reaches.

    It may be used from several threads at once.

    Attributes:
        levels: (N, d) features as ``to_levels`` gives them, class by class.
        class_id: (N,) class indices, rising.
        names: N file names, below the data set's folder.
        thresholds: (K,) squared distances; NaN for a class without an example.
        factor: What all thresholds are multiplied by.
    """

    def __init__(
        self,
        levels: Levels,
        class_id: Ints,
        names: Sequence[str],
        thresholds: Floats,
        factor: float = 1.0,
    ) -> None:
        """Takes the examples as the attributes are.

        Raises:
            ValueError: They do not fit each other.
        """
        if not len(levels) == len(class_id) == len(names) > 0 or levels.dtype != np.uint8:
            raise ValueError(f"expected as many classes and names as the {len(levels)} examples")
        if (np.diff(class_id) < 0).any() or not 0 <= class_id[0] <= class_id[-1] < len(thresholds):
            raise ValueError(f"expected rising classes of 0 to {len(thresholds) - 1}")
        self.levels, self.class_id, self.names = levels, class_id, tuple(names)
        self.thresholds, self.factor = thresholds, factor
        self._points = _points(levels)
        self._norms = np.einsum("nd,nd->n", self._points, self._points)
        self._parts = _parts(class_id)

    def look(self, features: NDArray[np.float32]) -> Likeness:
        """How images are like the examples.

        Args:
            features: (n, d) of the network, before any sigmoid.

        Raises:
            ValueError: The features have another width than the examples'.
        """
        if features.shape[1:] != self.levels.shape[1:]:
            raise ValueError(
                f"expected features of width {self.levels.shape[1]}, found {features.shape[1:]}"
            )
        step = max(1, _BLOCK // len(self.levels))
        levels = to_levels(features)
        parts = [self._look(levels[i : i + step]) for i in range(0, len(levels), step)]
        if not parts:
            most = min(NEAREST, len(self.levels))
            return Likeness(np.zeros(0), np.zeros((0, most), np.int64), np.zeros((0, most)))
        return Likeness(*(np.concatenate(p) for p in zip(*parts, strict=True)))

    def _look(self, levels: Levels) -> tuple[Floats, Ints, Floats]:
        points = _points(levels)
        # the query's own norm is the same for all examples
        far = self._norms - 2 * (points @ self._points.T)
        rows = np.arange(len(levels))
        strangeness = np.full(len(levels), np.inf)
        best = np.empty((len(levels), len(self._parts)), np.int64)
        for column, (k, start, stop) in enumerate(self._parts):
            best[:, column] = start + far[:, start:stop].argmin(axis=1)
            allowed = self.factor * max(self.thresholds[k], _LEAST)
            np.minimum(
                strangeness, self._distance(levels, best[:, column]) / allowed, out=strangeness
            )
        most = min(NEAREST, len(self.levels))
        near = np.argpartition(far, most - 1, axis=1)[:, :most]
        distance = np.stack([self._distance(levels, near[:, i]) for i in range(most)], axis=1)
        order = np.lexsort((near, distance), axis=1)
        return strangeness, near[rows[:, None], order], distance[rows[:, None], order]

    def _distance(self, levels: Levels, places: Ints) -> Floats:
        return _exact(levels, self.levels[places])

    def allowing(self, features: NDArray[np.float32], share: float) -> KnownExamples:
        """The same with the factor at which a share of some images is unknown.

        Args:
            features: (n, d) of images of known classes that were held out.
            share: Part of them that may be unknown, in [0, 1).

        Raises:
            DataError: There is no image.
        """
        if not len(features):
            raise DataError("expected held-out images to set the factor on, found none")
        ranked = np.sort(self.look(features).strangeness)
        factor = self.factor * float(ranked[len(ranked) - 1 - int(share * len(ranked))])
        # the image at the limit stays known whatever the division's last bit
        factor = max(factor * (1 + 1e-9), _LEAST)
        return KnownExamples(self.levels, self.class_id, self.names, self.thresholds, factor)

    def to_text(self) -> str:
        """All of it as text, for a model file."""
        file = io.BytesIO()
        np.savez(
            file,
            levels=self.levels,
            class_id=self.class_id.astype(np.uint16),
            names=np.frombuffer("\0".join(self.names).encode(errors="surrogateescape"), np.uint8),
            thresholds=self.thresholds,
            factor=np.array(self.factor),
        )
        return base64.b64encode(file.getvalue()).decode()

    @staticmethod
    def from_text(text: str, source: object) -> KnownExamples:
        """What ``to_text`` gave.

        Args:
            text: From a model file.
            source: The file, for the message.

        Raises:
            ModelError: It is damaged.
        """
        try:
            with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as held:
                names = held["names"].tobytes().decode(errors="surrogateescape").split("\0")
                return KnownExamples(
                    held["levels"],
                    held["class_id"].astype(np.int64),
                    names,
                    held["thresholds"].astype(np.float64),
                    float(held["factor"]),
                )
        # whatever the bytes are, zipfile and numpy answer with one of many errors
        except Exception as error:
            raise ModelError(f"{source}: its known examples are damaged: {error}") from None


def learn_examples(
    features: NDArray[np.float32],
    truth: Ints,
    label: Ints,
    names: Sequence[str],
    classes: int,
    quantile: float = QUANTILE,
    progress: Callable[[int, int], None] | None = None,
) -> KnownExamples:
    """Examples and thresholds from training images.

    A class with one image has no distance to another of its own: it gets the median of the other
    thresholds. A class with none has no threshold, and nothing is known for being near it.

    Args:
        features: (n, d) of the network, before any sigmoid.
        truth: (n,) class indices.
        label: (n,) what the network calls them; only those that it calls what they are count.
        names: n file names.
        classes: K.
        quantile: Of the distances, which becomes the threshold.
        progress: Called with the examples done and their number.

    Raises:
        DataError: No class has two images that are called what they are.
    """
    right = np.flatnonzero(truth == label)
    right = right[np.argsort(truth[right], kind="stable")]
    levels, class_id = to_levels(features[right]), truth[right]
    distance = nearest_other(levels, class_id, progress)
    thresholds = np.full(classes, np.nan)
    alone = []
    for k, start, stop in _parts(class_id):
        if stop - start < 2:
            alone.append(k)
        else:
            thresholds[k] = np.quantile(distance[start:stop], quantile)
    if np.isnan(thresholds).all():
        raise DataError(
            "expected a class with two training images that the network calls what they are, found "
            "none. Train further, or label more images."
        )
    thresholds[alone] = np.nanmedian(thresholds)
    return KnownExamples(levels, class_id, [names[i] for i in right.tolist()], thresholds)


def nearest_other(
    levels: Levels, class_id: Ints, progress: Callable[[int, int], None] | None = None
) -> Floats:
    """(N,) squared distance of each example to the nearest other of its class.

    Args:
        levels: (N, d), from ``to_levels``.
        class_id: (N,) rising.
        progress: Called with the examples done and their number.

    Returns:
        Infinity where there is no other.
    """
    found = np.full(len(levels), np.inf)
    for _, start, stop in _parts(class_id):
        own = levels[start:stop]
        points = _points(own)
        norms = np.einsum("nd,nd->n", points, points)
        step = max(1, _BLOCK // len(own))
        for first in range(0, len(own) if len(own) > 1 else 0, step):
            rows = np.arange(first, min(first + step, len(own)))
            far = norms - 2 * (points[rows] @ points.T)
            far[rows - first, rows] = np.inf
            found[start + rows] = _exact(own[rows], own[far.argmin(axis=1)])
            if progress is not None:
                progress(start + int(rows[-1]) + 1, len(levels))
    return found


def _points(levels: Levels) -> NDArray[np.float32]:
    """Levels about zero, so that 32 bits lose little of a distance."""
    return (levels.astype(np.float32) - np.float32(_LEVELS / 2)) / np.float32(_LEVELS)


def _exact(a: Levels, b: Levels) -> Floats:
    """(n,) squared distances of rows."""
    difference = a.astype(np.int32) - b
    return np.asarray(np.einsum("nd,nd->n", difference, difference) / _LEVELS**2)


def _parts(class_id: Ints) -> list[tuple[int, int, int]]:
    """Class, start and stop of each run of one class."""
    kinds, starts, counts = np.unique(class_id, return_index=True, return_counts=True)
    stops = starts + counts
    return [(int(k), int(a), int(b)) for k, a, b in zip(kinds, starts, stops, strict=True)]
