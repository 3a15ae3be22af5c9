"""What a model file says of itself, in a graph."""

from __future__ import annotations

import onnx

from semiscope.infer.model import METADATA_KEY, Provenance


def put_meta(model: onnx.ModelProto, meta: Provenance) -> None:
    """Writes the metadata into a graph, in place of what is there."""
    others = {e.key: e.value for e in model.metadata_props if e.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**others, METADATA_KEY: meta.model_dump_json()})
