"""Ensembles of models that any one can check by hand (see ``write_blob_model``)."""

import json
import shutil

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from semiscope.errors import ModelError, SettingsError
from semiscope.infer.ensemble import LEAST_TRUST, Ensemble, load
from semiscope.infer.model import Model
from semiscope.infer.sampling import Dial
from semiscope.infer.tiled import detect, prepare_inputs
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings

DIM, BRIGHT = "dim", "bright <&>"


def image(*cells, size=(64, 64)):
    pixels = np.zeros(size, np.uint8)
    for row, column, brightness in cells:
        pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = round(255 * brightness)
    return pixels


def write_diffusion_model(write_model, path, **changes):
    """Boxes at (8, 8, 16, 16) with full masks; their scores follow the random numbers."""
    outputs = {  # weight, constant, shape of the output with N boxes and one image
        "logits": (np.eye(4, 2), np.zeros(2)),
        "boxes": (np.zeros((4, 4)), np.array([8, 8, 16, 16])),
        "kernels": (np.zeros((4, 153)), np.ones(153)),
    }
    nodes = [helper.make_node("Slice", ["noise", "zero", "one", "one"], ["first"])]
    constants = {"zero": np.array([0]), "one": np.array([1]), "map": np.zeros((1, 8, 16, 16))}
    for name, (weight, constant) in outputs.items():
        constants |= {f"{name} w": weight, f"{name} c": constant}
        nodes.append(helper.make_node("MatMul", ["first", f"{name} w"], [f"{name} m"]))
        nodes.append(helper.make_node("Add", [f"{name} m", f"{name} c"], [name]))
    nodes.append(helper.make_node("Identity", ["map"], ["features"]))
    kinds = {"zero": np.int64, "one": np.int64}
    inputs = {
        "x": ("batch", 1, 64, 64),
        "noise": ("steps", 2, "boxes", 4),
        "schedule": ("steps", 6),
    }
    graph = helper.make_graph(
        nodes,
        "diffusion",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in (*outputs, "features")
        ],
        [
            numpy_helper.from_array(v.astype(kinds.get(k, np.float32)), k)
            for k, v in constants.items()
        ],
    )
    decoder = {"kind": "diffusion", "sampling": {"boxes": 5}, "iou_threshold": 0.5}
    return write_model(path, graph, task="segment", decoder=decoder, **changes)


def same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    np.testing.assert_array_equal(ours.class_id, theirs.class_id)
    np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-5)
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (160, 240)])
@pytest.mark.parametrize("min_score", [None, 0.001])
def test_a_model_with_itself_finds_what_the_model_finds(tmp_path, write_model, size, min_score):
    model = write_model(tmp_path / "m.onnx", class_ap={DIM: 0.3, BRIGHT: 0.7})
    pixels = image((1, 2, 0.5), (5, 6, 0.9), (3, 3, 0.32), (7, 0, 0.25), size=size)
    same(
        detect(load(f"{model}+{model}"), pixels, min_score), detect(load(model), pixels, min_score)
    )


def test_masks_come_through_and_a_detector_votes_on_the_score(tmp_path, write_model, blob_model):
    diffusion = write_diffusion_model(write_model, tmp_path / "d.onnx")
    pixels = image((1, 1, 0.9))
    (alone,) = load(blob_model).predict([pixels])
    outlined = detect(load(diffusion), pixels, 0.001)
    both = load(f"{blob_model}+{diffusion}")
    assert both.meta.task == "segment"
    fused = detect(both, pixels, 0.001)
    assert {s.area for s in fused.shapes} == {64} and len(fused) == 2
    np.testing.assert_allclose(fused.xyxy, [[8, 8, 16, 16]] * 2, atol=1e-4)
    seen = dict(zip(outlined.class_id.tolist(), outlined.score.tolist(), strict=True))
    expected = {0: seen[0] / 2, 1: (seen[1] + float(alone.score[0])) / 2}
    told = dict(zip(fused.class_id.tolist(), fused.score.tolist(), strict=True))
    assert told == pytest.approx(expected, rel=1e-4)


