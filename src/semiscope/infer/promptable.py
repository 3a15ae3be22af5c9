"""Promptable models: an image is encoded once, then points and boxes become masks in no time.

One .onnx file holds both networks as branches of one graph, of which a run takes one: the encoder
from ``images`` to ``features``, the decoder from ``embedding`` and prompts to ``logits`` and
``claimed`` (docs/decisions/0007). Image and prompts are brought to the network as SAM's authors do:
Kirillov et al. 2023.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from semiscope.errors import DataError, ModelError
from semiscope.infer.decode import scale_range, to_tensor, with_channels
from semiscope.infer.model import Provenance, checked_meta, locate, open_model
from semiscope.types import Pixels

NO_POINT, NEGATIVE, POSITIVE = -1, 0, 1

_BOX = (2, 3)  # labels of a box's two corners
_AT_ONCE = 8  # prompts; each takes some 20 MB while it is decoded
_REMEMBERED = 8  # embeddings of 4 MB


class PromptableMeta(Provenance):
    """What a promptable model's file says of itself."""

    name: str = Field(description="Name in the zoo, or the file's")
    task: Literal["prompt"] = "prompt"
    gflops: float = Field(description="Billions of operations for one image and one prompt")
    side: int = Field(gt=0, multiple_of=16, description="Pixels of the input along either axis")
    mean: tuple[float, float, float] = Field(description="Taken off grey values of 0 to 1")
    std: tuple[float, float, float] = Field(description="Divided by after that")


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """An encoded image.

    Attributes:
        features: (1, 256, side / 16, side / 16) float32.
        size: (height, width) of the image, pixels.
        scaled: (height, width) of the image in the network's input, whose rest is padding.
    """

    features: NDArray[np.float32]
    size: tuple[int, int]
    scaled: tuple[int, int]


