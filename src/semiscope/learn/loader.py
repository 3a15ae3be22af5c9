"""Batches of training examples, a function of the seed and the step alone.

A killed training can so continue at any step with the batches that it would have seen, whatever the
number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from semiscope.errors import SemiscopeError


class Draw(NamedTuple):
    """One place in a batch."""

    epoch: int
    position: int
    sample: int


class Examples(Protocol):
    """What a task trains on."""

    def __len__(self) -> int:
        """Number of examples."""

    def weights(self) -> NDArray[np.float64]:
        """(n,) chance of each example under balanced sampling, any positive scale."""

    def example(self, index: int, rng: np.random.Generator) -> Any:
        """A random view of one example, a function of the generator alone."""

    def collate(self, views: list[Any]) -> Any:
        """Views as one batch of tensors."""


class _Views(Dataset[Any]):
    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples, self.seed = examples, seed

    def __getitem__(self, draw: Draw) -> Any:
        rng = np.random.default_rng((self.seed, draw.epoch, draw.position))
        try:
            return self.examples.example(draw.sample, rng)
        except SemiscopeError as error:
            return error

    def collate(self, views: list[Any]) -> Any:
        """The batch, or the first of the errors found in its place."""
        failed = (v for v in views if isinstance(v, SemiscopeError))
        return next(failed, None) or self.examples.collate(views)


class Batches:
    """The batches of one epoch, from a given step on; each process of several takes its share.

    Attributes:
        epoch: Set it before iterating.
        start: First step of the epoch that is wanted.
    """

    def __init__(
        self,
        examples: Examples,
        batch: int,
        seed: int,
        balanced: bool,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._examples, self._batch, self._seed, self._balanced = examples, batch, seed, balanced
        self._process, self._processes = process, processes
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        """Steps an epoch; the last incomplete batch is left out when there is another."""
        return max(1, len(self._examples) // (self._batch * self._processes))

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng((self._seed, self.epoch))
        count, wide = len(self._examples), self._batch * self._processes
        if self._balanced:
            weights = self._examples.weights()
            order = rng.choice(count, max(count, wide), p=weights / weights.sum())
        else:
            order = np.concatenate([rng.permutation(count) for _ in range(-(-wide // count))])
        for step in range(self.start, len(self)):
            first = step * wide + self._process * self._batch
            yield [Draw(self.epoch, i, int(order[i])) for i in range(first, first + self._batch)]


class Loader:
    """Batches in an order and with views that do not depend on the number of workers.

    What a worker raises on purpose is raised here as it was, without the worker's traceback.
    """

    def __init__(self, examples: Examples, batches: Batches, seed: int, workers: int) -> None:
        views = _Views(examples, seed)
        self._loader: DataLoader[Any] = DataLoader(
            views,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=views.collate,
            persistent_workers=workers > 0,
        )

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, SemiscopeError):
                raise batch
            yield batch
