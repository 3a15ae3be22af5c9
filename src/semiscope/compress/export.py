"""From the best weights of a run to one .onnx file that holds all that inference needs."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from semiscope.compress.fuse import fuse
from semiscope.compress.profile import profile
from semiscope.config import read_toml
from semiscope.errors import ModelError, SettingsError
from semiscope.infer.model import METADATA_KEY, ClassThreshold, InputSpec, ModelMeta, YoloDecoder
from semiscope.io.files import write_atomic
from semiscope.learn import checkpoint
from semiscope.nets.yolov7_tiny import STRIDES, YoloV7Tiny

_PARITY = 1e-3  # of raw logits; scores then agree within a quarter of it
_HALF_FROM = 1024  # smaller tensors are left in single precision: they weigh nothing


def trained_network(run: Path) -> tuple[YoloV7Tiny, dict[str, Any]]:
    """The network with a run's best weights, and what ``best/state.json`` says of it.

    Raises:
        SettingsError: The folder holds no finished evaluation.
    """
    best = run / "best"
    if not (best / "state.json").is_file():
        raise SettingsError(
            f"{run}: expected a run with evaluated weights (best/state.json), found none. Train it "
            "first, or continue it with --resume."
        )
    tensors, state = checkpoint.load(best)
    spec = state["spec"]
    network = YoloV7Tiny(
        len(spec["classes"]),
        spec["neck"],
        spec["backbone"],
        spec["input"]["channels"],
        len(spec["anchors"][0]),
    )
    network.load_state_dict(tensors["model"])
    return network.eval(), state


def export(
    run: Path,
    out: Path,
    *,
    half: bool = False,
    licence: str = "unstated",
    limits: str = "",
) -> ModelMeta:
    """Writes a run's best weights as a model file and checks it against torch.

    Args:
        run: The run folder.
        out: The .onnx file; its stem becomes the model's name.
        half: Store weights in 16 bits. The file is half as large; the arithmetic stays in 32 bits.
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
    size = profile(network, given.channels, given.height, given.width)
    deployed = fuse(network, implicit=True)
    if half:
        round_to_half(deployed)
    meta = ModelMeta(
        name=out.stem,
        task=spec["task"],
        network=f"{spec['net']}, backbone {spec['backbone']}, neck {spec['neck']}",
        classes=tuple(spec["classes"]),
        input=given,
        field_height=spec["field"][0],
        field_width=spec["field"][1],
        decoder=YoloDecoder(
            strides=STRIDES, anchors=spec["anchors"], iou_threshold=spec["suppression_iou"]
        ),
        thresholds={k: ClassThreshold.model_validate(v) for k, v in spec["thresholds"].items()},
        parameters=sum(p.numel() for p in deployed.parameters()),
        gflops=round(size.gflops, 3),
        data=spec["data"],
        settings=read_toml(run / "settings.toml"),
        metrics={f"val_{k}": round(v, 4) for k, v in figures.items() if k != "fitness"},
        licence=licence,
        limits=limits,
    )
    model = to_onnx(deployed, given)
    if half:
        _store_half(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, meta.model_dump_json()
    content = model.SerializeToString()
    _check_parity(deployed, content, given, out)
    write_atomic(out, content)
    return meta


def to_onnx(network: nn.Module, given: InputSpec) -> onnx.ModelProto:
    """The network as ONNX with a free batch size; its outputs are the raw maps."""
    example = torch.zeros(2, given.channels, given.height, given.width)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=[f"p{i + 3}" for i in range(len(STRIDES))],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            verbose=False,
        )
        assert program is not None
        path = Path(folder) / "model.onnx"
        program.save(path, external_data=False)
        model = onnx.load(path)
    # the exporter notes the paths of the machine's source files on every node
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph):
        del part.metadata_props[:]
    return model


def _check_parity(network: nn.Module, content: bytes, given: InputSpec, out: Path) -> None:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for batch in (1, 3):
        images = generator.standard_normal(
            (batch, given.channels, given.height, given.width), dtype=np.float32
        )
        with torch.no_grad():
            expected = [m.numpy() for m in network(torch.from_numpy(images))]
        for ours, theirs in zip(session.run(None, {"images": images}), expected, strict=True):
            difference = float(np.abs(ours - theirs).max())
            if ours.shape != theirs.shape or not difference < _PARITY:
                raise ModelError(
                    f"{out}: expected ONNX Runtime to agree with torch within {_PARITY}, found a "
                    f"difference of {difference:.2g} at batch {batch}. Nothing was written."
                )


def round_to_half(network: nn.Module) -> None:
    """Rounds the large weights to 16 bits, in place."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() >= _HALF_FROM:
                parameter.copy_(parameter.half().float())


def _store_half(model: onnx.ModelProto) -> None:
    """Large weights become 16-bit constants with a cast, which the engine folds on loading."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _HALF_FROM:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)
