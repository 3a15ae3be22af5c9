"""What becomes of a detection or a label: accepted, or put aside for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from semiscope.types import Annotations

Disposition = Literal["accept", "review", "unknown"]
DISPOSITIONS: tuple[Disposition, ...] = ("accept", "review", "unknown")


class Thresholds(Protocol):
    """The two score cuts of one class, ``report`` at most ``accept``."""

    @property
    def report(self) -> float:
        """A detection below this is not reported."""

    @property
    def accept(self) -> float:
        """A detection at or above this needs no person."""


def dispose(
    found: Annotations,
    classes: Sequence[str],
    thresholds: Mapping[str, Thresholds],
    min_score: float | None = None,
) -> tuple[Annotations, tuple[Disposition, ...]]:
    """Drops what is below the reporting threshold of its class and judges the rest.

    Args:
        found: What the model found, ``class_id`` an index into ``classes``.
        classes: Names of the classes.
        thresholds: The cuts of each class by name; a class without an entry is reported from 0 and
            always reviewed.
        min_score: Reporting threshold for all classes in place of the model's own. A detection that
            only this lets through is reviewed.

    Returns:
        The reported instances by falling score (ties in their old order) and their dispositions.
    """
    none = np.zeros(len(classes), np.float32)
    report, accept = none.copy(), none + np.inf
    for index, name in enumerate(classes):
        if name in thresholds:
            report[index], accept[index] = thresholds[name].report, thresholds[name].accept
    if min_score is not None:
        report[:] = min_score
    order: NDArray[np.intp] = np.argsort(-found.score, kind="stable")
    order = order[found.score[order] >= report[found.class_id[order]]]
    kept = found[order]
    sure = kept.score >= accept[kept.class_id]
    return kept, tuple("accept" if s else "review" for s in sure)


def dispose_labels(
    label: NDArray[np.int64],
    score: NDArray[np.floating],
    unknown: NDArray[np.bool_],
    classes: Sequence[str],
    thresholds: Mapping[str, Thresholds],
) -> tuple[Disposition, ...]:
    """What becomes of the labels of images.

    Args:
        label: (n,) indices into ``classes``.
        score: (n,) in [0, 1].
        unknown: (n,) whether an image is like nothing that the model has seen.
        classes: Names of the classes.
        thresholds: The cuts of each class by name; a class without an entry is always reviewed.
    """
    accept = np.array([thresholds[c].accept if c in thresholds else np.inf for c in classes])
    sure = score >= accept[label]
    return tuple(
        "unknown" if u else "accept" if s else "review" for u, s in zip(unknown, sure, strict=True)
    )