class Prompter:
    """Brings images and prompts to an encoder and a decoder, which a child runs.

    It may be used from several threads at once if the child's engine may.

    Args:
        side: Pixels of the network's input along either axis.
        mean: Taken off grey values of 0 to 1, by channel.
        std: Divided by after that.
    """

    def __init__(
        self, side: int, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        self.side = side
        self._mean, self._std = mean, std
        self._remembered: OrderedDict[bytes, Embedding] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, pixels: Pixels) -> Embedding:
        """The embedding of an image; those of the last few images are remembered by content.

        Args:
            pixels: (H, W) or (H, W, 3). 8 bits are taken as they are; grey values of 16 bits and
                floats are spread between their 0.5th and 99.5th percentiles.
        """
        content: Pixels = np.ascontiguousarray(pixels)  # type: ignore[assignment]
        digest = hashlib.blake2b(f"{content.shape} {content.dtype}".encode(), digest_size=16)
        digest.update(content.data)
        key = digest.digest()
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return self._remembered[key]
        image, scaled = self.prepare(content)
        (features,) = self._run(("features",), {"images": image})
        embedding = Embedding(features, content.shape[:2], scaled)
        with self._lock:
            self._remembered[key] = embedding
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return embedding

    def prepare(self, pixels: Pixels) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """The network's input: longest side to fit, normalised, then padded bottom and right.

        Args:
            pixels: (H, W) or (H, W, 3).

        Returns:
            (1, 3, side, side) and the image's (height, width) in it.
        """
        side, longest = self.side, max(pixels.shape[:2])
        low_high = scale_range(pixels, "dtype" if pixels.dtype == np.uint8 else "percentile")
        rows, columns = (max(1, int(n * side / longest + 0.5)) for n in pixels.shape[:2])
        how = cv2.INTER_AREA if longest > side else cv2.INTER_LINEAR
        resized = cv2.resize(pixels, (columns, rows), interpolation=how)
        image = np.zeros((1, 3, side, side), np.float32)
        image[0, :, :rows, :columns] = to_tensor(
            with_channels(resized, 3),  # type: ignore[arg-type]
            low_high,
            self._mean,
            self._std,
        )
        return image, (rows, columns)

    def decode(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        masks: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """One mask for each of P prompts, at the image's size.

        Of the three masks for a single point the one that claims the best IoU is taken. Logits are
        interpolated to the image's pixels before they are cut at 0.

        Args:
            embedding: The encoded image.
            points: (P, N, 2) x and y in pixels of the image.
            labels: (P, N) 1 inside, 0 outside the object, -1 no point; all inside when None.
            boxes: (P, 4) xyxy in pixels; clipped to the image.
            masks: (P, side / 4, side / 4) logits of an earlier answer, as ``logits`` gives them.

        Returns:
            (P, H, W) bool, and (P,) the IoU that each claims, in [0, 1].

        Raises:
            DataError: There is no prompt at all, one lies outside the image, or a mask has another
                size.
        """
        logits, claimed = self.logits(
            embedding, points=points, labels=labels, boxes=boxes, masks=masks
        )
        chosen = np.zeros(len(logits), np.intp)
        if points is not None and boxes is None and masks is None:
            shown = np.ones(np.shape(points)[:2]) if labels is None else np.asarray(labels)
            doubtful = np.count_nonzero(shown != NO_POINT, axis=1) == 1
            chosen[doubtful] = 1 + claimed[doubtful, 1:].argmax(1)
        every = np.arange(len(logits))
        found = np.zeros((len(logits), *embedding.size), np.bool_)
        for i in every:
            found[i] = self.enlarge(logits[i, chosen[i]], embedding) > 0
        return found, claimed[every, chosen].clip(0, 1)

    def logits(
        self,
        embedding: Embedding,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        masks: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All that the decoder gives; arguments and errors as ``decode``.

        Returns:
            (P, 4, side / 4, side / 4) logits of the mask for a prompt without doubt and of three
            for a single point, and (P, 4) the IoU that each claims.
        """
        places, kinds = _prompts(embedding, points, labels, boxes, masks)
        shape = (self.side // 4, self.side // 4)
        given = np.zeros((len(places), 1, *shape), np.float32)
        if masks is not None:
            if np.shape(masks)[1:] != shape:
                raise DataError(
                    f"expected mask prompts of {shape[1]} x {shape[0]} px, found an array of "
                    f"{np.shape(masks)}"
                )
            given[:, 0] = masks
        has_mask = np.full(len(places), masks is not None, np.float32)
        parts = [(np.zeros((0, 4, *shape), np.float32), np.zeros((0, 4), np.float32))]
        for i in range(0, len(places), _AT_ONCE):
            some = slice(i, i + _AT_ONCE)
            logits, claimed = self._run(
                ("logits", "claimed"),
                {
                    "embedding": embedding.features,
                    "points": places[some],
                    "labels": kinds[some],
                    "masks": given[some],
                    "has_mask": has_mask[some],
                },
            )
            parts.append((logits, claimed))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def enlarge(self, logits: NDArray[np.float32], embedding: Embedding) -> NDArray[np.float32]:
        """(side / 4, side / 4) logits at the image's size, (H, W)."""
        side, (rows, columns) = self.side, embedding.scaled
        whole = cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR)
        height, width = embedding.size
        return cv2.resize(whole[:rows, :columns], (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]

    def _run(
        self, outputs: tuple[str, ...], given: dict[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        """Those outputs: features of images, or logits and claimed of an embedding and prompts."""
        raise NotImplementedError


class Promptable(Prompter):
    """A loaded promptable model. It may be used from several threads at once.

    Attributes:
        meta: What the file says of itself.
        path: Where the file is.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Opens a model file.

        Args:
            path: The .onnx file.
            threads: Cores used for one inference; all when None.

        Raises:
            ModelError: No such file, not a semiscope model, or a model for another task.
        """
        self._session, values = open_model(path, threads)
        if values.get("task") != "prompt":
            raise ModelError(
                f"{path}: expected a promptable model, found task {values.get('task')!r}. Make one "
                "with: semiscope export mobile-sam:FILE --out FILE.onnx"
            )
        self.meta = checked_meta(PromptableMeta, values, path)
        super().__init__(self.meta.side, self.meta.mean, self.meta.std)
        self.path = path
        side = self.side
        # the engine wants every input; those that the branch of a run does not need are idle
        self._idle: dict[str, NDArray[Any]] = {
            "images": np.zeros((1, 3, side, side), np.float32),
            "embedding": np.zeros((1, 256, side // 16, side // 16), np.float32),
            "points": np.zeros((1, 1, 2), np.float32),
            "labels": np.full((1, 1), NO_POINT, np.int64),
            "masks": np.zeros((1, 1, side // 4, side // 4), np.float32),
            "has_mask": np.zeros(1, np.float32),
        }

    @staticmethod
    def load(name: str | Path, threads: int | None = None) -> Promptable:
        """A model by its name in the zoo or the path of its file.

        Raises:
            ModelError: As ``Promptable``.
        """
        return Promptable(locate(name), threads)

    def _run(
        self, outputs: tuple[str, ...], given: dict[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        encode = {"encode": np.array("images" in given)}
        return list(self._session.run(list(outputs), {**self._idle, **given, **encode}))


def _prompts(
    embedding: Embedding,
    points: ArrayLike | None,
    labels: ArrayLike | None,
    boxes: ArrayLike | None,
    masks: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(P, N, 2) places in the network's input and their (P, N) labels, box corners among them."""
    counts = {len(p) for p in (points, boxes, masks) if p is not None}  # type: ignore[arg-type]
    if not counts:
        raise DataError("expected points, a box or a mask as prompt, found none")
    if len(counts) > 1:
        raise ValueError("points, boxes and masks must be of as many prompts")
    (count,) = counts
    height, width = embedding.size
    far = np.array([width, height], np.float64)
    places, kinds = np.zeros((count, 0, 2)), np.zeros((count, 0), np.int64)
    if points is not None:
        places = np.asarray(points, np.float64)
        if places.ndim != 3 or places.shape[2] != 2:
            raise ValueError(f"points must be (P, N, 2), found {places.shape}")
        kinds = np.ones(places.shape[:2], np.int64)
        if labels is not None:
            kinds = np.asarray(labels, np.int64)
        if kinds.shape != places.shape[:2]:
            raise ValueError(f"expected {places.shape[:2]} labels, found {kinds.shape}")
        if count and not (kinds != NO_POINT).any(1).all() and boxes is None and masks is None:
            raise DataError("expected at least one point in every prompt, found a prompt of none")
        inside = ((places >= 0) & (places <= far)).all(2) | (kinds == NO_POINT)
        if not inside.all():
            x, y = places[~inside][0]
            raise DataError(
                f"point ({x:g}, {y:g}): expected inside the image of {width} x {height} px"
            )
    if boxes is not None:
        corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
        clipped = corners.clip(0, far)
        for box in np.flatnonzero(~(clipped[:, 1] > clipped[:, 0]).all(1)):
            found = ", ".join(f"{v:g}" for v in corners[box].ravel())
            raise DataError(
                f"box ({found}): expected left < right and top < bottom within the image of "
                f"{width} x {height} px"
            )
        kind = np.broadcast_to(np.array(_BOX), (count, 2))
    else:
        # the published weights expect a place that is no point where there is no box
        clipped, kind = np.zeros((count, 1, 2)), np.full((count, 1), NO_POINT)
    places = np.concatenate([places, clipped], 1)
    scale = np.array(embedding.scaled[::-1], np.float64) / far
    return (places * scale).astype(np.float32), np.concatenate([kinds, kind], 1).astype(np.int64)
