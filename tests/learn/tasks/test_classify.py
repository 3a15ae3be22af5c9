"""From folders of images to a run, an exported file, and the same answers from both."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from semiscope.compress.export import export, trained_network
from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError, SettingsError
from semiscope.infer.model import METADATA_KEY, ClassifierMeta, prepare
from semiscope.io.image import read_image
from semiscope.learn import checkpoint
from semiscope.learn import run as runs
from semiscope.learn.class_data import draw_labels
from semiscope.learn.class_examples import ClassViewSettings
from semiscope.learn.tasks.classify import (
    ClassifyLoopSettings,
    ClassifySettings,
    ClassifyTask,
    layer_groups,
)
from semiscope.learn.tasks.pretrain import PretrainLoopSettings, PretrainSettings

# a mirrored left is a right
STILL = ClassViewSettings(flip_horizontal=0, flip_vertical=0, quarter_turns=False)
LOOP = ClassifyLoopSettings(
    epochs=4, batch=9, warmup_epochs=0, workers=0, ema_decay=0.5, ema_ramp=1
)


def settings_for(data, **changes) -> ClassifySettings:
    small = {"height": 32, "width": 32, "augment": STILL, "net": "resnet18"}
    return ClassifySettings(data=data, **{**small, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, halves):
    folder = tmp_path_factory.mktemp("classify")
    learn = settings_for(halves(folder / "data"), clean=("even",))
    return folder, runs.start("classify", learn, LOOP, folder / "run")


def answers(path, images):
    session = onnxruntime.InferenceSession(path)
    meta = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    meta = ClassifierMeta.model_validate(meta)
    inputs = np.stack([prepare(read_image(p).specimen, meta.input).tensor for p in images])
    return meta, session.run(["logits", "features"], {"images": inputs})


@pytest.mark.slow
def test_what_is_learned_is_in_the_file(trained):
    folder, figures = trained
    assert figures["accuracy"] > 0.6 and figures["fitness"] == figures["kappa"] > 0.4
    written = export(folder / "run", folder / "halves.onnx", licence="CC0")
    images = sorted((folder / "data" / "val").rglob("*.png"))
    meta, (logits, features) = answers(folder / "halves.onnx", images)
    assert (
        meta == written
        and meta.clean == ("even",)
        and meta.held_out == ()
        and meta.classes == ("even", "left", "right")
    )
    assert meta.metrics["val_accuracy"] == round(figures["accuracy"], 4)
    assert meta.thresholds.keys() == set(meta.classes) and not meta.two_magnifications
    truth = np.array([meta.classes.index(p.parent.name) for p in images])
    assert np.mean(logits.argmax(1) == truth) == pytest.approx(figures["accuracy"])
    # the features are what the last layer sees
    head = trained_network(folder / "run")[0].head
    expected = features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_another_size_and_other_classes_start_from_a_run(tmp_path, halves):
    data = halves(tmp_path / "data")
    learn = settings_for(data, net="vit-tiny", patch=8)
    brief = LOOP.model_copy(update={"epochs": 1})
    runs.start("classify", learn, brief, tmp_path / "run")
    begun = trained_network(tmp_path / "run")[0]

    same = ClassifyTask(settings_for(data, net="vit-tiny", patch=8, init=tmp_path / "run"), 0)
    network = same.network()
    for name, value in network.state_dict().items():
        assert torch.equal(value, begun.state_dict()[name]), name
    # a larger input and one class less: the places are stretched, the last layer begins anew
    change = {"height": 64, "width": 96, "leave_out": ("even",)}
    learn = settings_for(
        data, **{"net": "vit-tiny", "patch": 8, "init": tmp_path / "run", **change}
    )
    larger = ClassifyTask(learn, 0).network()
    assert larger.encoder.pos_embed.shape == (1, 1 + 8 * 12, 192) and larger.head.out_features == 2
    middle = begun.encoder.pos_embed[0, 1:].mean(0)
    torch.testing.assert_close(larger.encoder.pos_embed[0, 1:].mean(0), middle, atol=0.05, rtol=0)
    block = "blocks.3.mlp.fc1.weight"
    expected = begun.encoder.state_dict()[block]
    assert torch.equal(larger.encoder.state_dict()[block], expected)

    for wrong in ({"net": "vit-tiny", "patch": 16}, {"net": "cheon-cnn"}):
        task = ClassifyTask(settings_for(data, **wrong, init=tmp_path / "run"), 0)
        with pytest.raises(SettingsError, match="expected weights of net"):
            task.network()
    with pytest.raises(SettingsError, match="expected a run with evaluated weights"):
        ClassifyTask(settings_for(data, init=tmp_path), 0).network()
    with pytest.raises(ValueError, match="expected multiples of patch 24, found 32 and 32"):
        settings_for(data, net="vit-tiny", patch=24)
    with pytest.raises(ValueError, match="frozen_norms: expected weights"):
        settings_for(data, frozen_norms=True)
    with pytest.raises(ValueError, match="a net with batch norms, found vit-tiny"):
        settings_for(data, net="vit-tiny", patch=8, init=tmp_path, frozen_norms=True)


def test_a_pretrained_encoder_is_the_start(tmp_path, halves):
    data = halves(tmp_path / "data", train=3, val=1)
    pretrain = PretrainSettings(
        data=(data,), net="vit-tiny", patch=8, height=32, width=32, decoder_depth=1
    )
    loop = PretrainLoopSettings(epochs=1, batch=4, warmup_epochs=0, workers=0)
    runs.start("pretrain", pretrain, loop, tmp_path / "run")
    tensors, _ = checkpoint.best(tmp_path / "run")
    learn = settings_for(data, net="vit-tiny", patch=8, init=tmp_path / "run")
    network = ClassifyTask(learn, 0).network()
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, tensors[f"encoder.{name}"]), name
    # colour images on what grey ones taught
    colour = ClassifyTask(learn.model_copy(update={"channels": 3}), 0).network()
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = network.encoder(grey)
        torch.testing.assert_close(colour.encoder(grey.expand(-1, 3, -1, -1)), expected)


def test_the_first_stages_learn_slowest(tmp_path, halves):
    data = halves(tmp_path / "data", train=2, val=1)
    settings = settings_for(data, net="vit-tiny", patch=8, learning_rate=1.0, weight_decay=0.1)
    network = ClassifyTask(settings, 0).network()
    rate, decay = {}, {}
    for group in layer_groups(network, settings, 0.5):
        for parameter in group["params"]:
            rate[parameter], decay[parameter] = group["lr"], group["weight_decay"]
    assert rate.keys() == set(network.parameters())
    encoder = network.encoder
    assert rate[network.head.bias] == 1 and rate[encoder.norm.weight] == 0.5
    # He et al. 2022: 12 blocks, the patches and the places beneath them
    for i, block in enumerate(encoder.blocks):
        assert rate[block.attn.qkv.weight] == 0.5 ** (12 - i)
    for first in (encoder.pos_embed, encoder.cls_token, encoder.patch_embed.proj.weight):
        assert rate[first] == 0.5**13
    assert decay[encoder.cls_token] == decay[network.head.bias] == 0
    assert decay[network.head.weight] == decay[encoder.patch_embed.proj.weight] == 0.1


def test_few_labels_are_drawn_by_the_seed(tmp_path, halves):
    data = halves(tmp_path / "data")
    (data / "train" / "left" / "0.png").rename(data / "train" / "left" / "9.png")
    for i in range(1, 6):
        (data / "train" / "left" / f"{i}.png").unlink()
    dataset = open_dataset(data, "train")
    few = draw_labels(dataset, 4, seed=1)
    # a class that has fewer gives all
    assert np.bincount([s.label for s in few]).tolist() == [4, 1, 4]
    again, other = draw_labels(dataset, 4, seed=1), draw_labels(dataset, 4, seed=2)
    assert [s.path for s in again] == [s.path for s in few] != [s.path for s in other]
    # the class of one image is learned, and met as often as the others
    task = ClassifyTask(settings_for(data, labels_per_class=4), 1)
    weights, images = task.examples().weights(), few.samples
    shares = [
        sum(w for w, s in zip(weights, images, strict=True) if s.label == k) for k in range(3)
    ]
    assert task.classes == ("even", "left", "right") and shares == pytest.approx([1 / 3] * 3)
    assert "9 images, 9 held out" in task.spec()["data"]


def test_nothing_held_out_keeps_the_newest_weights(tmp_path, halves):
    data = halves(tmp_path / "data")
    for path in (data / "val").rglob("*.png"):
        path.rename(data / "train" / path.parent.name / f"val-{path.name}")
    learn = settings_for(data, net="cheon-cnn", validation=0.0)
    loop = LOOP.model_copy(update={"epochs": 2})
    assert runs.start("classify", learn, loop, tmp_path / "run") == {"fitness": 0.0}
    _, state = trained_network(tmp_path / "run")
    assert state["epoch"] == 1 and "27 images, 0 held out" in state["spec"]["data"]
    # without a val folder a share is held out, and the file will tell which
    spec = ClassifyTask(settings_for(data, clean=("even",)), 0).spec()
    assert "24 images, 3 held out" in spec["data"] and spec["clean"] == ["even"]
    assert len(spec["held_out"]) == 3 and all((data / name).is_file() for name in spec["held_out"])
    assert {Path(name).parts[:2] for name in spec["held_out"]} == {
        ("train", name) for name in spec["classes"]
    }


def test_views_keep_the_whole_image(tmp_path, halves):
    """A defect of a pixel or two anywhere but at the very border is in every view."""
    data = halves(tmp_path / "data", train=1, val=1)
    spot = np.full((64, 64), 20, np.uint8)
    for row, column in ((10, 10), (10, 53), (53, 10), (53, 53), (32, 32)):
        spot[row - 1 : row + 2, column - 1 : column + 2] = 220
    cv2.imwrite(str(data / "train" / "left" / "0.png"), spot)
    views = ClassViewSettings(brightness=0, contrast=0)
    task = ClassifyTask(settings_for(data, height=64, width=64, augment=views), 0)
    examples = task.examples()
    place = next(
        i for i, s in enumerate(open_dataset(data, "train")) if s.path.parent.name == "left"
    )
    seen = set()
    for seed in range(20):
        image, label = examples.example(place, np.random.default_rng(seed))
        assert image.shape == (1, 64, 64) and label == 1
        bright = (image[0].numpy() > 0).astype(np.uint8)
        assert cv2.connectedComponents(bright)[0] - 1 >= 5
        seen.add(image.numpy().tobytes())
    assert len(seen) == 20


@pytest.fixture
def paired(tmp_path):
    """Images of noise, and partners that are bright or dark; the first of a class has none."""
    rng = np.random.default_rng(0)
    rows = ["high,low"]
    for split, count in (("train", 9), ("val", 4)):
        for name, grey in (("bright", 200), ("dark", 40)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (32, 32), np.uint8))
                if i:
                    low = rng.integers(grey - 30, grey + 30, (40, 40), np.uint8)
                    cv2.imwrite(str(folder / f"{i}-low.png"), low)
                    here = f"{split}/{name}/{i}"
                    rows.append(f"{here}.png,{here}-low.png")
    (tmp_path / "data" / "pairs.csv").write_text("\n".join(rows))
    return tmp_path / "data"


def test_two_magnifications_are_looked_at_together(tmp_path, paired):
    learn = settings_for(paired, net="cheon-cnn", pairs=paired / "pairs.csv", learning_rate=3e-3)
    loop = ClassifyLoopSettings(**{**LOOP.model_dump(), "epochs": 8, "ema_decay": 0.9})
    figures = runs.start("classify", learn, loop, tmp_path / "run")
    network, state = trained_network(tmp_path / "run")
    # a partner is no image of its own
    assert "18 images, 8 held out, 16 with a partner" in state["spec"]["data"]
    # the six held-out images with a partner are known by it
    assert figures["accuracy"] >= 6 / 8
    *inputs, labels = (
        ClassifyTask(learn, 0)
        .examples()
        .collate(
            [
                ClassifyTask(learn, 0).examples().example(i, np.random.default_rng(i))
                for i in range(9)
            ]
        )
    )
    image, low, has = inputs
    assert has[0] == 0 and torch.equal(low[0], image[0]) and 0 < has.sum() < 9
    assert labels.tolist() == [0] * 9


@pytest.mark.slow
@pytest.mark.parametrize("net", ["cheon-cnn", "spa-net"])
def test_a_file_of_two_magnifications_knows_when_one_is_missing(tmp_path, paired, net):
    learn = settings_for(paired, net=net, pairs=paired / "pairs.csv")
    runs.start("classify", learn, LOOP.model_copy(update={"epochs": 1}), tmp_path / "run")
    meta = export(tmp_path / "run", tmp_path / "two.onnx")
    assert meta.two_magnifications and meta.network == f"{net}, two magnifications fused late"
    network, _ = trained_network(tmp_path / "run")
    session = onnxruntime.InferenceSession(tmp_path / "two.onnx")
    image, low = np.random.default_rng(0).random((2, 3, 1, 32, 32), np.float32)
    has = np.array([1, 0, 1], np.float32)
    given = {"images": image, "images_low": low, "has_low": has}
    found = session.run(["logits", "features"], given)
    with torch.no_grad():
        expected = network(*(torch.from_numpy(v) for v in given.values()))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-3)
    low[1] = 0
    np.testing.assert_array_equal(session.run(["logits"], given)[0][1], found[0][1])


def test_a_class_without_a_training_image_is_left_out_with_a_word(tmp_path, halves, caplog):
    data = halves(tmp_path / "data")
    for path in (data / "train" / "left").iterdir():
        path.unlink()
    task = ClassifyTask(settings_for(data), 0)
    assert task.classes == ("even", "right") and "12 images, 6 held out" in task.spec()["data"]
    assert [r.getMessage() for r in caplog.records] == [
        f"{data}: class left has no training image: left out"
    ]


def test_a_broken_image_is_left_out_with_a_word(paired, caplog):
    def cut(path):
        path.write_bytes(path.read_bytes()[:400])

    for name in ("train/bright/3.png", "train/bright/5-low.png", "val/dark/2.png"):
        cut(paired / name)
    task = ClassifyTask(settings_for(paired, net="cheon-cnn", pairs=paired / "pairs.csv"), 0)
    paths = [s.path for s in open_dataset(paired, "train") if "low" not in s.path.stem]
    names = [f"{p.parent.name}/{p.stem}" for p in paths]
    examples = task.examples()
    broken, following = names.index("bright/3"), names.index("bright/4")
    seen = [examples.example(i, np.random.default_rng(0)) for i in (broken, following)]
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    partnerless = [
        examples.example(names.index("bright/5"), np.random.default_rng(i))[2] for i in range(9)
    ]
    assert sum(partnerless) == 0
    task.evaluate(task.network())
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 3 and all("left out" in t for t in told)
    for path in (paired / "train" / "bright").iterdir():
        cut(path)
    with pytest.raises(DataError, match="expected images of class bright to learn from"):
        ClassifyTask(settings_for(paired), 0).examples().example(0, np.random.default_rng(0))


def test_bad_data_is_told(tmp_path, halves):
    data = halves(tmp_path / "data")
    with pytest.raises(SettingsError, match="expected some of even, left, right, found up"):
        ClassifyTask(settings_for(data, leave_out=("up",)), 0)
    with pytest.raises(SettingsError, match="clean: expected some of"):
        ClassifyTask(settings_for(data, clean=("none",)), 0)
    with pytest.raises(DataError, match="at least two classes, found even"):
        ClassifyTask(settings_for(data, leave_out=("left", "right")), 0)
    (tmp_path / "pairs.csv").write_text("high,low\nnone.png,none.png\n")
    with pytest.raises(DataError, match="expected partners of training images, found none"):
        ClassifyTask(settings_for(data, pairs=tmp_path / "pairs.csv"), 0)
