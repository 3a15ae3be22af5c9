"""How good the verdicts on units are: escapes, over-rejects, purity and accuracy.

A unit is what passes or fails as one: an image, or all images of a package. A bad unit that passes
has escaped; a good unit that fails is over-rejected. Units for review go to a person: they are
neither, and are counted apart. Of the units that are given a class, purity is the part of those
called a class that belong to it, accuracy the part of those that belong to it that are called so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.errors import DataError
from semiscope.evaluate.intervals import Interval, Rate, bootstrap

Verdict = Literal["pass", "review", "fail"]
VERDICTS: tuple[Verdict, ...] = ("pass", "review", "fail")
REVIEW = -1
"""In place of a class: a person decides."""


@dataclass(frozen=True, slots=True)
class UnitReport:
    """The verdicts on units.

    Attributes:
        escape: Bad units that pass, of all bad units.
        over_reject: Good units that fail, of all good units.
        review_bad: Bad units for review, of all bad units.
        review_good: Good units for review, of all good units.
    """

    escape: Rate
    over_reject: Rate
    review_bad: Rate
    review_good: Rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name).to_dict() for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ClassReport:
    """One class of units; a unit for review has no part in purity and accuracy.

    Attributes:
        purity: Units of the class, of those called so.
        accuracy: Units called so, of those of the class.
        review: Units for review, of those of the class.
    """

    purity: Rate
    accuracy: Rate
    review: Rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name).to_dict() for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ClassesReport:
    """All classes of units.

    Attributes:
        per_class: By class name.
        purity: Mean over the classes that units are called.
        accuracy: Mean over the classes that units belong to.
    """

    per_class: dict[str, ClassReport]
    purity: Interval
    accuracy: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "per_class": {name: report.to_dict() for name, report in self.per_class.items()},
            "purity": self.purity.to_dict(),
            "accuracy": self.accuracy.to_dict(),
        }


def verdicts(scores: ArrayLike, report: ArrayLike, accept: ArrayLike) -> NDArray[np.str_]:
    """What becomes of units whose defects have scores.

    Args:
        scores: (n, K) each unit's highest score in each class of defects; 0 for none.
        report: (K,) or (n, K) a defect below this is not reported.
        accept: Likewise; a defect from this on needs no person.

    Returns:
        (n,) "fail" where a defect is accepted, else "review" where one is reported, else "pass".
    """
    given = np.asarray(scores)
    reported = (given >= np.asarray(report)) & (given > 0)
    accepted = reported & (given >= np.asarray(accept))
    place = reported.any(axis=1).astype(np.int64) + accepted.any(axis=1)
    return np.array(VERDICTS, dtype=np.str_)[place]


def judge_units(bad: ArrayLike, verdict: ArrayLike) -> UnitReport:
    """Escapes and over-rejects.

    Args:
        bad: (n,) bool, the truth.
        verdict: (n,) of ``VERDICTS``.

    Raises:
        DataError: The numbers differ, or a verdict is none.
    """
    truth, found = np.asarray(bad, dtype=bool), np.asarray(verdict)
    if truth.shape != found.shape or truth.ndim != 1:
        raise DataError(
            f"expected a truth and a verdict for each unit, found {truth.shape} and {found.shape}"
        )
    unknown = sorted(set(found.tolist()) - set(VERDICTS))
    if unknown:
        raise DataError(f"expected verdicts {', '.join(VERDICTS)}, found {unknown[0]!r}")

    def rate(of: NDArray[np.bool_], what: Verdict) -> Rate:
        return Rate(int(np.sum(of & (found == what))), int(np.sum(of)))

    return UnitReport(
        escape=rate(truth, "pass"),
        over_reject=rate(~truth, "fail"),
        review_bad=rate(truth, "review"),
        review_good=rate(~truth, "review"),
    )


def judge_classes(truth: ArrayLike, found: ArrayLike, classes: Sequence[str]) -> ClassesReport:
    """Purity and accuracy, class by class, and their means with intervals by bootstrap.

    Args:
        truth: (n,) class of each unit, an index into the names.
        found: (n,) the class that it is called, or ``REVIEW``.
        classes: Their names; one may stand for good units.

    Raises:
        DataError: The numbers differ, or a class is outside the list.
    """
    real, called = np.asarray(truth, dtype=np.int64), np.asarray(found, dtype=np.int64)
    if real.shape != called.shape or real.ndim != 1:
        raise DataError(
            f"expected two classes for each unit, found {real.shape} and {called.shape}"
        )
    for role, values, least in (("truth", real, 0), ("found", called, REVIEW)):
        wrong = values[(values < least) | (values >= len(classes))]
        if len(wrong):
            raise DataError(
                f"{role}: expected class ids from {least} to {len(classes) - 1}, found {wrong[0]}"
            )

    def report(k: int) -> ClassReport:
        both = int(np.sum((real == k) & (called == k)))
        review = int(np.sum((real == k) & (called == REVIEW)))
        members = int(np.sum(real == k))
        return ClassReport(
            purity=Rate(both, int(np.sum(called == k))),
            accuracy=Rate(both, members - review),
            review=Rate(review, members),
        )

    # a unit for review belongs to no class in either mean
    decided = called != REVIEW
    return ClassesReport(
        per_class={name: report(k) for k, name in enumerate(classes)},
        purity=bootstrap(_mean_share(called, real, decided, len(classes)), len(real)),
        accuracy=bootstrap(_mean_share(real, called, decided, len(classes)), len(real)),
    )


def _mean_share(
    group: NDArray[np.int64], other: NDArray[np.int64], decided: NDArray[np.bool_], classes: int
) -> Callable[[NDArray[np.intp]], float]:
    """The mean, over the groups that units are in, of the share on which both agree."""

    def mean(units: NDArray[np.intp]) -> float:
        units = units[decided[units]]
        members = np.bincount(group[units], minlength=classes)
        agree = np.bincount(group[units][group[units] == other[units]], minlength=classes)
        return float(np.mean(agree[members > 0] / members[members > 0])) if len(units) else np.nan

    return mean
