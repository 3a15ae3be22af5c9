from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from semiscope.errors import ModelError
from semiscope.infer.model import METADATA_KEY, ClassThreshold, Model
from semiscope.infer.rewrite import rewrite_meta


def test_only_the_metadata_change(blob_model: Path):
    before = onnx.load(blob_model)
    before.metadata_props.add(key="author", value="someone")
    onnx.save(before, blob_model)
    meta = Model.load(blob_model).meta
    # long enough for lengths of several bytes
    changed = meta.model_copy(
        update={
            "thresholds": {"dim": ClassThreshold(report=0.125, accept=0.75)},
            "limits": "für nichts " * 3000,
        }
    )
    rewrite_meta(blob_model, changed)
    # onnx's own reader, and ours
    after = onnx.load(blob_model)
    onnx.checker.check_model(after)
    assert after.graph == before.graph
    assert [p for p in after.metadata_props if p.key == "author"][0].value == "someone"
    assert sum(p.key == METADATA_KEY for p in after.metadata_props) == 1
    assert Model.load(blob_model).meta == changed
    # and back again: but for the order of the fields the file is what it was
    rewrite_meta(blob_model, meta)
    assert Model.load(blob_model).meta == meta
    del before.metadata_props[:], after.metadata_props[:]
    assert after == before


def test_a_shipped_model_keeps_its_network(tmp_path: Path):
    model = Model.load("wafer-die")
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model.path.read_bytes())
    rewrite_meta(copy, model.meta)
    ours, theirs = onnx.load(copy), onnx.load(model.path)
    assert ours.graph == theirs.graph
    assert ours.opset_import == theirs.opset_import
    assert Model.load(copy).meta == model.meta


@pytest.mark.parametrize("damage", [b"\xff", b"\x0a\xff\xff", b"\x0f\x01", b"\x08"])
def test_a_file_that_is_no_model(tmp_path: Path, blob_model: Path, damage: bytes):
    meta = Model.load(blob_model).meta
    path = tmp_path / "x.onnx"
    path.write_bytes(damage)
    with pytest.raises(ModelError, match="damaged"):
        rewrite_meta(path, meta)
    assert path.read_bytes() == damage
    with pytest.raises(ModelError, match="cannot be read"):
        rewrite_meta(tmp_path / "gone.onnx", meta)
