"""What a model file says of itself, written anew."""

from __future__ import annotations

from pathlib import Path

import onnx

from semiscope.infer.model import METADATA_KEY, ModelMeta
from semiscope.io.files import write_atomic


def put_meta(model: onnx.ModelProto, meta: ModelMeta) -> None:
    """Writes the metadata into a graph, in place of what is there."""
    others = {e.key: e.value for e in model.metadata_props if e.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: meta.model_dump_json()})


def rewrite_meta(path: Path, meta: ModelMeta) -> None:
    """Replaces the metadata of a model file; the network stays as it is."""
    model = onnx.load(path)
    put_meta(model, meta)
    write_atomic(path, model.SerializeToString())
