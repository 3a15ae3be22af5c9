"""Models that say what an image as a whole shows, and what they have seen that is like it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.errors import ModelError
from semiscope.infer.model import ClassifierMeta, checked_meta, locate, open_model, prepare
from semiscope.infer.open_set import KnownExamples
from semiscope.infer.rewrite import keep_in_file, read_task
from semiscope.types import Pixels

TASK = "classify"
KNOWN_KEY = "semiscope.known"
"""Of a model file's metadata, what it has seen; an entry of its own, as it can be large."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a classifier says of n images.

    Attributes:
        probability: (n, K) float32, summing to 1: the score of each class.
        features: (n, d) float32, what the last layer sees.
    """

    probability: NDArray[np.float32]
    features: NDArray[np.float32]

    def only(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Answers:
        """Those that a boolean or an index array selects."""
        return Answers(self.probability[chosen], self.features[chosen])


class Classifier:
    """A loaded model file that labels images. It may be used from several threads at once.

    Attributes:
        meta: What the file says of itself.
        path: Where the file is.
        known: What it has seen; None where nothing was put into the file (see ``calibrate``).
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Opens a model file.

        Args:
            path: The .onnx file.
            threads: Cores used for one inference; all when None.

        Raises:
            ModelError: No such file, not an ONNX file, or not a classifier of ours.
        """
        self._session, values = open_model(path, threads)
        if values.get("task") != TASK:
            raise ModelError(
                f"{path}: expected a model that labels images, found task "
                f"{values.get('task')!r}. Train one with: semiscope train classify"
            )
        self.meta = checked_meta(ClassifierMeta, values, path)
        self.path = path
        known = self._session.get_modelmeta().custom_metadata_map.get(KNOWN_KEY)
        self.known = None if known is None else KnownExamples.from_text(known, path)
        if self.known is not None and len(self.known.thresholds) != len(self.meta.classes):
            raise ModelError(f"{path}: its known examples are of other classes than its own")

    @staticmethod
    def load(name: str | Path, threads: int | None = None) -> Classifier:
        """A classifier by its name in the zoo or the path of its file.

        Raises:
            ModelError: As ``Classifier``.
        """
        return Classifier(locate(name), threads)

    def card(self) -> dict[str, Any]:
        """What results tell of the model: plain JSON values, with the SHA-256 of its file."""
        card = self.meta.model_dump(mode="json", exclude={"version", "held_out"})
        if self.known is not None:
            card["known_examples"] = len(self.known.names)
        return {**card, "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    def prepare(self, pixels: Pixels) -> NDArray[np.float32]:
        """An image of any size, without its info bar, as (C, height, width) input."""
        return prepare(pixels, self.meta.input).tensor

    def run(
        self,
        images: Sequence[NDArray[np.float32]],
        low: Sequence[NDArray[np.float32] | None] | None = None,
    ) -> Answers:
        """The bare engine on at least one image made ready.

        Args:
            images: From ``prepare``.
            low: For a model of two magnifications, each image's partner of low magnification; None
                where there is none, and for all others.
        """
        inputs = {"images": np.stack(images)}
        if self.meta.two_magnifications:
            partners = [None] * len(images) if low is None else low
            none = np.zeros_like(images[0])
            inputs["images_low"] = np.stack([none if p is None else p for p in partners])
            inputs["has_low"] = np.array([p is not None for p in partners], np.float32)
        logits, features = self._session.run(["logits", "features"], inputs)
        return Answers(_softmax(logits), features)

    def classify(
        self, images: Sequence[Pixels], low: Sequence[Pixels | None] | None = None
    ) -> Answers:
        """What images show, one batch.

        Args:
            images: (H, W) or (H, W, 3) each, any sizes, at least one.
            low: As ``run``.
        """
        partners = None if low is None else [None if p is None else self.prepare(p) for p in low]
        return self.run([self.prepare(p) for p in images], partners)

    def keep(self, known: KnownExamples, **update: Any) -> bool:
        """Puts what the model has seen into its file, unless the model is a shipped one.

        Args:
            known: What it has seen.
            update: Fields of its metadata with their new values.

        Returns:
            Whether it was written.

        Raises:
            ModelError: The file is damaged.
            SemiscopeError: The file cannot be written.
        """
        return keep_in_file(self, {KNOWN_KEY: known.to_text()}, **update)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of (n, K) over the classes."""
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def is_classifier(name: str | Path) -> bool:
    """Whether a model, by its name in the zoo or the path of its file, labels images."""
    return read_task(locate(name)) == TASK
