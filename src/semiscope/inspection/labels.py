"""What a classifier says of an image: its label, what becomes of it, what it is like."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from semiscope.infer.classifier import Answers, Classifier
from semiscope.infer.open_set import to_levels
from semiscope.inspection.journal import ImageRow, Journal
from semiscope.inspection.thresholds import dispose_labels
from semiscope.io.files import open_atomic
from semiscope.io.image import read_image
from semiscope.types import Image

LABELS = "labels.csv"
CHUNK = 16
"""Images looked up at once among the known examples, which is faster than one by one."""
_COLUMNS = (
    *("image", "label", "score", "disposition", "second", "second_score"),
    *("strangeness", "nearest", "nearest_label", "nearest_distance"),
)


class Labeller:
    """Labels the images of a run. It may be used from several threads."""

    def __init__(
        self, model: Classifier, batch: int, partners: Mapping[Path, Path] | None = None
    ) -> None:
        """Takes a classifier.

        Args:
            model: What labels.
            batch: Images an inference.
            partners: For a model of two magnifications, the low one of each image that has it.
        """
        self._model, self._batch, self._partners = model, batch, partners or {}

    def inspect(
        self,
        rows: Sequence[ImageRow],
        images: Sequence[Image],
        engine: AbstractContextManager[object],
    ) -> None:
        """Fills the rows of images.

        Args:
            rows: Of the images.
            images: At least one.
            engine: Held while the engine runs.

        Raises:
            ImageError: A partner cannot be read.
        """
        model = self._model
        inputs = [model.prepare(i.specimen) for i in images]
        low = [self._partner(row) for row in rows] if self._partners else None
        parts = []
        for start in range(0, len(inputs), self._batch):
            some = slice(start, start + self._batch)
            with engine:
                parts.append(model.run(inputs[some], None if low is None else low[some]))
        probability = np.concatenate([p.probability for p in parts])
        features = np.concatenate([p.features for p in parts])
        fill_rows(model, rows, Answers(probability, features))

    def _partner(self, row: ImageRow) -> np.ndarray | None:
        partner = self._partners.get(Path(row["file"]).resolve())
        return None if partner is None else self._model.prepare(read_image(partner).specimen)


def fill_rows(model: Classifier, rows: Sequence[ImageRow], answers: Answers) -> None:
    """Tells in the rows of images what a classifier says of them, and what becomes of that."""
    meta, known = model.meta, model.known
    probability = answers.probability
    like = None if known is None else known.look(answers.features)
    order = np.argsort(-probability, axis=1, kind="stable")
    label, score = order[:, 0], probability.max(axis=1, initial=0)
    unknown = np.zeros(len(rows), bool) if like is None else like.unknown
    dispositions = dispose_labels(label, score, unknown, meta.classes, meta.thresholds)
    for i, (row, levels) in enumerate(zip(rows, to_levels(answers.features), strict=True)):
        row["label"] = meta.classes[label[i]]
        row["score"] = round(float(score[i]), 5)
        row["disposition"] = dispositions[i]
        if len(meta.classes) > 1:
            second = int(order[i, 1])
            row["second"] = meta.classes[second], round(float(probability[i, second]), 5)
        row["features"] = base64.b64encode(levels.tobytes()).decode()
        if like is not None and known is not None:
            row["strangeness"] = round(float(like.strangeness[i]), 5)
            near = zip(like.nearest[i].tolist(), like.distance[i].tolist(), strict=True)
            row["nearest"] = [
                {
                    "file": known.names[place],
                    "label": meta.classes[known.class_id[place]],
                    "distance": round(distance, 5),
                }
                for place, distance in near
            ]


def levels_of(row: ImageRow) -> np.ndarray:
    """(d,) uint8 features of an image that was labelled, as ``infer.open_set`` keeps them."""
    return np.frombuffer(base64.b64decode(row["features"]), np.uint8)


def write_labels(path: Path, journal: Journal) -> None:
    """Writes ``labels.csv``: a row an image.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    with open_atomic(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        table = csv.writer(text)
        table.writerow(_COLUMNS)
        for row in journal.rows():
            if "failed" in row:
                continue
            cells = [row["file"], row["label"], row["score"], row["disposition"]]
            cells += row.get("second", ("", ""))
            cells.append(row.get("strangeness", ""))
            nearest = row.get("nearest")
            cells += [nearest[0][k] for k in ("file", "label", "distance")] if nearest else [""] * 3
            table.writerow(cells)
        text.detach()
