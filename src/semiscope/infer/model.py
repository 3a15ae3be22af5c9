"""A model is one .onnx file: the network and, in its metadata, all that inference needs."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.errors import ModelError, SettingsError
from semiscope.infer.decode import (
    Placement,
    Scaling,
    letterbox,
    scale_range,
    to_tensor,
    with_channels,
)
from semiscope.infer.decoders import Decoder
from semiscope.infer.sampling import Dial
from semiscope.tiling import Tile
from semiscope.types import Annotations, Pixels

METADATA_KEY = "semiscope"
ZOO = Path(__file__).parent.parent / "zoo"


class ClassThreshold(Settings):
    """What becomes of a detection by its score."""

    report: float = Field(0.25, ge=0, le=1, description="Below this score it is left out")
    accept: float = Field(0.5, ge=0, le=1, description="From this score on it needs no review")


class InputSpec(Settings):
    """How an image is brought to the network."""

    height: int = Field(gt=0, description="Rows of the network's input")
    width: int = Field(gt=0, description="Columns of the network's input")
    channels: Literal[1, 3] = Field(description="1 grey, 3 colour")
    scaling: Scaling = Field("dtype", description="Which grey values become 0 and 1")
    mean: tuple[float, ...] = Field(description="Taken off after scaling, one a channel")
    std: tuple[float, ...] = Field(description="Divided by after that, one a channel")


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image ready for the network.

    Attributes:
        tensor: (C, height, width) float32.
        placement: Where the image lies in it.
    """

    tensor: NDArray[np.float32]
    placement: Placement


def prepare(
    pixels: Pixels, spec: InputSpec, low_high: tuple[float, float] | None = None
) -> Prepared:
    """Scales, centres and normalises an image as the network was trained on.

    Args:
        pixels: (H, W) or (H, W, 3).
        spec: The network's input.
        low_high: Grey range of the whole image when ``pixels`` is a tile of it.
    """
    low_high = low_high or scale_range(pixels, spec.scaling)
    middle = low_high[0] + float(np.mean(spec.mean)) * (low_high[1] - low_high[0])
    boxed, placement = letterbox(
        with_channels(pixels, spec.channels), spec.height, spec.width, middle
    )
    return Prepared(to_tensor(boxed, low_high, spec.mean, spec.std), placement)


class DialPoint(Settings):
    """What one choice of boxes and steps gave on a data set."""

    boxes: int
    steps: int
    map: float
    seconds: float = Field(description="An image, end to end of the engine and the decoding")


class Meta(Settings):
    """What every predictor says of itself, be it one model or several together."""

    name: str = Field(description="Name in the zoo, or the run's")
    task: Literal["detect", "segment", "class-map", "classify"] = Field(
        description="Boxes, boxes with masks, a class for every pixel, or one for the image"
    )
    classes: tuple[str, ...] = Field(min_length=1, description="Names by class index")
    field_height: int = Field(gt=0, description="Rows of an image that fits the input")
    field_width: int = Field(gt=0, description="Columns of such an image")
    thresholds: dict[str, ClassThreshold] = Field(default={}, description="By class name")

    def report_from(self, min_score: float | None) -> NDArray[np.float32]:
        """(K,) the score below which a detection of each class is left out.

        Args:
            min_score: For all classes, in place of their report thresholds.
        """
        if min_score is not None:
            return np.full(len(self.classes), min_score, np.float32)
        report = [self.thresholds.get(c, ClassThreshold()).report for c in self.classes]
        return np.array(report, np.float32)


class Provenance(Settings):
    """Where a model file's network comes from, what it costs, and what it may be used for."""

    version: Literal[1] = 1
    network: str = Field(description="Its architecture")
    parameters: int = Field(description="Weights of the network as it is deployed")
    gflops: float = Field(description="Billions of operations for one input")
    data: str = Field(description="What it was trained on")
    settings: dict[str, Any] = Field(default={}, description="How it was trained")
    metrics: dict[str, float] = Field(default={}, description="Measured on held-out data")
    licence: str = Field(description="Under which it may be used")
    limits: str = Field("", description="What it is not fit for")


class FileMeta(Provenance, Meta):
    """What every file of a network that is not prompted says of itself."""

    input: InputSpec


class ModelMeta(FileMeta):
    """What the file of a detector says of itself."""

    decoder: Decoder
    class_ap: dict[str, float] = Field(default={}, description="AP by class on held-out data")
    dial: tuple[DialPoint, ...] = Field(default=(), description="Accuracy and time by boxes, steps")


class ClassifierMeta(FileMeta):
    """What the file of a classifier says of itself.

    The graph takes ``images`` (n, C, height, width), each a whole image without its info bar as
    ``prepare`` gives it: scaled to fit, its aspect ratio kept. It gives ``logits`` (n, K) and
    ``features`` (n, d), both float32; the likeliest class is that of the largest logit, and its
    score the softmax of it. ``thresholds`` say from which score on a class needs no review.
    """

    task: Literal["classify"] = "classify"
    two_magnifications: bool = Field(
        False,
        description="Whether the graph takes two further inputs: images_low, each image's partner "
        "of low magnification, made ready like images, and has_low (n,) float32, 1 where there is "
        "one. Where it is 0 the partner's pixels are not looked at (zeros will do), and the image "
        "is judged alone",
    )
    clean: tuple[str, ...] = Field(default=(), description="Classes that mean no defect")
    held_out: tuple[str, ...] = Field(
        default=(),
        description="Labelled images that training held out where the data set has no val part, "
        "below the data set's folder, with slashes: calibrate takes thresholds from these and "
        "known examples from the others",
    )


