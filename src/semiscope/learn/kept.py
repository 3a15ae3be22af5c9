"""Images that a training sees again and again, those that cannot be read left out with a word."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from semiscope.errors import DataError, ImageError
from semiscope.types import Sample

_log = logging.getLogger(__name__)

_ROOM = 2 << 30  # bytes


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)
R = TypeVar("R")
S = TypeVar("S")


class Kept(Generic[T]):
    """What is read of samples when it is asked for, kept while there is room."""

    def __init__(self, read: Callable[[Sample], T], samples: Sequence[Sample]) -> None:
        self._read, self._samples, self._room = read, samples, _ROOM
        self._known: dict[int, T] = {}
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> T:
        if index in self._known:
            return self._known[index]
        example = self._read(self._samples[index])
        if example.nbytes <= self._room:
            self._known[index] = example
            self._room -= example.nbytes
        return example

    def readable(self, index: int) -> T | None:
        """What is read of a sample; None, with a word the first time, where its file is broken."""
        if index in self._broken:
            return None
        found = whole(self.__getitem__, index)
        if found is None:
            self._broken.add(index)
        return found

    def nearest(self, index: int) -> T:
        """What is read of a sample, or of the next one whose file is not broken.

        Raises:
            DataError: All are broken.
        """
        for place in range(index, index + len(self)):
            found = self.readable(place % len(self))
            if found is not None:
                return found
        raise DataError(
            f"{self._samples[index].path}: expected images to learn from, found neither this one "
            f"nor any of the other {len(self) - 1} that can be read whole"
        )


def read_all(read: Callable[[Sample], R], samples: Sequence[Sample]) -> list[tuple[Sample, R]]:
    """Samples with what is read of them, without those whose file is broken.

    Raises:
        DataError: All are.
    """
    found = [(s, value) for s in samples if (value := whole(read, s)) is not None]
    if not found:
        raise DataError(
            f"expected images to validate on, found {len(samples)}, none of which can be read whole"
        )
    return found


def whole(read: Callable[[S], R], source: S) -> R | None:
    """What is read of a source; None, with a word, where its file is broken."""
    try:
        return read(source)
    except ImageError as error:
        _log.warning("%s: left out: %s", error.path, error.problem)
        return None
