"""A promptable network as one .onnx file of two branches: encoder and decoder.

See docs/decisions/0007.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from semiscope.compress.fuse import fuse
from semiscope.compress.graph import StoredBits, round_weights, store_weights, to_onnx
from semiscope.compress.metadata import put_meta
from semiscope.compress.profile import profile
from semiscope.config import read_toml
from semiscope.errors import ModelError
from semiscope.infer.promptable import PromptableMeta
from semiscope.io.files import write_atomic
from semiscope.learn import checkpoint
from semiscope.learn.promptable import MEAN, STD, load_adapter, load_base
from semiscope.nets.lora import merge_lora
from semiscope.nets.promptable import PromptableNetwork

_ASKED = ("embedding", "points", "labels", "masks", "has_mask")
_PARITY = 1e-3  # of an output's largest value


class _Encode(nn.Module):
    def __init__(self, network: PromptableNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.encode(images)


class _Decode(nn.Module):
    def __init__(self, network: PromptableNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, embedding: Tensor, points: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.network.decode(embedding, points, labels, masks, has_mask)


def promptable_graph(network: PromptableNetwork, weights: StoredBits = 32) -> onnx.ModelProto:
    """Encoder and decoder as the branches of one graph, of which a run takes one.

    With ``encode`` true, images (1, 3, side, side) become features; else features are the embedding
    as given, and points, labels, masks and has_mask become logits and claimed. Numbers of prompts
    and points are free.

    Args:
        network: In evaluation mode, its weights rounded to ``weights``.
        weights: Bits in which weights are stored.
    """
    prompts = {0: "prompts"}
    points = {0: "prompts", 1: "points"}
    images, *asked = _examples(network, prompts=2)
    encode = to_onnx(_Encode(network), {"images": images}, ("features",), {})
    decode = to_onnx(
        _Decode(network),
        dict(zip(_ASKED, asked, strict=True)),
        ("logits", "claimed"),
        {"points": points, "labels": points, "masks": prompts, "has_mask": prompts},
    )
    if weights != 32:
        store_weights(encode, weights)
        store_weights(decode, weights)
    flag = helper.make_tensor_value_info("encode", TensorProto.BOOL, [])
    inputs = [flag, *encode.graph.input, *decode.graph.input]
    outputs = [*encode.graph.output, *decode.graph.output]
    given = _branch("given", [_identity("embedding", encode.graph.output[0])])
    none = _branch("none", [_no_prompts(value) for value in decode.graph.output])
    nodes = [
        helper.make_node(
            "If", ["encode"], ["features"], then_branch=_inner(encode, "encode/"), else_branch=given
        ),
        helper.make_node(
            "If",
            ["encode"],
            ["logits", "claimed"],
            then_branch=none,
            else_branch=_inner(decode, "decode/"),
        ),
    ]
    joined = helper.make_model(
        helper.make_graph(nodes, "promptable", inputs, outputs),
        opset_imports=decode.opset_import,
        ir_version=decode.ir_version,
    )
    onnx.checker.check_model(joined)
    return joined


def _inner(model: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    """A model's graph as a branch: it takes its inputs from around it."""
    assert not model.functions
    graph = onnx.compose.add_prefix(model, prefix, rename_inputs=False).graph
    del graph.input[:]
    return graph


def _branch(
    name: str, parts: Sequence[tuple[onnx.NodeProto, onnx.ValueInfoProto]]
) -> onnx.GraphProto:
    return helper.make_graph([p[0] for p in parts], name, [], [p[1] for p in parts])


def _identity(
    source: str, value: onnx.ValueInfoProto
) -> tuple[onnx.NodeProto, onnx.ValueInfoProto]:
    """What hands a value through under another name."""
    same = _renamed(value, f"given/{value.name}")
    return helper.make_node("Identity", [source], [same.name]), same


def _no_prompts(value: onnx.ValueInfoProto) -> tuple[onnx.NodeProto, onnx.ValueInfoProto]:
    """What gives a value of the decoder for no prompt at all."""
    empty = _renamed(value, f"none/{value.name}")
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    constant = numpy_helper.from_array(np.zeros([0, *shape[1:]], np.float32))
    return helper.make_node("Constant", [], [empty.name], value=constant), empty


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    other = onnx.ValueInfoProto()
    other.CopyFrom(value)
    other.name = name
    return other


def export_promptable(
    base: str,
    out: Path,
    *,
    adapter: Path | None = None,
    weights: StoredBits = 32,
    licence: str = "unstated",
    limits: str = "",
) -> PromptableMeta:
    """Writes published weights as a promptable model's file and checks it against torch.

    Args:
        base: See ``learn.promptable.load_base``.
        out: The .onnx file; its stem becomes the model's name.
        adapter: LoRA to merge into the base (``learn.promptable.save_adapter``).
        weights: Bits in which weights are stored; the arithmetic stays in 32 bits.
        licence: Under which the model may be used.
        limits: What it is not fit for.

    Returns:
        What was written into the file.

    Raises:
        ModelError: ONNX Runtime's answer differs from torch's.
        SettingsError: The base or the adapter cannot be read.
    """
    network = load_base(base)
    data = f"weights of {base}"
    if adapter is not None:
        load_adapter(adapter, network)
        merge_lora(network)
        data = f"{data}, adapted by {adapter}"
    kind = base.partition(":")[0]
    return write_promptable(
        network, out, kind, data=data, weights=weights, licence=licence, limits=limits
    )


