"""Labelled images and what a classifier says of them, read ahead while it infers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semiscope.data.dataset import first_split, open_dataset
from semiscope.errors import DataError, ImageError, ModelError
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


def answer(
    model: Classifier,
    paths: Sequence[Path],
    failed: list[tuple[str, str]],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.intp], Answers]:
    """What a classifier says of many images.

    Args:
        model: The classifier.
        paths: The images.
        failed: Gets file and reason of those that cannot be read.
        progress: Called with the images done and their number.

    Returns:
        (n,) places of those that could be read, and what is said of these.
    """
    done: list[int] = []
    parts: list[Answers] = []
    for start, batch in _batches(model, paths):
        for place, read in enumerate(batch, start):
            if isinstance(read, ImageError):
                failed.append((str(paths[place]), read.problem))
            else:
                done.append(place)
        if inputs := [read for read in batch if not isinstance(read, ImageError)]:
            parts.append(model.run(inputs))
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


def _batches(
    model: Classifier, paths: Sequence[Path]
) -> Iterator[tuple[int, list[NDArray[np.float32] | ImageError]]]:
    """Place of the first, and the inputs made ready or why one could not be."""

    def read(start: int) -> list[NDArray[np.float32] | ImageError]:
        made: list[NDArray[np.float32] | ImageError] = []
        for path in paths[start : start + _BATCH]:
            try:
                made.append(model.prepare(read_image(path).specimen))
            except ImageError as error:
                made.append(error)
        return made

    waiting: deque[tuple[int, Future[list[NDArray[np.float32] | ImageError]]]] = deque()
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="read") as pool:
        for start in range(0, len(paths), _BATCH):
            waiting.append((start, pool.submit(read, start)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
