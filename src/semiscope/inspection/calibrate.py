"""Thresholds that keep escapes below a bound, chosen on labelled images that were held out.

A unit is an image. A class of defects escapes where an image shows one and none of that class is
reported, wherever on it; it is over-rejected where it is reported on an image that shows none. A
bad unit escapes when nothing at all is reported on it, which is never more often than its classes
do.

Report threshold: of the images that show a class, each has a highest score of it. Left out below
the (m + 1)-th lowest of these, m images escape. With m the most at which the exact upper limit at
95 % of m among n images is within the bound, the share that will escape is within the bound at that
confidence, whatever the scores' distribution (Wilks 1941, tolerance limits: the choice of m does
not look at the scores). The highest such score costs the fewest over-rejects; the threshold lies
halfway down to the next image without the class, which costs no more and lets fewer escape. Where
the images are too few for that, the bound is only kept on these images, and the report says how
much they show. Accept threshold: likewise from the other side, for the images without the class
that would fail without anyone looking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.errors import DataError, SettingsError
from semiscope.evaluate.inspection import judge_units, verdicts
from semiscope.evaluate.intervals import Rate, most_below, units_needed, upper_limit
from semiscope.infer.model import ClassThreshold, Meta, Model
from semiscope.infer.tiled import detect
from semiscope.inspection.escape_curve import UNITS, Curve, class_curve, unit_curve
from semiscope.inspection.score import WHOLE_CURVE, labelled, read_each
from semiscope.types import Annotations

Floats = NDArray[np.float64]

_DIGITS = 6  # decimals of a threshold
_STEP = 10.0**-_DIGITS


class CalibrateSettings(Settings):
    """What escapes may cost, on which images."""

    model: str = Field(description="A model's .onnx file, or its name in the zoo")
    data: Path = Field(description="Data set with boxes or outlines, held out from training")
    split: str = Field("val", description="Which part, where the data set has parts; never test")
    max_escape: float = Field(
        0.01, gt=0, lt=1, description="Part of the images with a defect on which it may be missed"
    )
    max_over_reject: float = Field(
        0.01, gt=0, lt=1, description="Part of the images without it that may fail unreviewed"
    )
    defects: tuple[str, ...] = Field(
        (), description="Classes that make a unit bad; all of the model's when not given"
    )
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What thresholds do on the images, of one class or, over all classes, of units.

    Attributes:
        escape: Images that show the class on which it is not reported; bad units that pass.
        over_reject: Images that do not show it on which it is reported; good units that do not
            pass.
        unreviewed: Those of them on which it is accepted; good units that fail with no one looking.
    """

    escape: Rate
    over_reject: Rate
    unreviewed: Rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name).to_dict() for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class ClassCalibration:
    """The thresholds of one class.

    Attributes:
        report: Below this score a detection is left out.
        accept: From this score on it needs no review.
        outcome: What they do on the images.
        escape_limit: Upper limit at 95 % of the share that will escape.
        problem: Why the bound is not shown, or cannot be kept; "" when it is shown.
        kept: Whether the thresholds are as they were, for want of images or because no threshold
            keeps the bound.
    """

    report: float
    accept: float
    outcome: Outcome
    escape_limit: float
    problem: str
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "report": self.report,
            "accept": self.accept,
            **self.outcome.to_dict(),
            "escape_limit": self.escape_limit,
            "problem": self.problem,
            "kept": self.kept,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Thresholds under a bound on escapes.

    Attributes:
        settings: How they were chosen.
        classes: By class of defects.
        before: What the thresholds that the file had do to the units.
        after: What the new ones do to them, which flatters: they were chosen on these.
        left_out: What thresholds do to a unit that are chosen on all others, which does not.
        curves: By class, and of the units.
        failed: File and reason of the images that could not be read.
    """

    settings: CalibrateSettings
    classes: dict[str, ClassCalibration]
    before: Outcome
    after: Outcome
    left_out: Outcome
    curves: dict[str, Curve]
    failed: tuple[tuple[str, str], ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each class whose bound is not shown."""
        return tuple(f"{name}: {c.problem}" for name, c in self.classes.items() if c.problem)

    def thresholds(self, meta: Meta) -> dict[str, ClassThreshold]:
        """All thresholds of a model, with the new ones in place."""
        chosen = {
            name: ClassThreshold(report=c.report, accept=c.accept)
            for name, c in self.classes.items()
            if not c.kept
        }
        return {**meta.thresholds, **chosen}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        curve = zip(self.curves[UNITS].over_reject, self.curves[UNITS].escape, strict=True)
        return {
            "max_escape": self.settings.max_escape,
            "max_over_reject": self.settings.max_over_reject,
            "classes": {name: c.to_dict() for name, c in self.classes.items()},
            "units": {
                name: getattr(self, name).to_dict() for name in ("before", "after", "left_out")
            },
            "curve": [{"over_reject": _plain(o), "escape": _plain(e)} for o, e in curve],
            "problems": list(self.problems),
            "failed": [{"file": file, "reason": reason} for file, reason in self.failed],
        }