_M = TypeVar("_M", bound=Settings)


def checked_meta(kind: type[_M], values: dict[str, Any], path: Path) -> _M:
    """What a model file says of itself, as ``open_model`` read it, checked.

    Raises:
        ModelError: Something is missing or out of range.
    """
    try:
        return kind.from_dict(values, path)
    except SettingsError as error:
        raise ModelError(f"{path}: its semiscope metadata is damaged: {error}") from None


class Model:
    """A loaded model file. It may be used from several threads at once.

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
            ModelError: No such file, not an ONNX file, or not a semiscope model.
        """
        self._session, values = open_model(path, threads)
        if values.get("task") not in ("detect", "segment"):
            raise ModelError(
                f"{path}: expected a model for detection, found task {values.get('task')!r}. "
                "Choose another model."
            )
        self.meta = checked_meta(ModelMeta, values, path)
        self.path = path
        self._input = self._session.get_inputs()[0].name
        self._further = self.meta.decoder.inputs(Dial())

    @staticmethod
    def load(name: str | Path, threads: int | None = None) -> Model:
        """A model by its name in the zoo or the path of its file.

        Raises:
            ModelError: As ``Model``.
        """
        return Model(locate(name), threads)

    def dialled(self, dial: Dial) -> Model:
        """The same engine with other random boxes.

        Raises:
            SettingsError: A dial is set and this is no diffusion model.
        """
        other = copy.copy(self)
        other._further = self.meta.decoder.inputs(dial)
        return other

    def card(self) -> dict[str, Any]:
        """What results tell of the model: plain JSON values, with the SHA-256 of its file."""
        card = self.meta.model_dump(mode="json", exclude={"version", "decoder"})
        return {**card, "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    def prepare(self, pixels: Pixels) -> Prepared:
        """See ``prepare``."""
        return prepare(pixels, self.meta.input)

    def prepare_tiles(self, pixels: Pixels, cut: Sequence[Tile]) -> list[Prepared]:
        """Tiles of an image, ready for the network; they share the image's grey range."""
        low_high = scale_range(pixels, self.meta.input.scaling)
        return [prepare(t.of(pixels), self.meta.input, low_high) for t in cut]  # type: ignore[arg-type]

    def run(self, batch: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """The bare engine.

        Args:
            batch: At least one.

        Returns:
            The network's raw output, as the decoder expects it.
        """
        images = np.stack([p.tensor for p in batch])
        return list(self._session.run(None, {self._input: images, **self._further}))

    def decode(
        self,
        raw: Sequence[NDArray[np.float32]],
        prepared: Sequence[Prepared],
        sizes: Sequence[tuple[int, int]],
        min_score: float | None = None,
    ) -> list[Annotations]:
        """Detections in pixels of the images.

        Args:
            raw: What ``run`` gave for a batch of B.
            prepared: The batch's B members.
            sizes: (height, width) of the B images.
            min_score: Lowest score; by default each class's report threshold.
        """
        report = self.meta.report_from(min_score)
        results = []
        for i, (image, (height, width)) in enumerate(zip(prepared, sizes, strict=True)):
            found = self.meta.decoder.annotations(
                raw, i, image.placement, (height, width), float(report.min())
            )
            results.append(found[found.score >= report[found.class_id]])
        return results

    def predict(
        self, images: Sequence[Pixels], min_score: float | None = None
    ) -> list[Annotations]:
        """Detections of whole images, one batch, no tiling.

        Args:
            images: (H, W) or (H, W, 3) each, any sizes.
            min_score: Lowest score; by default each class's report threshold.
        """
        prepared = [self.prepare(p) for p in images]
        return self.decode(self.run(prepared), prepared, [p.shape[:2] for p in images], min_score)


def open_model(
    path: Path, threads: int | None
) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """Any model file of semiscope: its engine, and its metadata yet unchecked.

    Args:
        path: The .onnx file.
        threads: Cores used for one inference; all when None.

    Raises:
        ModelError: No such file, not an ONNX file, or not a semiscope model.
    """
    if not path.is_file():
        raise ModelError(f"{path}: expected a model file, found none. {shipped_models()}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    # waiting threads sleep: reading and writing need the cores meanwhile
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    providers = [p for p in ("CUDAExecutionProvider",) if p in available]
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[*providers, "CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own errors share no public base
        raise ModelError(
            f"{path}: expected an ONNX model, found: {str(error).splitlines()[0][:200]}"
        ) from None
    written = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if written is None:
        raise ModelError(
            f"{path}: an ONNX file, but not a semiscope model (it carries no semiscope "
            "metadata). Make one with: semiscope export RUN --out FILE.onnx"
        )
    try:
        values = json.loads(written)
    except ValueError as error:
        raise ModelError(f"{path}: its semiscope metadata is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: its semiscope metadata is damaged: expected an object")
    return session, values


def locate(name: str | Path) -> Path:
    """The file of a model by its name in the zoo, else the path itself, which need not exist."""
    shipped = ZOO / f"{name}.onnx"
    return shipped if shipped.is_file() else Path(name)


def shipped_models() -> str:
    """What an error says when a model is not found."""
    names = ", ".join(sorted(p.stem for p in ZOO.glob("*.onnx")))
    return f"Shipped models: {names or 'none'}."
