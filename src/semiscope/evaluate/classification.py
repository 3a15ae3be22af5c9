"""How good the labels of images are, in the figures that a fab judges a classifier by.

Purity, accuracy and share by class; Cohen's kappa (1960); what is classified without a person and
how pure that is; escapes and over-rejects; how far scores can be believed (Guo et al. 2017); and,
for a model that knows what it does not know, how much of what it never saw it puts aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.evaluate.intervals import Interval, Rate, bootstrap

UNSEEN = -1
"""In place of a class: the image is of a class that the model never saw."""
BINS = 15
"""Of the scores, in calibration error and reliability."""
_STEP = 1e-6
_CURVE_POINTS = 200

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class. An image sent to unknown is called nothing.

    Attributes:
        accuracy: Images called so, of those of the class (recall).
        purity: Images of the class, of those called so (precision).
        share: Images called so, of all: what the class contributes.
        automatic: Images called so and accepted, of those called so.
        automatic_purity: Images of the class, of those called so and accepted.
    """

    accuracy: Rate
    purity: Rate
    share: Rate
    automatic: Rate
    automatic_purity: Rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name).to_dict() for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Bin:
    """The images whose score lies in one part of [0, 1]; score and accuracy are their means."""

    low: float
    high: float
    images: int
    score: float | None
    accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationReport:
    """All figures of a set of images.

    ``accuracy`` to ``calibration_error`` ask for the label of every image whose class the model
    knows, also where it would put the image aside; all others count what it does with it.

    Attributes:
        images: Number of images.
        accuracy: Images that are called what they are.
        balanced_accuracy: Mean of that over the classes.
        kappa: Agreement beyond chance (Cohen 1960).
        calibration_error: Expected difference of score and accuracy over ``BINS`` bins of the
            score (Guo et al. 2017, equation 3); None without an image.
        reliability: Those bins.
        per_class: By class name.
        automatic: Images accepted, of all: those that no person needs to see.
        automatic_purity: Images called what they are, of those accepted.
        escape: Images of a defect that are called clean, of all of a defect.
        over_reject: Clean images that are called a defect, of all clean ones.
        automatic_escape: As ``escape``, where they are accepted too.
        automatic_over_reject: As ``over_reject``, where they are accepted too.
        unseen_found: Images sent to unknown, of those of classes that the model never saw.
        known_refused: Images sent to unknown, of those of classes that it knows.
        confusion: (K + 1, K + 1) images: row the truth, column what they are called; the last row
            is for classes that the model never saw, the last column for unknown.
        unseen: Images of each class that the model never saw, by its name.
        curve: Shares of the images, the surest first, and how pure these are (``automatic_curve``).
    """

    images: int
    accuracy: Interval
    balanced_accuracy: Interval
    kappa: Interval
    calibration_error: float | None
    reliability: tuple[Bin, ...]
    per_class: dict[str, ClassFigures]
    automatic: Rate
    automatic_purity: Rate
    escape: Rate
    over_reject: Rate
    automatic_escape: Rate
    automatic_over_reject: Rate
    unseen_found: Rate
    known_refused: Rate
    confusion: Ints
    unseen: dict[str, int]
    curve: tuple[Floats, Floats]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = {name: getattr(self, name) for name in self.__slots__}
        plain: dict[str, Any] = {
            name: value.to_dict() if isinstance(value, (Interval, Rate)) else value
            for name, value in figures.items()
        }
        plain["per_class"] = {name: f.to_dict() for name, f in self.per_class.items()}
        plain["reliability"] = [b.to_dict() for b in self.reliability]
        plain["confusion"] = self.confusion.tolist()
        every = -(-max(self.images, 1) // _CURVE_POINTS)
        # from the end, so that the figure of all images is told whatever their number
        shares, purities = (values[::-1][::every][::-1].tolist() for values in self.curve)
        plain["curve"] = [{"share": s, "purity": p} for s, p in zip(shares, purities, strict=True)]
        return plain


def classification_report(
    truth: Ints,
    probability: NDArray[Any],
    classes: Sequence[str],
    *,
    clean: Sequence[str] = (),
    unknown: Bools | None = None,
    accepted: Bools | None = None,
    unseen: Mapping[str, int] | None = None,
) -> ClassificationReport:
    """Figures of a classifier's answers.

    Args:
        truth: (n,) class indices; ``UNSEEN`` for an image of none of the classes.
        probability: (n, K) scores in [0, 1], summing to 1.
        classes: K names.
        clean: Those that mean no defect; without any there is neither escape nor over-reject.
        unknown: (n,) images that the model puts aside as none of its classes; none by default.
        accepted: (n,) images whose label needs no person; one sent to unknown is never accepted.
        unseen: To be told: how many images are of each class that the model never saw.

    Raises:
        ValueError: A true class is none of the classes, or the arrays do not fit each other.
    """
    kinds, images = len(classes), len(truth)
    if probability.shape != (images, kinds):
        raise ValueError(f"expected {(images, kinds)} probabilities, found {probability.shape}")
    if images and not UNSEEN <= truth.min() <= truth.max() < kinds:
        raise ValueError(f"expected true classes of {UNSEEN} to {kinds - 1}, found others")
    nothing = np.zeros(images, bool)
    aside = nothing if unknown is None else unknown
    sure = nothing if accepted is None else accepted & ~aside
    label = probability.argmax(axis=1)
    called = np.where(aside, kinds, label)
    known = truth != UNSEEN
    counts = np.zeros((kinds + 1, kinds + 1), np.int64)
    np.add.at(counts, (np.where(known, truth, kinds), called), 1)
    is_clean = np.append(np.isin(classes, list(clean)), False)
    truly_clean = is_clean[np.where(known, truth, kinds)]
    passed = is_clean[called]
    failed = ~passed & (called < kinds)

    def among(what: Bools, where: Bools) -> Rate:
        return Rate(int(np.count_nonzero(what & where)), int(np.count_nonzero(where)))

    def of_class(k: int) -> ClassFigures:
        mine, so = truth == k, called == k
        return ClassFigures(
            accuracy=among(so, mine),
            purity=among(mine, so),
            share=among(so, ~nothing),
            automatic=among(sure, so),
            automatic_purity=among(mine, so & sure),
        )

    # without a clean class every image would be a defect that cannot be called clean
    judged = ~nothing if is_clean.any() else nothing
    bins, error = reliability(truth[known], probability[known])

    def agreement(of: Callable[[Ints], float]) -> Interval:
        mine, so = truth[known], label[known]
        return bootstrap(lambda drawn: of(confusion(mine[drawn], so[drawn], kinds)), len(mine))

    return ClassificationReport(
        images,
        accuracy=agreement(accuracy),
        balanced_accuracy=agreement(balanced_accuracy),
        kappa=agreement(kappa),
        calibration_error=error,
        reliability=bins,
        per_class={name: of_class(k) for k, name in enumerate(classes)},
        automatic=among(sure, ~nothing),
        automatic_purity=among(truth == label, sure),
        escape=among(passed, judged & ~truly_clean),
        over_reject=among(failed, judged & truly_clean),
        automatic_escape=among(passed & sure, judged & ~truly_clean),
        automatic_over_reject=among(failed & sure, judged & truly_clean),
        unseen_found=among(aside, ~known),
        known_refused=among(aside, known),
        confusion=counts,
        unseen=dict(unseen or {}),
        curve=automatic_curve(truth, probability),
    )


def confusion(truth: Ints, label: Ints, classes: int) -> Ints:
    """(classes, classes) images: row the truth, column what they are called."""
    counts = np.bincount(truth * classes + label, minlength=classes**2)
    return counts.reshape(classes, classes)


def accuracy(counts: Ints) -> float:
    """Share of the images on the diagonal of a ``confusion``; NaN of none."""
    total = counts.sum()
    return float(counts.trace() / total) if total else float("nan")


def balanced_accuracy(counts: Ints) -> float:
    """Mean over the classes that truth has of the share called so; NaN of none."""
    of = counts.sum(axis=1)
    return float((counts.diagonal()[of > 0] / of[of > 0]).mean()) if of.any() else float("nan")


def kappa(counts: Ints) -> float:
    """Agreement beyond chance: (observed - expected) / (1 - expected), Cohen 1960.

    NaN where chance alone must agree: without an image, or with one class in truth and labels.
    """
    total = counts.sum()
    if not total:
        return float("nan")
    expected = float(counts.sum(axis=1) @ counts.sum(axis=0)) / float(total) ** 2
    return (accuracy(counts) - expected) / (1 - expected) if expected < 1 else float("nan")


def reliability(truth: Ints, probability: NDArray[Any]) -> tuple[tuple[Bin, ...], float | None]:
    """Whether of the images with a score of 0.8 eight in ten are what they are called.

    Args:
        truth: (n,) class indices.
        probability: (n, K) scores.

    Returns:
        ``BINS`` equal parts of [0, 1], and the expected calibration error: the difference of mean
        score and accuracy, weighted by the images of a bin; None without any.
    """
    score = probability.max(axis=1).astype(np.float64) if len(truth) else np.zeros(0)
    right = probability.argmax(axis=1) == truth if len(truth) else np.zeros(0, bool)
    # a score on an edge belongs to the bin below it, as in the paper
    place = np.clip(np.ceil(score * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count, scores, rights = (
        np.bincount(place, weights, BINS) for weights in (None, score, right.astype(np.float64))
    )
    bins = tuple(
        Bin(
            b / BINS,
            (b + 1) / BINS,
            int(count[b]),
            float(scores[b] / count[b]) if count[b] else None,
            float(rights[b] / count[b]) if count[b] else None,
        )
        for b in range(BINS)
    )
    return bins, float(np.abs(scores - rights).sum() / len(truth)) if len(truth) else None


def accept_thresholds(truth: Ints, probability: NDArray[Any], purity: float) -> Floats:
    """The scores from which on labels need no person, chosen on images that were held out.

    A class is accepted from the lowest score on from which as many of the images called so belong
    to it as the bound asks. Few images of a class show little, so none is accepted below the score
    that keeps the bound over all classes together.

    Args:
        truth: (n,) class indices; ``UNSEEN`` counts as wrong.
        probability: (n, K) scores.
        purity: The bound, in (0, 1].

    Returns:
        (K,) scores; infinity for a class that no score keeps pure enough, or that no image is
        called.
    """
    kinds = probability.shape[1]
    if not len(truth):
        return np.full(kinds, np.inf)
    label = probability.argmax(axis=1)
    score, right = probability.max(axis=1).astype(np.float64), label == truth
    least = _lowest_pure(score, right, purity)
    own = [_lowest_pure(score[label == k], right[label == k], purity) for k in range(kinds)]
    return np.maximum(own, least)


def _lowest_pure(score: Floats, right: Bools, purity: float) -> float:
    """The lowest score from which on a share of the images are right; infinity if there is none."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # images of one score are accepted together
    last = np.append(ranked[1:] < ranked[:-1], True)[: len(order)]
    pure = np.flatnonzero(last & (share >= purity))
    # rounded down, so that the image itself is accepted whatever its score's last bits
    return float(np.floor(ranked[pure[-1]] / _STEP) * _STEP) if len(pure) else float("inf")


def automatic_curve(truth: Ints, probability: NDArray[Any]) -> tuple[Floats, Floats]:
    """How pure the surest images are, whatever share of them is taken.

    Args:
        truth: (n,) class indices.
        probability: (n, K) scores.

    Returns:
        (n,) shares 1 / n to 1 of the images, the surest first, and (n,) the purity of each.
    """
    order = np.argsort(-probability.max(axis=1), kind="stable")
    right = (probability.argmax(axis=1) == truth)[order]
    taken = np.arange(1, len(truth) + 1)
    return taken / len(truth), np.cumsum(right) / taken


def suspected_errors(truth: Ints, probability: NDArray[Any]) -> NDArray[np.intp]:
    """Images whose label may be wrong: confident learning (Northcutt et al. 2021, section 3.1).

    An image counts as of the class whose probability is at least the mean that images labelled so
    have of it; the likeliest of these where there are several. Where that is another class than the
    label says, and the image is called so too, the label is suspected.

    Args:
        truth: (n,) class indices; those of ``UNSEEN`` are left out.
        probability: (n, K) scores of a model that was not trained on these images.

    Returns:
        Places, those first whose two probabilities lie furthest apart.
    """
    rows = np.flatnonzero(truth != UNSEEN)
    of, score = truth[rows], probability[rows].astype(np.float64)
    kinds = probability.shape[1]
    count = np.bincount(of, minlength=kinds)
    own = score[np.arange(len(of)), of]
    least = np.where(count > 0, np.bincount(of, own, kinds) / np.maximum(count, 1), np.inf)
    sure = np.where(score >= least, score, -1.0)
    likely = sure.argmax(axis=1)
    wrong = (sure.max(axis=1, initial=-1) >= 0) & (likely != of) & (likely == score.argmax(axis=1))
    apart = score[np.arange(len(of)), likely] - own
    order = np.argsort(-apart, kind="stable")
    suspected: NDArray[np.intp] = rows[order[wrong[order]]]
    return suspected
