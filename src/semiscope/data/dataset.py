"""Labelled data sets: opened whatever their format, split, balanced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiscope.errors import DataError
from semiscope.io.formats import FORMATS
from semiscope.types import Dataset, Sample


def find_format(root: Path) -> str:
    """The name, in ``FORMATS``, of the format that a folder is in.

    Raises:
        DataError: There is no such folder, or it is in none of the formats.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected the folder of a data set, found no folder")
    for name, form in FORMATS.items():
        if form.matches(root):
            return name
    raise DataError(
        f"{root}: expected a data set in one of the formats {', '.join(FORMATS)}, found none of "
        "them; see the documentation for the layout of each"
    )


def open_dataset(root: Path, split: str | None = None) -> Dataset:
    """Opens a data set.

    Args:
        root: Its folder, in any of the formats in ``FORMATS``.
        split: "train", "val", "test" or "unlabelled"; None for everything.

    Raises:
        DataError: The folder is not a data set, or has no such split.
    """
    root = Path(root)
    dataset = FORMATS[find_format(root)].read(root)
    if split is None:
        return dataset
    chosen = dataset.split(split)
    if not chosen.samples:
        present = ", ".join(sorted({s.split for s in dataset if s.split})) or "no splits"
        raise DataError(f"{root}: expected a split {split!r}, found {present}")
    return chosen


def first_split(dataset: Dataset, names: Sequence[str]) -> str:
    """The first of some splits that a data set has; "" when it has none of them."""
    present = {s.split for s in dataset}
    return next((name for name in names if name in present), "")


def sample_classes(sample: Sample) -> NDArray[np.int64]:
    """The classes that a sample shows: those of its instances, and its label; sorted."""
    parts = [] if sample.annotations is None else [sample.annotations.class_id]
    if sample.label is not None:
        parts.append(np.array([sample.label]))
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def joined(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets as one, for instances and labels; classes of one name are one class.

    Class maps are left out: their files hold the indices of the set they come from.
    """
    classes = tuple(dict.fromkeys(name for d in datasets for name in d.classes))
    samples = []
    for dataset in datasets:
        place = np.array([classes.index(name) for name in dataset.classes], np.int64)
        for sample in dataset:
            truth, label = sample.annotations, sample.label
            if truth is not None:
                truth = replace(truth, class_id=place[truth.class_id])
            label = None if label is None else int(place[label])
            samples.append(replace(sample, annotations=truth, label=label, class_map=None))
    return Dataset(classes, tuple(samples), tuple(n for d in datasets for n in d.notes))


def hold_out(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits a data set in two, each class in the same proportion.

    Images are taken class by class, the rarest class of an image counting, so that a class with
    two images or more is met on both sides.

    Args:
        dataset: What to split.
        fraction: Part that is held out, in (0, 1).
        seed: The same seed gives the same split.

    Returns:
        The training part and the held-out part, each in the order of the data set.

    Raises:
        DataError: The fraction is not in (0, 1) or there are fewer than two images.
    """
    n = len(dataset)
    if not 0 < fraction < 1 or n < 2:
        raise DataError(f"cannot hold out {fraction} of {n} images: expected 0 < fraction < 1")
    rng = np.random.default_rng(seed)
    held = np.zeros(n, bool)
    groups = _rarest_class(dataset)
    # what rounding leaves over in one class is made up for in the next
    owed = 0.0
    for group in sorted(set(groups.tolist()), key=lambda g: (np.count_nonzero(groups == g), g)):
        members = rng.permutation(np.flatnonzero(groups == group))
        wanted = len(members) * fraction + owed
        count = int(np.clip(round(wanted), min(1, len(members) // 2), len(members) - 1))
        held[members[:count]] = True
        owed = wanted - count
    parts = (
        Dataset(dataset.classes, tuple(s for s, h in zip(dataset, held, strict=True) if h == side))
        for side in (False, True)
    )
    train, val = parts
    return train, val


def balanced_weights(dataset: Dataset) -> NDArray[np.float64]:
    """Weights for drawing images so that every class is met equally often.

    An image of several classes takes the weight of its rarest, so that no class is starved; images
    without any instance count as one more class.

    Returns:
        (n,) float64, summing to 1.
    """
    groups = _rarest_class(dataset)
    values, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1.0 / (counts[inverse] * len(values))


def _rarest_class(dataset: Dataset) -> NDArray[np.int64]:
    """(n,) for each image that class of it which the fewest images show; -1 for none."""
    shown = [sample_classes(s) for s in dataset]
    images = np.bincount(np.concatenate([np.zeros(0, np.int64), *shown]), minlength=1)
    return np.array([min(c, key=lambda k: (images[k], k), default=-1) for c in shown], np.int64)
