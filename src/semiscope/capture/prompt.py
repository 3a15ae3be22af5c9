"""Packages found by a prompt: a detector's box, a promptable model's mask, the mask's corners.

Wong, *Die defect detection for integrated circuit* (2023), section 3.3.2.3, there with SAM. Beyond
the paper, without a detector the photograph's middle is the prompt: the camera is aimed at it. The
shipped promptable model was adapted to cross-sections; MobileSAM and SAM can be exported.
"""

from __future__ import annotations

import cv2
import numpy as np
from pydantic import Field

from semiscope.capture.outline import mask_corners
from semiscope.capture.package import Candidate, Finder
from semiscope.config import Settings
from semiscope.errors import ModelError
from semiscope.infer.model import Model
from semiscope.infer.promptable import Promptable
from semiscope.types import Pixels

METHOD = "prompt"


class PromptSettings(Settings):
    """The models that find a package by a prompt."""

    model: str = Field(
        "cross-sections-prompt", description="Promptable model: a name in the zoo or a file"
    )
    detector: str = Field(
        "ic-package-seg",
        description="Model whose boxes are the prompts: a name in the zoo or a file; when empty, "
        "the photograph's middle is the prompt",
    )
    package_class: str = Field("package", description="The detector's class of packages")


def prompt_finder(settings: PromptSettings, threads: int | None = None) -> Finder:
    """A finder that holds its models; it may be used from several threads at once.

    Args:
        settings: Which models.
        threads: Cores used for one photograph; all when None.

    Raises:
        ModelError: There is no such model, or the detector does not know packages.
    """
    promptable = Promptable.load(settings.model, threads)
    if not settings.detector:
        return lambda pixels: _by_middle(promptable, pixels)
    detector = Model.load(settings.detector, threads)
    if settings.package_class not in detector.meta.classes:
        known = ", ".join(detector.meta.classes)
        raise ModelError(
            f"{settings.detector}: expected a model that finds the class "
            f"{settings.package_class!r}, found one with classes {known}"
        )
    wanted = detector.meta.classes.index(settings.package_class)
    return lambda pixels: _by_boxes(promptable, detector, wanted, pixels)


def _by_boxes(
    promptable: Promptable, detector: Model, wanted: int, pixels: Pixels
) -> list[Candidate]:
    """One candidate for each box that holds a quadrilateral, by falling score."""
    found = detector.predict([pixels])[0]
    found = found[found.class_id == wanted]
    if not len(found):
        return []  # the encoder is the slow part
    masks, claimed = promptable.decode(promptable.encode(pixels), boxes=found.xyxy)
    candidates = []
    for mask, score in zip(masks, found.score * claimed, strict=True):
        corners = mask_corners(mask)
        if corners is not None:
            candidates.append(Candidate(corners, float(score), METHOD))
    return sorted(candidates, key=lambda c: -c.score)


def _by_middle(promptable: Promptable, pixels: Pixels) -> list[Candidate]:
    """The largest quadrilateral among the masks for a point in the middle.

    A point on the die means the die as well as the package around it; the package is the larger.
    """
    height, width = pixels.shape[:2]
    embedding = promptable.encode(pixels)
    logits, claimed = promptable.logits(embedding, points=[[[width / 2, height / 2]]])
    candidates = []
    for one, score in zip(logits[0, 1:], claimed[0, 1:], strict=True):
        corners = mask_corners(promptable.enlarge(one, embedding) > 0)
        if corners is not None:
            candidates.append(Candidate(corners, float(np.clip(score, 0, 1)), METHOD))
    return sorted(candidates, key=lambda c: -cv2.contourArea(c.corners.astype(np.float32)))[:1]