def calibrate(
    settings: CalibrateSettings, progress: Callable[[int, int], None] | None = None
) -> Calibration:
    """Chooses a model's thresholds on labelled images.

    Args:
        settings: Which model on what, within which bounds.
        progress: Called after each image with how many are done and how many there are.

    Raises:
        SettingsError: The images are the test split, or a class of defects is unknown.
        DataError: There is no such split, no image with boxes, or none with a defect.
        ModelError: The model cannot be used, or does not know a class of the data set.
    """
    if settings.split == "test":
        raise SettingsError(
            "thresholds are never chosen on the test split, whose figures would then flatter; give "
            "--split val, or a folder of other labelled images"
        )
    model = Model.load(settings.model, settings.threads)
    meta = model.meta
    defects = settings.defects or meta.classes
    unknown = [name for name in defects if name not in meta.classes]
    if unknown:
        raise SettingsError(
            f"--defects: expected classes of {meta.name} ({', '.join(meta.classes)}), found "
            f"{', '.join(unknown)}"
        )
    samples = labelled(meta, settings.data, (settings.split,))
    others = sorted({s.split for s in samples} - {settings.split, ""})
    if others:
        raise DataError(
            f"{settings.data}: expected a split {settings.split!r}, or no splits, found "
            f"{', '.join(others)}; put images that the model was not trained on into it"
        )
    truth: list[NDArray[np.bool_]] = []
    scores: list[Floats] = []
    failed: list[tuple[str, str]] = []
    for labels, image in read_each(samples, failed, progress):
        found = detect(model, image.specimen, WHOLE_CURVE)
        truth.append(np.bincount(labels.class_id, minlength=len(meta.classes)) > 0)
        scores.append(highest_scores(found, len(meta.classes)))
    chosen = [meta.classes.index(name) for name in defects]
    shown = np.array(truth, bool).reshape(-1, len(meta.classes))[:, chosen]
    if not shown.any():
        raise DataError(f"{settings.data}: expected images that show {', '.join(defects)}, found 0")
    had = [meta.thresholds.get(name, ClassThreshold()) for name in defects]
    return choose(settings, defects, had, shown, np.array(scores)[:, chosen], tuple(failed))


def highest_scores(found: Annotations, classes: int) -> Floats:
    """(classes,) the highest score of each class in an image; 0 for none."""
    highest = np.zeros(classes)
    np.maximum.at(highest, found.class_id, found.score.astype(np.float64))
    return highest


def choose(
    settings: CalibrateSettings,
    defects: Sequence[str],
    had: Sequence[ClassThreshold],
    truth: NDArray[np.bool_],
    scores: Floats,
    failed: tuple[tuple[str, str], ...] = (),
) -> Calibration:
    """Thresholds from what images show and what was found on them.

    Args:
        settings: The bounds.
        defects: Names of the K classes of defects.
        had: Their thresholds as they were.
        truth: (n, K) whether an image shows a class.
        scores: (n, K) the highest score of a class on an image; 0 for none.
        failed: Images that could not be read, to be told.
    """
    classes = {
        name: _of_class(settings, had[k], scores[truth[:, k], k], scores[~truth[:, k], k])
        for k, name in enumerate(defects)
    }
    bad = truth.any(axis=1)

    def units(report: ArrayLike, accept: ArrayLike) -> Outcome:
        found = judge_units(bad, verdicts(scores, report, accept))
        rejected = found.over_reject.count + found.review_good.count
        return Outcome(
            found.escape, Rate(rejected, found.over_reject.of), unreviewed=found.over_reject
        )

    curves = {
        name: class_curve(scores[truth[:, k], k], scores[~truth[:, k], k])
        for k, name in enumerate(defects)
    }
    return Calibration(
        settings=settings,
        classes=classes,
        before=units([c.report for c in had], [c.accept for c in had]),
        after=units([c.report for c in classes.values()], [c.accept for c in classes.values()]),
        left_out=units(*_left_out(settings, had, truth, scores)),
        curves={**curves, UNITS: unit_curve(truth, scores)},
        failed=failed,
    )


