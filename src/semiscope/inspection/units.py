"""Units under inspection: the package upright, its die's rotation measured, a verdict with reasons.

A unit passes when its package was found, its die is there and turned by no more than the tolerance,
and nothing else was found on it. It fails for what is certain: no die, a defect that needs no
person, a rotation whose whole interval lies beyond the tolerance. All else is for review.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from semiscope.capture.methods import METHODS, Method, PackageSettings
from semiscope.capture.package import Capture, capture
from semiscope.capture.upright import transform_annotations
from semiscope.errors import ModelError
from semiscope.evaluate.inspection import Verdict
from semiscope.inspection.thresholds import Disposition
from semiscope.io.image import read_image
from semiscope.measure.angle import Rotation, corners_in_box, measure_rotation
from semiscope.types import Annotations, Pixels

DIE, PACKAGE = "die", "package"
"""Classes that are no defects."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What was found in one photograph.

    Attributes:
        found: Instances in pixels of the photograph; the measured die has its angle.
        rotation: Of the die against its package; None when it could not be measured.
    """

    found: Annotations
    rotation: Rotation | None


class Units:
    """Finds, measures and judges units for one model."""

    def __init__(
        self,
        method: Method,
        settings: PackageSettings,
        tolerance: float,
        classes: Sequence[str],
        threads: int,
    ) -> None:
        """Makes the finder ready.

        Args:
            method: A name in ``capture.methods.METHODS``.
            settings: How packages are found and cut out.
            tolerance: Largest rotation that passes, degrees.
            classes: The model's.
            threads: Cores for one photograph.

        Raises:
            ModelError: The model does not know dice, or the finder's model cannot be used.
            ImageError: The reference cannot be read.
        """
        if DIE not in classes:
            raise ModelError(
                f"expected a model with the class {DIE!r} to inspect units, found the classes "
                f"{', '.join(classes)}. Leave --capture out, or train one on upright units."
            )
        self._settings = settings
        self._tolerance = tolerance
        self._classes = classes
        self._die = classes.index(DIE)
        self._finder = METHODS[method](settings, threads)
        self._reference = None
        if settings.reference is not None:
            self._reference = read_image(settings.reference).specimen

    def capture(self, photo: Pixels) -> Capture:
        """The package upright, or the reason why not."""
        return capture(photo, self._finder, self._settings, self._reference)

    def measure(self, captured: Capture, photo: Pixels, found: Annotations) -> Unit:
        """Takes what was found in the crop into the photograph and measures the best die.

        Args:
            captured: With ``upright``.
            photo: (H, W) or (H, W, 3).
            found: Instances in pixels of the crop.
        """
        upright = captured.upright
        assert upright is not None
        rotation = None
        angles = np.full(len(found), np.nan, np.float32)
        dice = np.flatnonzero(found.class_id == self._die)
        if len(dice):
            best = dice[np.argmax(found.score[dice])]
            rotation = measure_rotation(
                upright.pixels,
                corners_in_box(upright.pixels, found.xyxy[best]),
                photo=photo,
                homography=upright.homography,
            )
            if rotation is not None:
                angles[best] = rotation.angle_deg
        moved = transform_annotations(
            replace(found, angle_deg=angles),
            np.linalg.inv(upright.homography).astype(np.float64),
            *photo.shape[:2],
            turn_angles=False,
        )
        return Unit(moved, rotation)

    def judge(
        self, reported: Annotations, dispositions: Sequence[Disposition], rotation: Rotation | None
    ) -> tuple[Verdict, list[str]]:
        """The verdict on a unit whose package was found, and its reasons, the worst first.

        Args:
            reported: The instances that are reported.
            dispositions: What becomes of each.
            rotation: The die's, if it was measured.
        """
        fails, reviews = [], []
        dice = int(np.count_nonzero(reported.class_id == self._die))
        if not dice:
            fails.append("no die")
        elif dice > 1:
            reviews.append("several dice")
        elif rotation is None:
            reviews.append("the die's rotation cannot be measured")
        else:
            ends = abs(rotation.low), abs(rotation.high)
            least = 0.0 if rotation.low <= 0 <= rotation.high else min(ends)
            told = f"die turned by {rotation.angle_deg:.2f} degrees"
            if least > self._tolerance:
                fails.append(told)
            elif max(ends) > self._tolerance:
                reviews.append(f"{told}, too near the tolerance to tell")
        for index, name in enumerate(self._classes):
            if name in (DIE, PACKAGE):
                continue
            of_class = {
                d for c, d in zip(reported.class_id, dispositions, strict=True) if c == index
            }
            if "accept" in of_class:
                fails.append(name)
            elif of_class:
                reviews.append(f"{name}, unsure")
        return ("fail" if fails else "review" if reviews else "pass"), fails + reviews