def test_classes_in_another_order_are_matched_by_name_and_trust_decides(tmp_path, write_model):
    # the second calls bright what the first calls dim, and is right as its AP says
    first = write_model(tmp_path / "1.onnx", class_ap={DIM: 0.2, BRIGHT: 0.5})
    second = write_model(
        tmp_path / "2.onnx", classes=[BRIGHT, DIM], class_ap={DIM: 0.8, BRIGHT: 0.5}
    )
    model = load(f"{first}+{second}")
    assert model.meta.classes == (DIM, BRIGHT)
    pixels = image((1, 1, 0.5), (5, 5, 0.9))
    score = load(first).predict([pixels])[0].score
    np.testing.assert_allclose(score, 1, atol=1e-3)
    found = detect(model, pixels, 0.001)
    order = np.lexsort((-found.score, found.xyxy[:, 0]))
    assert found.class_id[order].tolist() == [1, 0, 0, 1]
    np.testing.assert_allclose(found.score[order], [0.5, 0.2, 0.8, 0.5], atol=1e-3)


def test_a_class_is_fused_from_those_that_know_it(tmp_path, write_model, blob_model):
    void = write_model(tmp_path / "void.onnx", classes=[DIM, "void"])
    model = load(f"{blob_model}+{void}")
    assert model.meta.classes == (DIM, BRIGHT, "void")
    found = detect(model, image((1, 1, 0.5), (5, 5, 0.9)), 0.5)
    assert sorted(zip(found.class_id.tolist(), found.xyxy[:, 0].tolist(), strict=True)) == [
        *((0, 8.0), (1, 40.0), (2, 40.0))
    ]
    np.testing.assert_allclose(found.score, 1, atol=1e-3)


def test_models_without_a_common_class_are_refused(tmp_path, write_model, blob_model):
    other = write_model(tmp_path / "o.onnx", name="other", classes=["x", "y"])
    with pytest.raises(
        ModelError, match=r"blobs\+blobs\+other.*other for x, y.*Use other on its own"
    ):
        load(f"{blob_model}+{blob_model}+{other}")


def test_trust_and_thresholds(tmp_path, write_model):
    cuts = {DIM: {"report": 0.5, "accept": 0.8}}
    paths = [
        write_model(tmp_path / "1.onnx", class_ap={DIM: 0.6, BRIGHT: 0.0}),
        write_model(tmp_path / "2.onnx", class_ap={DIM: 0.2}, thresholds=cuts),
        write_model(tmp_path / "3.onnx", thresholds={}),
    ]
    model = load("+".join(map(str, paths)))
    trust = [m["trust"] for m in model.card()["members"]]
    assert trust == [
        {DIM: 0.6, BRIGHT: LEAST_TRUST},
        {DIM: 0.2, BRIGHT: LEAST_TRUST},
        {DIM: 0.4, BRIGHT: LEAST_TRUST},
    ]
    # dim: (0.6 * 0.3 + 0.2 * 0.5) / 0.8, the third says nothing; bright: the first alone
    assert model.meta.thresholds[DIM].report == pytest.approx(0.35)
    assert model.meta.thresholds[DIM].accept == pytest.approx(0.875)
    assert model.meta.thresholds[BRIGHT].report == pytest.approx(0.3)
    silent = load(f"{paths[2]}+{paths[2]}")
    assert [m["trust"] for m in silent.card()["members"]] == [{DIM: 1, BRIGHT: 1}] * 2
    assert silent.meta.thresholds == {}


def test_the_smallest_field_decides_and_each_member_prepares_for_itself(tmp_path, write_model):
    small = write_model(tmp_path / "s.onnx")
    wide = {"height": 64, "width": 64, "channels": 1, "mean": [0.5], "std": [0.25]}
    large = write_model(tmp_path / "l.onnx", field_height=200, field_width=200, input=wide)
    pixels = image((1, 1, 0.5), size=(64, 112))
    model = load(f"{large}+{small}")
    inputs = prepare_inputs(model, pixels, 0.25)
    assert len(inputs.prepared) == 2 and prepare_inputs(load(large), pixels, 0.25).tiles is None
    for member, ready in zip(model.members, inputs.prepared[0], strict=True):
        (expected,) = member.prepare_tiles(pixels, inputs.tiles[:1])
        np.testing.assert_array_equal(ready.tensor, expected.tensor)
    assert inputs.prepared[0][0].tensor.min() == -2 and inputs.prepared[0][1].tensor.min() == 0