def _of_class(
    settings: CalibrateSettings, had: ClassThreshold, with_it: Floats, without: Floats
) -> ClassCalibration:
    """One class, from the highest scores on the images that show it and on those that do not."""
    bound, problem = settings.max_escape, ""
    cuts = _cuts(settings, had, np.sort(with_it), np.sort(without))
    kept = cuts is None
    report, accept = cuts or (had.report, had.accept)
    found, wrong = with_it[with_it > 0], without[without > 0]
    outcome = Outcome(
        escape=Rate(len(with_it) - int(np.sum(found >= report)), len(with_it)),
        over_reject=Rate(int(np.sum(wrong >= report)), len(without)),
        unreviewed=Rate(int(np.sum(wrong >= accept)), len(without)),
    )
    may_escape = _allowed(bound, len(with_it))
    limit = upper_limit(outcome.escape.count if kept else may_escape, len(with_it))
    if not len(with_it):
        problem = "no image shows it; its thresholds stay as they were"
    elif kept:
        problem = (
            f"{int(np.sum(with_it == 0))} of {len(with_it)} images that show it have no detection "
            f"of it at all, so no threshold keeps escapes below {bound:.2g}; its thresholds stay "
            "as they were"
        )
    elif limit > bound:
        problem = (
            f"{len(with_it)} images that show it are too few to show {bound:.2g}: where as many "
            f"escape as here it may be up to {limit:.2g} (95 %); it takes "
            f"{units_needed(bound)} without an escape"
        )
    return ClassCalibration(report, accept, outcome, limit, problem, kept)


def _cuts(
    settings: CalibrateSettings, had: ClassThreshold, with_it: Floats, without: Floats
) -> tuple[float, float] | None:
    """Report and accept threshold of a class; None where no threshold keeps the bound.

    Args:
        settings: The bounds.
        had: The thresholds as they were.
        with_it: Highest scores, rising, on the images that show the class; 0 for no detection.
        without: Likewise on the others.
    """
    if not len(with_it):
        return None
    report = float(with_it[_allowed(settings.max_escape, len(with_it))])
    if report == 0:
        return None  # more images than may escape have no detection at all
    if len(without):
        place = int(np.searchsorted(without, report))
        report = (report + (float(without[place - 1]) if place else 0.0)) / 2
    accept = had.accept
    if len(without):
        may_fail = _allowed(settings.max_over_reject, len(without))
        accept = min(1.0, round(float(without[-1 - may_fail]) + _STEP, _DIGITS))
    # rounded down, so that rounding lets nothing escape
    report = math.floor(report / _STEP) * _STEP
    return round(report, _DIGITS), max(accept, round(report, _DIGITS))


def _left_out(
    settings: CalibrateSettings,
    had: Sequence[ClassThreshold],
    truth: NDArray[np.bool_],
    scores: Floats,
) -> tuple[Floats, Floats]:
    """(n, K) report and accept thresholds that each image gets from all others."""
    chosen = np.empty((2, *scores.shape))
    for k, cut in enumerate(had):
        order = np.argsort(scores[:, k])
        shows = truth[order, k]
        ranked = scores[order, k]
        for i, image in enumerate(order):
            stays = np.arange(len(order)) != i
            with_it, without = ranked[stays & shows], ranked[stays & ~shows]
            chosen[:, image, k] = _cuts(settings, cut, with_it, without) or (cut.report, cut.accept)
    return chosen[0], chosen[1]


@lru_cache(maxsize=64)
def _allowed(bound: float, images: int) -> int:
    """How many of the images may go wrong: so that the bound is shown, else so that it is kept."""
    most = most_below(bound, images)
    return most if most >= 0 else int(bound * images)


def _plain(share: float) -> float | None:
    return None if math.isnan(share) else float(share)
