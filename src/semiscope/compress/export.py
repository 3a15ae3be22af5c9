"""From the best weights of a run to one .onnx file that holds all that inference needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from semiscope.compress.diffusion_graph import diffusion_graph
from semiscope.compress.fuse import fuse
from semiscope.compress.graph import StoredBits, round_weights, store_weights, to_onnx
from semiscope.compress.metadata import put_meta
from semiscope.compress.profile import profile
from semiscope.config import read_toml
from semiscope.errors import ModelError, SettingsError
from semiscope.infer.decoders import Decoder
from semiscope.infer.model import (
    ClassifierMeta,
    ClassThreshold,
    FileMeta,
    InputSpec,
    ModelMeta,
)
from semiscope.infer.sampling import Dial
from semiscope.infer.segmenter import TASK as CLASS_MAP
from semiscope.infer.segmenter import SegmenterMeta
from semiscope.io.files import write_atomic
from semiscope.learn import checkpoint
from semiscope.nets.classifier import Classifier
from semiscope.nets.deeplab import DeepLabV3Plus
from semiscope.nets.diffusion_inst import Denoiser, DiffusionInst
from semiscope.nets.mask_rcnn import Detections, with_backbone
from semiscope.nets.yolov5 import YOLOV5
from semiscope.nets.yolov7_tiny import YoloV7Tiny

_PARITY = 1e-3  # of raw logits; scores then agree within a quarter of it
_DRAWS = 3
Further = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]
"""The inputs of a network besides a batch of images."""
_STEEP_SHARE = 0.98  # of the values, which must agree where a rounding can flip a selection


def _graph(*outputs: str) -> Callable[[nn.Module, Tensor], onnx.ModelProto]:
    """For networks that take images alone: writes one as ONNX, its outputs named."""

    def write(network: nn.Module, images: Tensor) -> onnx.ModelProto:
        return to_onnx(network, {"images": images}, outputs, {"images": {0: "batch"}})

    return write


def _classifier_graph(network: nn.Module, images: Tensor) -> onnx.ModelProto:
    further = _partners(network, images.numpy())
    inputs = {"images": images, **{k: torch.from_numpy(v) for k, v in further.items()}}
    free = {name: {0: "batch"} for name in inputs}
    return to_onnx(network, inputs, ("logits", "features"), free)


def _partners(network: nn.Module, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """What a classifier of two magnifications takes besides images; every second has a partner."""
    if not isinstance(network, Classifier) or network.missing is None:
        return {}
    return {
        "images_low": images[::-1].copy(),
        "has_low": (np.arange(len(images)) % 2).astype(np.float32),
    }


def _same(network: nn.Module) -> nn.Module:
    return network


class _Listed(nn.Module):
    """A network with one output, which it gives as the only one of a list."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.network(images),)


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a network goes from a run to a file.

    Attributes:
        build: The bare network from the plain values in a run's spec.
        inference: That network as it infers; its ``forward`` takes images and the decoder's inputs.
        graph: The inferring network, and images of any values, as ONNX.
        steep: Whether rounding can grow inside: the best of many are selected, or boxes refined
            again and again. Two engines may then differ by more in some places; nearly all values
            of one of a few draws must agree. A wrong graph differs nearly everywhere.
    """

    build: Callable[..., nn.Module]
    inference: Callable[[Any], nn.Module]
    graph: Callable[[Any, Tensor], onnx.ModelProto]
    steep: bool = False


_INSTANCES = Deployment(with_backbone, _same, _graph(*Detections._fields), steep=True)
_LEVELS = _graph("p3", "p4", "p5")
_PROTOTYPES = _graph("p3", "p4", "p5", "coefficients", "prototypes")
DEPLOYMENTS = {
    "yolov7-tiny": Deployment(YoloV7Tiny, _same, _LEVELS),
    "yolov5n": Deployment(YOLOV5["yolov5n"], _same, _LEVELS),
    "yolov5n-seg": Deployment(YOLOV5["yolov5n-seg"], _same, _PROTOTYPES),
    "yolov5s-seg": Deployment(YOLOV5["yolov5s-seg"], _same, _PROTOTYPES),
    "diffusion-inst": Deployment(DiffusionInst, Denoiser, diffusion_graph, steep=True),
    "mask-rcnn": _INSTANCES,
    "pointrend": _INSTANCES,
    "deeplabv3plus": Deployment(DeepLabV3Plus, _Listed, _graph("logits")),
    "classifier": Deployment(Classifier, _same, _classifier_graph),
}


def trained_network(run: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network as it infers, with a run's best weights, and what ``best/state.json`` says of it.

    Raises:
        SettingsError: The folder holds no finished evaluation.
    """
    weights, state = checkpoint.best(run)
    spec = state["spec"]
    if spec["task"] == "pretrain":
        raise SettingsError(
            f"{run}: expected a run that has learnt an answer, found one of train pretrain. Give "
            f"it classes first: train classify --init {run}"
        )
    deployment = DEPLOYMENTS[spec["net"]]
    network = deployment.build(**spec["built"])
    network.load_state_dict(weights)
    return deployment.inference(network).eval(), state


