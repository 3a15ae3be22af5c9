"""Images that a training sees again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from semiscope.errors import ImageError
from semiscope.types import Sample

_log = logging.getLogger(__name__)

_ROOM = 2 << 30  # bytes


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


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
        try:
            return self[index]
        except ImageError as error:
            _log.warning("%s: left out: %s", error.path, error.problem)
            self._broken.add(index)
            return None
