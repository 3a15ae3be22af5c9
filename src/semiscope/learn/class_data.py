"""Which images of class folders are learned from, and which are held out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semiscope.data.dataset import hold_out, open_dataset
from semiscope.data.pairs import partners, read_pairs
from semiscope.errors import DataError, SettingsError
from semiscope.types import Dataset, Sample

_log = logging.getLogger(__name__)


def open_paired(data: Path, pairs: Path | None) -> tuple[Dataset, dict[Path, Path] | None]:
    """A data set, and the partner of each image that has one; a partner is no image of its own.

    Args:
        data: The data set.
        pairs: See ``data.pairs.read_pairs``; what it says of images elsewhere does not count.

    Returns:
        The data set without partners, and by image its partner; None without ``pairs``.

    Raises:
        DataError: There is no such data set, or the list of pairs is faulty.
    """
    dataset = open_dataset(data)
    if pairs is None:
        return dataset, None
    found = read_pairs(pairs)
    for note in found.notes:
        _log.warning("%s", note)
    places = {s.path.resolve(): s.path for s in dataset}
    low_of = {k.resolve(): v for k, v in partners(found.pairs).items()}
    low = {places[k]: v for k, v in low_of.items() if k in places}
    taken = {v.resolve() for v in low.values()}
    samples = tuple(s for s in dataset if s.path.resolve() not in taken)
    return Dataset(dataset.classes, samples, dataset.notes), low


def learned_classes(dataset: Dataset, data: Path, leave_out: Sequence[str]) -> Dataset:
    """The labelled images to train and validate with, their classes numbered anew.

    A class that no training image shows cannot be told from the others: it is left out with a word.

    Args:
        dataset: What was opened.
        data: Its folder, for messages.
        leave_out: Classes that are not to be learned.

    Returns:
        Images of splits "train" (also where there are no splits) and "val".

    Raises:
        DataError: There are not two classes to tell apart.
        SettingsError: A class that is to be left out is none of the classes.
    """
    if unknown := [name for name in leave_out if name not in dataset.classes]:
        raise SettingsError(
            f"leave_out: expected some of {', '.join(dataset.classes)}, found {', '.join(unknown)}"
        )
    train = "train" if any(s.split == "train" for s in dataset) else ""
    shown = {s.label for s in dataset if s.split == train}
    wanted = [k for k, name in enumerate(dataset.classes) if name not in leave_out]
    kept = [k for k in wanted if k in shown]
    if len(kept) < 2:
        found = ", ".join(dataset.classes[k] for k in kept) or "none"
        raise DataError(
            f"{data}: expected training images in folders of at least two classes, found {found}"
        )
    for k in wanted:
        if k not in kept:
            _log.warning("%s: class %s has no training image: left out", data, dataset.classes[k])
    place = {old: new for new, old in enumerate(kept)}
    splits = {train: "train", "val": "val"}
    return Dataset(
        tuple(dataset.classes[k] for k in kept),
        tuple(
            Sample(s.path, s.size, label=place[s.label], split=splits[s.split])
            for s in dataset
            if s.label in place and s.split in splits
        ),
    )


def split_labels(
    dataset: Dataset, per_class: int, validation: float, seed: int
) -> tuple[Dataset, Dataset]:
    """The training and the held-out part.

    Args:
        dataset: From ``learned_classes``.
        per_class: Training images of each class that are drawn; 0 for all.
        validation: Share of these that is held out where there is no val split; 0 for none.
        seed: Decides both.
    """
    train, val = dataset.split("train"), dataset.split("val")
    if per_class:
        train = draw_labels(train, per_class, seed)
    if len(val) or not validation:
        return train, val
    return hold_out(train, validation, seed)


def draw_labels(dataset: Dataset, count: int, seed: int) -> Dataset:
    """So many images of each class, or all of a class that has fewer."""
    rng = np.random.default_rng(seed)
    labels = np.array([s.label for s in dataset])
    drawn = [
        rng.permutation(np.flatnonzero(labels == k))[:count] for k in range(len(dataset.classes))
    ]
    return Dataset(
        dataset.classes, tuple(dataset.samples[i] for i in np.sort(np.concatenate(drawn)))
    )