def export_run(
    run: Path,
    out: Path,
    *,
    weights: StoredBits = 32,
    licence: str = "unstated",
    limits: str = "",
) -> PromptableMeta:
    """Merges what a run of ``train prompt`` has learnt into its base and writes the model's file.

    Args:
        run: The run folder; the base must be where it was.
        out: The .onnx file; its stem becomes the model's name.
        weights: Bits in which weights are stored; the arithmetic stays in 32 bits.
        licence: Under which the model may be used.
        limits: What it is not fit for.

    Returns:
        What was written into the file.

    Raises:
        ModelError: ONNX Runtime's answer differs from torch's.
        SettingsError: The run has no evaluated weights, or its base cannot be read.
    """
    _, state = checkpoint.best(run)
    spec = state["spec"]
    network = load_base(spec["base"])
    network.resize(spec["side"])
    load_adapter(run / "best" / "model.safetensors", network)
    merge_lora(network)
    figures = {f"val_{k}": round(v, 4) for k, v in state["metrics"].items() if k != "fitness"}
    return write_promptable(
        network,
        out,
        f"{spec['base'].partition(':')[0]}, LoRA of rank {spec['rank']} merged",
        data=spec["data"],
        weights=weights,
        licence=licence,
        limits=limits,
        settings=read_toml(run / "settings.toml"),
        metrics=figures,
    )


def write_promptable(
    network: PromptableNetwork,
    out: Path,
    kind: str,
    *,
    data: str,
    weights: StoredBits,
    licence: str,
    limits: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
    metrics: Mapping[str, float] = MappingProxyType({}),
) -> PromptableMeta:
    """Writes a network as a promptable model's file; see ``export_promptable``.

    Args:
        network: Without LoRA.
        out: The .onnx file; its stem becomes the model's name.
        kind: The network's architecture.
        data: What it was trained on.
        weights: Bits in which weights are stored.
        licence: Under which the model may be used.
        limits: What it is not fit for.
        settings: How it was adapted.
        metrics: Measured on held-out data.

    Raises:
        ModelError: ONNX Runtime's answer differs from torch's.
    """
    deployed = cast(PromptableNetwork, fuse(network))
    round_weights(deployed, weights)
    meta = PromptableMeta(
        name=out.stem,
        network=kind,
        side=network.side,
        mean=MEAN,
        std=STD,
        parameters=sum(p.numel() for p in deployed.parameters()),
        gflops=round(_gflops(network), 3),
        data=data,
        settings=dict(settings),
        metrics=dict(metrics),
        licence=licence,
        limits=limits,
    )
    model = promptable_graph(deployed, weights)
    put_meta(model, meta)
    content = model.SerializeToString()
    _check_parity(deployed, content, out)
    write_atomic(out, content)
    return meta


def _gflops(network: PromptableNetwork) -> float:
    images, *asked = _examples(network, prompts=1)
    parts = ((_Encode(network), [images]), (_Decode(network), asked))
    return sum(profile(part, given).gflops for part, given in parts)


def _examples(network: PromptableNetwork, prompts: int) -> list[Tensor]:
    """Inputs of the right shapes, with a point, a box's corners and a mask each."""
    generator = torch.Generator().manual_seed(0)
    side = network.side
    return [
        torch.randn(1, 3, side, side, generator=generator),
        torch.randn(1, 256, side // 16, side // 16, generator=generator),
        torch.rand(prompts, 3, 2, generator=generator) * side,
        torch.tensor([[1, 2, 3]]).repeat(prompts, 1),
        torch.randn(prompts, 1, side // 4, side // 4, generator=generator),
        torch.ones(prompts),
    ]


def _check_parity(network: PromptableNetwork, content: bytes, out: Path) -> None:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = _examples(network, prompts=3)
    inputs = {k: v.numpy() for k, v in zip(("images", *_ASKED), given, strict=True)}
    with torch.no_grad():
        expected = [network.encode(given[0]), *network.decode(*given[1:])]
    names = ("features", "logits", "claimed")
    encoded = session.run(names[:1], {"encode": np.array(True), **inputs})
    decoded = session.run(names[1:], {"encode": np.array(False), **inputs})
    for name, ours, theirs in zip(names, [*encoded, *decoded], expected, strict=True):
        largest = float(theirs.abs().max())
        difference = float(np.nan_to_num(np.abs(ours - theirs.numpy()).max(), nan=np.inf))
        if difference > _PARITY * largest:
            raise ModelError(
                f"{out}: expected ONNX Runtime to agree with torch within {_PARITY:.2g} of the "
                f"largest value, found a difference of {difference / largest:.2g} in {name}. "
                "Nothing was written."
            )
