"""Labelled images and what a classifier says of them, read ahead while it infers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiscope.data.dataset import first_split, open_dataset
from semiscope.data.pairs import partners, read_pairs
from semiscope.errors import DataError, ImageError, ModelError, SettingsError
from semiscope.evaluate.classification import UNSEEN
from semiscope.infer.classifier import Answers, Classifier
from semiscope.io.image import read_image

_BATCH = 16
_AHEAD = 4  # batches being read


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images with the class of each as a model numbers them.

    Attributes:
        paths: n files.
        names: n, below the data set's folder, with slashes.
        truth: (n,) class indices; ``UNSEEN`` for a class that the model does not know.
        unseen: How many images are of each such class, by its name.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    truth: NDArray[np.int64]
    unseen: dict[str, int]

    def __len__(self) -> int:
        return len(self.paths)

    def only(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> LabelledImages:
        """Those that a boolean or an index array selects."""
        places = np.arange(len(self))[chosen].tolist()
        return LabelledImages(
            tuple(self.paths[i] for i in places),
            tuple(self.names[i] for i in places),
            self.truth[places],
            self.unseen,
        )


def open_labelled(
    data: Path, split: str | Sequence[str], classes: Sequence[str], model: str
) -> LabelledImages:
    """The images with a label in a data set.

    Args:
        data: The data set.
        split: A split, or several of which the first that exists is taken, else all.
        classes: The model's.
        model: Its name, for messages.

    Raises:
        DataError: There is none.
        ModelError: The model knows none of the data set's classes.
    """
    dataset = open_dataset(data)
    wanted = split if isinstance(split, str) else first_split(dataset, split)
    if wanted:
        dataset = dataset.split(wanted)
    samples = [s for s in dataset if s.label is not None]
    if not samples:
        where = f" in {wanted}" if wanted else ""
        raise DataError(f"{data}: expected images in folders of their class{where}, found none")
    place = {name: k for k, name in enumerate(classes)}
    names = [dataset.classes[s.label] for s in samples if s.label is not None]
    truth = np.array([place.get(name, UNSEEN) for name in names], np.int64)
    if (truth == UNSEEN).all():
        raise ModelError(
            f"{model}: expected a model that knows a class of {data}, found none for "
            f"{', '.join(sorted(set(names)))}. The model knows {', '.join(classes)}."
        )
    unseen: dict[str, int] = {}
    for name in names:
        if name not in place:
            unseen[name] = unseen.get(name, 0) + 1
    paths = tuple(s.path for s in samples)
    return LabelledImages(
        paths, tuple(p.relative_to(data).as_posix() for p in paths), truth, unseen
    )


def held_out(images: LabelledImages, names: Collection[str]) -> NDArray[np.bool_]:
    """(n,) which of the images are among the names of those that training held out."""
    among = frozenset(names)
    return np.array([name in among for name in images.names], bool)


def read_partners(model: Classifier, pairs: Path | None) -> dict[Path, Path]:
    """The partner of low magnification of each image that has one, by the image's resolved path.

    Args:
        model: The classifier.
        pairs: CSV or KLARF file; none at all when None.

    Raises:
        DataError: The file cannot be read.
        SettingsError: There is one and the model takes one magnification.
    """
    if pairs is None:
        return {}
    if not model.meta.two_magnifications:
        raise SettingsError(
            f"--pairs: expected a model of two magnifications, found {model.path}, which takes "
            "one. Leave it out."
        )
    return {high.resolve(): low for high, low in partners(read_pairs(pairs).pairs).items()}


def alone(paths: Sequence[Path], low: Mapping[Path, Path]) -> list[int]:
    """Places of the images that are no other image's partner: partners are not judged themselves.

    Args:
        paths: The images.
        low: From ``read_partners``.
    """
    taken = {path.resolve() for path in low.values()}
    return [i for i, path in enumerate(paths) if not taken or path.resolve() not in taken]


def answer(
    model: Classifier,
    paths: Sequence[Path],
    failed: list[tuple[str, str]],
    progress: Callable[[int, int], None] | None = None,
    low: Mapping[Path, Path] | None = None,
) -> tuple[NDArray[np.intp], Answers]:
    """What a classifier says of many images.

    Args:
        model: The classifier.
        paths: The images.
        failed: Gets file and reason of those that cannot be read.
        progress: Called with the images done and their number.
        low: The images' partners, from ``read_partners``.

    Returns:
        (n,) places of those that could be read, and what is said of these.
    """
    done: list[int] = []
    parts: list[Answers] = []
    for start, batch in _batches(model, paths, low or {}):
        for place, read in enumerate(batch, start):
            if isinstance(read, ImageError):
                failed.append((str(paths[place]), read.problem))
            else:
                done.append(place)
        if inputs := [read for read in batch if not isinstance(read, ImageError)]:
            images, others = zip(*inputs, strict=True)
            parts.append(model.run(images, others))
        if progress is not None:
            progress(start + len(batch), len(paths))
    if not parts:
        kinds = len(model.meta.classes)
        return np.zeros(0, np.intp), Answers(
            np.zeros((0, kinds), np.float32), np.zeros((0, 0), np.float32)
        )
    return np.array(done, np.intp), Answers(
        np.concatenate([p.probability for p in parts]), np.concatenate([p.features for p in parts])
    )


Read = tuple[NDArray[np.float32], NDArray[np.float32] | None] | ImageError
"""An image and its partner made ready, or why one of them could not be."""


def _batches(
    model: Classifier, paths: Sequence[Path], low: Mapping[Path, Path]
) -> Iterator[tuple[int, list[Read]]]:
    """Place of the first, and what was read of each."""

    def read(start: int) -> list[Read]:
        made: list[Read] = []
        for path in paths[start : start + _BATCH]:
            try:
                partner = low.get(path.resolve()) if low else None
                other = None if partner is None else model.prepare(read_image(partner).specimen)
                made.append((model.prepare(read_image(path).specimen), other))
            except ImageError as error:
                made.append(error)
        return made

    waiting: deque[tuple[int, Future[list[Read]]]] = deque()
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="read") as pool:
        for start in range(0, len(paths), _BATCH):
            waiting.append((start, pool.submit(read, start)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
