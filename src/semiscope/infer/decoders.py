"""How each network's raw output becomes annotations: what a model file's ``decoder`` says.

A decoder tells the engine's further inputs and turns the raw output of a batch into the annotations
of one of its images. Numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.errors import SettingsError
from semiscope.infer.decode import Placement, decode_yolo, find_yolo, place
from semiscope.infer.decode_masks import decode_dynamic, decode_prototypes
from semiscope.infer.paste import decode_instances
from semiscope.infer.sampling import Dial, Sampling, noise, schedule
from semiscope.types import Annotations


def refuse_dial(dial: Dial) -> None:
    """For networks without random boxes.

    Raises:
        SettingsError: A dial is set.
    """
    if chosen := dial.chosen():
        raise SettingsError(
            f"{', '.join(chosen)}: only a diffusion model has random boxes; this is none. "
            "Leave it out."
        )


class _Fixed(Settings):
    """Base of the decoders whose network has no random boxes."""

    def inputs(self, dial: Dial) -> dict[str, NDArray[np.float32]]:
        """What the engine is given beside the images: nothing.

        Raises:
            SettingsError: A dial is set.
        """
        refuse_dial(dial)
        return {}


class _Anchored(_Fixed):
    """Base of the decoders of YOLO's maps."""

    strides: tuple[int, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    iou_threshold: float = Field(gt=0, le=1, description="Overlap that suppresses")


class YoloDecoder(_Anchored):
    """Raw maps of ``YoloV7Tiny`` and ``YoloV5`` (see ``decode_yolo``)."""

    kind: Literal["yolo"] = "yolo"

    def annotations(
        self,
        raw: Sequence[NDArray[np.float32]],
        index: int,
        placement: Placement,
        size: tuple[int, int],
        min_score: float,
    ) -> Annotations:
        """Detections of one image of a batch, in its pixels.

        Args:
            raw: Output of the batch.
            index: Which image of it.
            placement: Where the image lies in the input.
            size: (height, width) of the image.
            min_score: Lowest score.
        """
        found = decode_yolo(
            [r[index] for r in raw], self.anchors, self.strides, min_score, self.iou_threshold
        )
        return place(found, placement, *size)


class DiffusionDecoder(Settings):
    """Boxes, filters and mask features of ``DiffusionInst`` (see ``decode_dynamic``)."""

    kind: Literal["diffusion"] = "diffusion"
    sampling: Sampling = Sampling()
    iou_threshold: float = Field(gt=0, le=1, description="Overlap that suppresses")

    def at(self, boxes: int, steps: int) -> DiffusionDecoder:
        """The same with another choice of boxes and steps."""
        sampling = self.sampling.model_copy(update={"boxes": boxes, "steps": steps})
        return self.model_copy(update={"sampling": sampling})

    def inputs(self, dial: Dial) -> dict[str, NDArray[np.float32]]:
        """What the engine is given beside the images: random numbers and the steps."""
        sampling = self.sampling.model_copy(update=dial.chosen())
        return {"noise": noise(sampling), "schedule": schedule(sampling.steps)}

    def annotations(
        self,
        raw: Sequence[NDArray[np.float32]],
        index: int,
        placement: Placement,
        size: tuple[int, int],
        min_score: float,
    ) -> Annotations:
        """As ``YoloDecoder.annotations``, with masks."""
        logits, boxes, kernels, features = raw
        return decode_dynamic(
            logits[:, index],
            boxes[:, index],
            kernels[:, index],
            features[index],
            placement,
            size,
            min_score,
            self.iou_threshold,
        )


class PrototypeDecoder(_Anchored):
    """Raw maps, coefficients and prototypes of ``YoloV5Seg`` (see ``nets.yolov5``)."""

    kind: Literal["prototypes"] = "prototypes"

    def annotations(
        self,
        raw: Sequence[NDArray[np.float32]],
        index: int,
        placement: Placement,
        size: tuple[int, int],
        min_score: float,
    ) -> Annotations:
        """As ``YoloDecoder.annotations``, with masks."""
        *maps, coefficients, prototypes = (r[index] for r in raw)
        found, places = find_yolo(maps, self.anchors, self.strides, min_score, self.iou_threshold)
        return decode_prototypes(found, coefficients[:, places].T, prototypes, placement, size)


class InstanceDecoder(_Fixed):
    """Detections of ``MaskRcnn``, suppressed by the network itself (see ``decode_instances``)."""

    kind: Literal["instances"] = "instances"

    def annotations(
        self,
        raw: Sequence[NDArray[np.float32]],
        index: int,
        placement: Placement,
        size: tuple[int, int],
        min_score: float,
    ) -> Annotations:
        """As ``YoloDecoder.annotations``, with masks."""
        boxes, scores, classes, masks = (r[index] for r in raw)
        return decode_instances(boxes, scores, classes, masks, placement, size, min_score)


Decoder = Annotated[
    YoloDecoder | PrototypeDecoder | DiffusionDecoder | InstanceDecoder, Field(discriminator="kind")
]
