"""A promptable network and its file: the same answers, and a run takes one of two branches."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from semiscope.compress import promptable_graph
from semiscope.compress.promptable_graph import export_promptable, write_promptable
from semiscope.errors import ModelError
from semiscope.infer.promptable import Promptable
from semiscope.io.image import read_image
from semiscope.nets.promptable import PromptableNetwork

SIDE = 64
WEIGHTS = Path(__file__).parents[2] / "../shared/weights/mobile_sam.pt"
DATA = Path(__file__).parents[2] / "../shared/data/em_particles"


def network(seed=0):
    """SAM's decoder behind an encoder of one convolution."""
    torch.manual_seed(seed)
    return PromptableNetwork(nn.Conv2d(3, 256, 16, 16), SIDE, {}).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    facts = {"data": "none", "weights": 16, "licence": "Apache-2.0", "limits": ""}
    write_promptable(network(), path, "one convolution", **facts)
    return Promptable.load(path, threads=1)


def test_the_file_answers_as_torch_does_for_any_number_of_prompts(model):
    torch_network = network()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    embedding = model.encode(pixels)
    image = torch.from_numpy(model.prepare(pixels)[0])
    points = np.random.default_rng(1).uniform(0, 40, (3, 4, 2))
    boxes = np.tile([[3.0, 5.0, 30.0, 35.0]], (3, 1))
    found = model.logits(embedding, points=points, boxes=boxes)
    places = torch.tensor(np.concatenate([points, boxes.reshape(3, 2, 2)], 1)).float()
    labels = torch.tensor([[1, 1, 1, 1, 2, 3]] * 3)
    with torch.no_grad():
        expected = torch_network(image, places, labels, torch.zeros(3, 1, 16, 16), torch.zeros(3))
    # the file's weights are of 16 bits
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))
    for count in (1, 2):
        some = model.logits(embedding, points=points[:count], boxes=boxes[:count])
        np.testing.assert_allclose(some[0], found[0][:count], rtol=1e-3, atol=1e-3)


def test_a_run_takes_one_branch(model):
    names = ("features", "logits", "claimed")
    image = model.prepare(np.zeros((8, 8), np.uint8))[0]
    features, logits, claimed = model._run(names, {"images": image})
    assert features.shape == (1, 256, 4, 4)
    assert logits.shape == (0, 4, 16, 16)
    assert claimed.shape == (0, 4)
    features = np.full((1, 256, 4, 4), 0.5, np.float32)
    through, logits, _ = model._run(names, {"embedding": features})
    np.testing.assert_array_equal(through, features)
    assert logits.shape == (1, 4, 16, 16)


def test_weights_of_16_bits_take_half_the_room(model):
    assert model.path.stat().st_size < 2.2 * model.meta.parameters
    assert model.meta.network == "one convolution"
    assert model.meta.side == SIDE


def test_nothing_is_written_when_the_answers_differ(model, tmp_path, monkeypatch):
    monkeypatch.setattr(promptable_graph, "promptable_graph", lambda *_: onnx.load(model.path))
    out = tmp_path / "wrong.onnx"
    facts = {"data": "none", "weights": 16, "licence": "", "limits": ""}
    with pytest.raises(ModelError, match="expected ONNX Runtime to agree.*in features"):
        write_promptable(network(seed=1), out, "one convolution", **facts)
    assert not out.exists()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists() or not DATA.exists(), reason="needs ../shared")
def test_mobile_sam_outlines_particles_of_which_it_has_boxes(tmp_path):
    path = tmp_path / "mobile-sam.onnx"
    meta = export_promptable(f"mobile-sam:{WEIGHTS}", path, weights=16)
    assert path.stat().st_size < 25e6
    assert (meta.name, meta.side) == ("mobile-sam", 1024)
    model = Promptable.load(path)
    pixels = read_image(DATA / "images" / "00655d9628.png").pixels
    regions = cv2.imread(str(DATA / "segmaps" / "00655d9628.png"), cv2.IMREAD_UNCHANGED)
    areas = np.bincount(regions.ravel())[1:]
    largest = 1 + np.argsort(-areas)[:5]
    truths = np.array([regions == i for i in largest])
    boxes = [cv2.boundingRect(t.astype(np.uint8)) for t in truths]
    xyxy = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    masks, scores = model.decode(model.encode(pixels), boxes=xyxy)
    iou = (masks & truths).sum((1, 2)) / (masks | truths).sum((1, 2))
    assert iou.mean() > 0.85
    assert scores.min() > 0.5


def test_a_sam_of_transformers_answers_as_torch_does(tmp_path, small_sam):
    # fused attention gives heads of 64 channels, as SAM's, in an order of memory of its own
    small_sam(128, SIDE).save_pretrained(tmp_path / "sam")
    # the export itself compares its answers with torch's
    meta = export_promptable(f"sam:{tmp_path / 'sam'}", tmp_path / "sam.onnx")
    assert meta.network == "sam" and meta.side == SIDE
    model = Promptable.load(str(tmp_path / "sam.onnx"), 1)
    masks, claimed = model.decode(
        model.encode(np.zeros((40, 60), np.uint8)), boxes=[[5, 5, 50, 30]]
    )
    assert masks.shape == (1, 40, 60) and claimed.shape == (1,)