def test_names_are_cut_at_the_plus_signs(tmp_path, blob_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(blob_model, "a+b.onnx")
    (tmp_path / "c++").mkdir()
    shutil.copy(blob_model, "c++/d.onnx")
    single = load("a+b.onnx")
    assert isinstance(single, Model) and single.path.name == "a+b.onnx"
    assert isinstance(load("c++/d.onnx"), Model)
    for name, paths in {
        "a+b.onnx+blobs.onnx": ["a+b.onnx", "blobs.onnx"],
        "blobs.onnx+a+b.onnx": ["blobs.onnx", "a+b.onnx"],
        "c++/d.onnx+c++/d.onnx": ["d.onnx", "d.onnx"],
    }.items():
        model = load(name)
        assert isinstance(model, Ensemble) and [m.path.name for m in model.members] == paths
    assert [m.path.stem for m in load("sem-lines+sem-lines").members] == ["sem-lines"] * 2


@pytest.mark.parametrize("name", ["none.onnx+blobs.onnx", "blobs.onnx+", "+", "a b+blobs.onnx"])
def test_unknown_members_are_named(tmp_path, blob_model, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as error:
        load(name)
    assert str(error.value).startswith(f"{name}: expected models joined by +, found none named '")
    assert "sem-lines" in str(error.value)


def test_an_unknown_model_alone(tmp_path):
    with pytest.raises(ModelError, match="none.onnx: expected a model file, found none"):
        load(str(tmp_path / "none.onnx"))


def test_the_dial_turns_those_members_that_have_one(tmp_path, write_model, blob_model):
    diffusion = write_diffusion_model(write_model, tmp_path / "d.onnx")
    model, dial = load(f"{blob_model}+{diffusion}"), Dial(boxes=9, seed=3)
    pixels = image((1, 1, 0.9))
    turned = detect(model.dialled(dial), pixels, 0.001)
    by_hand = Ensemble([load(blob_model), load(diffusion).dialled(dial)])
    same(turned, detect(by_hand, pixels, 0.001))
    assert np.abs(turned.score - detect(model, pixels, 0.001).score).max() > 0.01


def test_the_dial_is_refused_when_no_member_has_one(blob_model):
    model = load(f"{blob_model}+{blob_model}")
    with pytest.raises(SettingsError, match="boxes, seed: only a diffusion model"):
        model.dialled(Dial(boxes=9, seed=3))
    same(detect(model.dialled(Dial()), image((1, 1, 0.9))), detect(model, image((1, 1, 0.9))))


def test_a_folder_is_inspected_as_with_one_model(tmp_path, write_model, blob_model):
    diffusion = write_diffusion_model(write_model, tmp_path / "d.onnx", name="outlines")
    (tmp_path / "in").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"in/{i}.png"), image((1, 1, 0.9), (4, i, 0.5)))
    settings = InspectSettings(model=f"{blob_model}+{diffusion}", min_score=0.45, seed=1)
    summary = inspect([tmp_path / "in"], settings, tmp_path / "out")
    assert summary.images == 3 and not summary.failed
    told = json.loads((tmp_path / "out/results.json").read_text())
    card = told["model"]
    assert (card["name"], card["task"], card["classes"]) == (
        *("blobs+outlines", "segment"),
        [DIM, BRIGHT],
    )
    assert card["thresholds"][DIM] == {"report": 0.3, "accept": 0.9}
    digests = [m["sha256"] for m in card["members"]]
    assert all(len(d) == 64 for d in digests) and card["sha256"] == "+".join(digests)
    assert len(told["annotations"]) >= 6
    assert [a["area"] for a in told["annotations"] if "segmentation" in a] == [64] * 3
    assert "blobs+outlines" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
