"""Several models as one: each looks at the image, and what they find is fused class by class."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.errors import ModelError
from semiscope.fusion import fuse_boxes
from semiscope.infer.decoders import DiffusionDecoder, refuse_dial
from semiscope.infer.model import (
    ClassThreshold,
    Meta,
    Model,
    ModelMeta,
    Prepared,
    locate,
    shipped_models,
)
from semiscope.infer.predictor import Predictor
from semiscope.infer.sampling import Dial
from semiscope.tiling import Tile
from semiscope.types import Annotations, Pixels

LEAST_TRUST = 0.01
"""An AP of 0 weighs as this one, so that what a class's only model finds is not lost."""
_ASKED_FROM = 0.001
"""What the members tell before fusion: all that counts for COCO's AP. It does not follow the score
asked of the ensemble, so that a fused score does not depend on where the report begins."""

Ready = tuple[Prepared, ...]
"""An image ready for each member."""
Raw = list[list[NDArray[np.float32]]]
"""Each member's raw output."""


def load(name: str | Path, threads: int | None = None) -> Predictor[Any, Any]:
    """A model, or several joined by ``+`` as an ensemble.

    Args:
        name: Names in the zoo or paths of files. A file whose own name has a + in it wins over its
            parts.
        threads: Cores used for one inference; all when None.

    Raises:
        ModelError: As ``Model``, or as ``Ensemble``.
    """
    names = _names(str(name))
    if len(names) == 1:
        return Model.load(name, threads)
    missing = [n for n in names if not locate(n).is_file()]
    if missing:
        raise ModelError(
            f"{name}: expected models joined by +, found none named "
            f"{', '.join(map(repr, missing))}. {shipped_models()}"
        )
    return Ensemble([Model.load(n, threads) for n in names])


def _names(name: str) -> list[str]:
    """Cut at the + signs, from the left as far as a model of that name goes."""
    pieces = name.split("+")
    names: list[str] = []
    while pieces:
        joined = ["+".join(pieces[: i + 1]) for i in range(len(pieces))]
        end = max((i for i, n in enumerate(joined) if locate(n).is_file()), default=0)
        names.append(joined[end])
        del pieces[: end + 1]
    return names


class Ensemble:
    """Models whose detections are fused by weighted box fusion with mask voting.

    A model weighs in a class as its AP there on its own held-out data (``ModelMeta.class_ap``);
    without that figure, as the mean of the others.

    Attributes:
        members: The models.
        meta: Classes are all that any member knows, in the order in which they are first met; the
            field is the smallest; a threshold is the mean of the members' own, weighted likewise.
    """

    def __init__(self, members: Sequence[Model]) -> None:
        """Puts models together.

        Args:
            members: Two or more. Their classes may come in any order, and one may lack some of
                them: such a class is fused from the models that know it.

        Raises:
            ModelError: A model shares no class with any other.
        """
        metas = [m.meta for m in members]
        for i, meta in enumerate(metas):
            others = {c for m in [*metas[:i], *metas[i + 1 :]] for c in m.classes}
            if others.isdisjoint(meta.classes):
                raise ModelError(
                    f"{'+'.join(m.name for m in metas)}: expected models of the same classes, "
                    f"found {meta.name} for {', '.join(meta.classes)} and the others for "
                    f"{', '.join(sorted(others))}. Use {meta.name} on its own."
                )
        classes = tuple(dict.fromkeys(c for m in metas for c in m.classes))
        self.members = tuple(members)
        self._trust = _trust(metas, classes)
        self._number = [np.array([classes.index(c) for c in m.classes], np.int64) for m in metas]
        self.meta = Meta(
            name="+".join(m.name for m in metas),
            task="segment" if any(m.task == "segment" for m in metas) else "detect",
            classes=classes,
            field_height=min(m.field_height for m in metas),
            field_width=min(m.field_width for m in metas),
            thresholds=_thresholds(metas, classes, self._trust),
        )

    def card(self) -> dict[str, Any]:
        """The ensemble's, and under ``members`` each model's with its trust by class."""
        cards = [m.card() for m in self.members]
        for card, trust in zip(cards, self._trust.tolist(), strict=True):
            own = zip(self.meta.classes, trust, strict=True)
            card["trust"] = {c: round(t, 4) for c, t in own if t > 0}
        joined = "+".join(c["sha256"] for c in cards)
        return {**self.meta.model_dump(mode="json"), "sha256": joined, "members": cards}

    def dialled(self, dial: Dial) -> Ensemble:
        """The same with other random boxes in those members that have any.

        Raises:
            SettingsError: A dial is set and none is a diffusion model.
        """
        dials = [isinstance(m.meta.decoder, DiffusionDecoder) for m in self.members]
        if not any(dials):
            refuse_dial(dial)
        other = copy.copy(self)
        other.members = tuple(
            m.dialled(dial) if has else m for m, has in zip(self.members, dials, strict=True)
        )
        return other

    def prepare_tiles(self, pixels: Pixels, cut: Sequence[Tile]) -> list[Ready]:
        """As ``Model.prepare_tiles``, for each member."""
        return list(zip(*(m.prepare_tiles(pixels, cut) for m in self.members), strict=True))

    def run(self, batch: Sequence[Ready]) -> Raw:
        """The members' engines, one after another."""
        return [m.run(own) for m, own in zip(self.members, zip(*batch, strict=True), strict=True)]

    def decode(
        self,
        raw: Raw,
        prepared: Sequence[Ready],
        sizes: Sequence[tuple[int, int]],
        min_score: float | None = None,
    ) -> list[Annotations]:
        """As ``Model.decode``, fused."""
        found = [
            member.decode(own, ready, sizes, _ASKED_FROM)
            for member, own, ready in zip(
                self.members, raw, zip(*prepared, strict=True), strict=True
            )
        ]
        report = self.meta.report_from(min_score)
        results = []
        for parts in zip(*found, strict=True):
            numbered = [
                replace(part, class_id=number[part.class_id])
                for part, number in zip(parts, self._number, strict=True)
            ]
            fused = fuse_boxes(numbered, self._trust)
            results.append(fused[fused.score >= report[fused.class_id]])
        return results


def _trust(metas: Sequence[ModelMeta], classes: Sequence[str]) -> NDArray[np.float64]:
    """(T, K) AP by model and class; 0 where the model does not know the class."""
    ap = np.array([[m.class_ap.get(c, np.nan) for c in classes] for m in metas])
    said = np.isfinite(ap)
    mean = np.where(said, ap, 0).sum(0) / np.maximum(said.sum(0), 1)
    trust = np.where(said, ap, np.where(said.any(0), mean, 1))
    known = np.array([[c in m.classes for c in classes] for m in metas])
    return np.where(known, np.maximum(trust, LEAST_TRUST), 0)


def _thresholds(
    metas: Sequence[ModelMeta], classes: Sequence[str], trust: NDArray[np.float64]
) -> dict[str, ClassThreshold]:
    result = {}
    for k, name in enumerate(classes):
        own = [
            (m.thresholds[name], t)
            for m, t in zip(metas, trust[:, k], strict=True)
            if t > 0 and name in m.thresholds
        ]
        if own:
            cuts, weights = [(c.report, c.accept) for c, _ in own], [t for _, t in own]
            report, accept = np.average(cuts, axis=0, weights=weights).round(6).tolist()
            result[name] = ClassThreshold(report=report, accept=accept)
    return result