def export(
    run: Path,
    out: Path,
    *,
    weights: StoredBits = 32,
    licence: str = "unstated",
    limits: str = "",
) -> FileMeta:
    """Writes a run's best weights as a model file and checks it against torch.

    Args:
        run: The run folder.
        out: The .onnx file; its stem becomes the model's name.
        weights: Bits in which weights are stored; the arithmetic stays in 32 bits.
        licence: Under which the model may be used.
        limits: What it is not fit for.

    Returns:
        What was written into the file.

    Raises:
        ModelError: ONNX Runtime's answer differs from torch's.
        SettingsError: The folder holds no finished run.
    """
    network, state = trained_network(run)
    spec, figures = state["spec"], state["metrics"]
    given = InputSpec.model_validate(spec["input"])
    deployed = fuse(network, implicit=True)
    round_weights(deployed, weights)
    images = np.zeros((2, given.channels, given.height, given.width), np.float32)
    common: dict[str, Any] = {
        "name": out.stem,
        "network": spec["network"],
        "classes": tuple(spec["classes"]),
        "input": given,
        "field_height": spec["field"][0],
        "field_width": spec["field"][1],
        "parameters": sum(p.numel() for p in deployed.parameters()),
        "data": spec["data"],
        "settings": read_toml(run / "settings.toml"),
        "metrics": {f"val_{k}": round(v, 4) for k, v in figures.items() if k != "fitness"},
        "licence": licence,
        "limits": limits,
    }
    further: Further = partial(_partners, deployed)
    make: Callable[..., FileMeta]
    thresholds = {k: ClassThreshold.model_validate(v) for k, v in spec["thresholds"].items()}
    if spec["task"] == CLASS_MAP:
        iou = {k: round(v, 4) for k, v in spec["class_iou"].items()}
        defects = tuple(spec["defects"])
        make = partial(SegmenterMeta, defects=defects, class_iou=iou, thresholds=thresholds)
    elif spec["task"] == "classify":
        make = partial(
            ClassifierMeta,
            two_magnifications=bool(further(images)),
            clean=tuple(spec["clean"]),
            held_out=tuple(spec["held_out"]),
            thresholds=thresholds,
        )
    else:
        decoder: Decoder = TypeAdapter(Decoder).validate_python(spec["decoder"])
        constant = decoder.inputs(Dial())
        further = lambda images: constant  # noqa: E731
        ap = {k: round(v, 4) for k, v in spec["class_ap"].items()}
        make = partial(
            ModelMeta, task=spec["task"], decoder=decoder, thresholds=thresholds, class_ap=ap
        )
    one = images[:1]
    size = profile(network, [torch.from_numpy(v) for v in (one, *further(one).values())])
    meta = make(**common, gflops=round(size.gflops, 3))
    model = DEPLOYMENTS[spec["net"]].graph(deployed, torch.from_numpy(images))
    if weights != 32:
        store_weights(model, weights)
    put_meta(model, meta)
    content = model.SerializeToString()
    _check_parity(deployed, content, images, further, out, DEPLOYMENTS[spec["net"]].steep)
    write_atomic(out, content)
    return meta


def _check_parity(
    network: nn.Module,
    content: bytes,
    images: NDArray[np.float32],
    further: Further,
    out: Path,
    steep: bool,
) -> None:
    draws, share = (_DRAWS, _STEEP_SHARE) if steep else (1, 1.0)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for batch in (1, 3):
        for draw in range(draws):
            some = generator.standard_normal((batch, *images.shape[1:]), dtype=np.float32)
            inputs = {"images": some, **further(some)}
            with torch.no_grad():
                expected = [m.numpy() for m in network(*map(torch.from_numpy, inputs.values()))]
            difference = _difference(session.run(None, inputs), expected, share)
            if difference < _PARITY:
                break
            if draw + 1 == draws:
                raise ModelError(
                    f"{out}: expected ONNX Runtime to agree with torch within {_PARITY:.2g}, found "
                    f"a difference of {difference:.2g} at batch {batch}. Nothing was written."
                )


def _difference(
    ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float32]], share: float
) -> float:
    """The largest among the nearest values of each output, that share of them.

    It is told as a share of a tenth of the output's largest value where that is above 1.
    """
    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            scale = max(1.0, float(np.abs(b).max()) / 10)
            distance = np.nan_to_num(np.abs(a - b), nan=np.inf)
            nearest = np.quantile(distance, share, method="lower")
            largest = max(largest, float(nearest) / scale)
    return largest
