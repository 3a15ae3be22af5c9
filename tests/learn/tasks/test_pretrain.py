"""Pre-training without labels: its views, its parts, its bad input, and the run it leaves."""

import json
import logging

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from semiscope.cli import main
from semiscope.compress.export import export
from semiscope.data.pairs import Pair
from semiscope.errors import DataError, SettingsError
from semiscope.learn import checkpoint
from semiscope.learn import run as runs
from semiscope.learn.pretrain_examples import PretrainExamples, PretrainViewSettings, find_images
from semiscope.learn.tasks.classify import ClassifySettings, ClassifyTask
from semiscope.learn.tasks.pretrain import (
    PretrainLoopSettings,
    PretrainSettings,
    PretrainTask,
    retrieval,
)
from semiscope.nets.vit import VITS, Vit, load_vit

LOOP = PretrainLoopSettings(epochs=2, batch=4, warmup_epochs=0, workers=0, evaluate_every=1)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A net of the least size, so that tests are fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VITS, "vit-tiny", (16, 1, 2))
        yield


def write(path, x, y, side=48):
    """A dot on grey: its place is what an image shows."""
    image = np.full((side, side), 90, np.uint8)
    cv2.circle(image, (x, y), 5, 220, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


@pytest.fixture(scope="module")
def defects(tmp_path_factory):
    """Ten defects with both magnifications, one with either alone, one in no list; and a test."""
    root = tmp_path_factory.mktemp("pretrain") / "data"
    rng, rows = np.random.default_rng(0), ["high,low"]
    for i in range(12):
        high, low = f"unlabelled/high_{i}.png", f"unlabelled/low_{i}.png"
        for name, known in ((high, i != 11), (low, i != 10)):
            if known:
                write(root / name, *rng.integers(8, 40, 2).tolist())
        rows.append(
            f"{high},{low}" if i < 10 else f"{high if i == 10 else ''},{low[: 99 * (i - 10)]}"
        )
    write(root / "train/A/known.png", 20, 20)
    write(root / "test/A/never.png", 20, 20)
    (root / "pairs.csv").write_text("\n".join(rows) + "\n")
    return root


def settings_for(root, **changes) -> PretrainSettings:
    small = {"net": "vit-tiny", "patch": 8, "height": 32, "width": 32, "decoder_width": 32}
    return PretrainSettings(**{"data": (root,), **small, "decoder_depth": 1, **changes})


def batch_of(task, count=6):
    rng = np.random.default_rng(0)
    examples = task.examples()
    return examples.collate([examples.example(i % len(examples), rng) for i in range(count)])


def test_a_test_folder_is_never_learned_from(defects):
    names = {p.name for p in find_images([defects, defects / "unlabelled"])}
    assert "never.png" not in names and "known.png" in names
    assert len(names) == 23 and len(find_images([defects, defects / "unlabelled"])) == 23


def test_what_is_paired_is_seen_twice_at_each_magnification(defects):
    task = PretrainTask(settings_for(defects, pairs=defects / "pairs.csv"), 0)
    assert len(task.examples()) == 12  # 13 defects, one held out
    batch = batch_of(task, 12)
    assert batch.views.shape == (12, 2, 2, 1, 32, 32) and batch.kept.shape == (12, 2, 2, 12)
    assert sorted(batch.present.sum(1).tolist()) in ([1] * 2 + [2] * 10, [1] * 3 + [2] * 9)
    assert not batch.views[~batch.present].any()
    shown = batch.views[batch.present]
    assert (shown[:, 0] != shown[:, 1]).flatten(1).any(1).all()
    assert all(len(set(row.tolist())) == 12 for row in batch.kept[batch.present].flatten(0, 1))


def views_of(path, **changes):
    """Many views (2 n, 1, 32, 32) of one image, in [0, 1]."""
    write(path, 16, 16, 32)
    spec = PretrainTask(settings_for(path.parent), 0).input
    augment = PretrainViewSettings(brightness=0, contrast=0, shot_noise=0, **changes)
    examples = PretrainExamples([Pair(path, None)], spec, augment, 16, 8)
    rng = np.random.default_rng(0)
    views = torch.cat([examples.example(0, rng)[0][0] for _ in range(16)])
    return views * spec.std[0] + spec.mean[0]


def test_a_view_of_the_whole_image_moves_nothing(tmp_path):
    write(tmp_path / "other.png", 8, 8)
    views = views_of(tmp_path / "dot.png", least_area=1.0)
    image = cv2.imread(str(tmp_path / "dot.png"), cv2.IMREAD_GRAYSCALE) / 255
    expected = torch.from_numpy(np.sort(image.ravel())).float()
    torch.testing.assert_close(views.flatten(1).sort(1).values, expected.expand(32, -1))


def test_a_crop_magnifies_and_never_loses_what_is_in_the_middle(tmp_path):
    write(tmp_path / "other.png", 8, 8)
    views = views_of(tmp_path / "dot.png", least_area=0.25)
    image = cv2.imread(str(tmp_path / "dot.png"), cv2.IMREAD_GRAYSCALE)
    areas = (views > 0.6).flatten(1).sum(1) / int((image > 153).sum())
    # of a window of half the side the middle is at worst a corner, where a quarter of the dot shows
    assert 0.9 < areas.min() and 1.8 < areas.max() < 4.2


def test_the_loss_is_equation_7(defects):
    task = PretrainTask(settings_for(defects, pairs=defects / "pairs.csv"), 0)
    torch.manual_seed(0)
    loss, parts = task.loss(task.network(), batch_of(task))
    assert parts.keys() == {"reconstruction", "contrast"}
    expected = 0.97 * parts["reconstruction"] + 0.03 * parts["contrast"]
    torch.testing.assert_close(loss.detach(), expected)


def test_what_is_switched_off_is_not_built(defects):
    settings = settings_for(defects, self_consistency=False, cross_magnification=False)
    task = PretrainTask(settings, 0)
    network = task.network()
    loss, parts = task.loss(network, batch_of(task))
    torch.testing.assert_close(loss.detach(), 0.97 * parts["reconstruction"])
    assert parts.keys() == {"reconstruction"} and network.projection is None
    assert task.evaluate(network).keys() == {"reconstruction", "fitness"}


def test_a_backbone_learns_the_same_way_and_goes_on_from_its_weights(defects, tmp_path):
    small = {"net": "resnet18", "height": 64, "width": 64, "patch": 16, "validation": 0.3}
    with pytest.raises(ValidationError, match="multiple of resnet18's stride 32, found 48"):
        settings_for(defects, **{**small, "height": 48})
    learn = settings_for(defects, pairs=defects / "pairs.csv", learning_rate=1e-3, **small)
    figures = runs.start("pretrain", learn, LOOP, tmp_path / "run")
    assert figures.keys() == {"reconstruction", "fitness", "self", "cross", "spread"}
    tensors, _ = checkpoint.best(tmp_path / "run")
    start = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    save_file(start, tmp_path / "start.safetensors")
    weights = {k: v for k, v in start.items() if k.endswith(("weight", "bias"))}
    with pytest.raises(ValidationError, match="frozen_norms: expected weights"):
        settings_for(defects, **small, frozen_norms=True)
    again = settings_for(
        defects, **small, pretrained=str(tmp_path / "start.safetensors"), frozen_norms=True
    )
    encoder = PretrainTask(again, 0).network().train().encoder
    assert not any(m.training for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(dict(encoder.named_parameters()), weights)
    labelled = {"data": tmp_path / "labelled", "net": "resnet18", "height": 64, "width": 64}
    for name in "ab":
        for i in range(2):
            write(tmp_path / f"labelled/{name}/{i}.png", 20, 20)
    task = ClassifyTask(ClassifySettings(**labelled, init=tmp_path / "run"), 0)
    torch.testing.assert_close(dict(task.network().encoder.named_parameters()), weights)


def test_patches_may_be_normed(defects):
    task = PretrainTask(settings_for(defects, patch_norm=True), 0)
    network = task.network().eval()
    with torch.no_grad():
        network.head.weight.zero_()
        _, parts = task.loss(network, batch_of(task, 4))
    # nothing told of 64 values of variance 1, of which torch's is the unbiased one
    assert parts["reconstruction"].item() == pytest.approx(63 / 64, abs=2e-3)


def test_it_learns(defects):
    task = PretrainTask(settings_for(defects, pairs=defects / "pairs.csv", learning_rate=5e-3), 0)
    torch.manual_seed(0)
    network, batch = task.network(), batch_of(task, 8)
    optimiser, history = task.optimiser(network), []
    for _ in range(25):
        loss, parts = task.loss(network, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append({k: float(v) for k, v in parts.items()})
    assert history[-1]["reconstruction"] < 0.6 * history[0]["reconstruction"]
    assert history[-1]["contrast"] < 0.9 * history[0]["contrast"]


def test_views_that_find_each_other_and_views_that_are_all_one():
    apart = torch.eye(5)[:, None, None].expand(-1, 2, 2, -1)
    everywhere = torch.ones(5, 2, dtype=torch.bool)
    figures = retrieval(apart, everywhere)
    assert figures == pytest.approx({"self": 1.0, "cross": 1.0, "spread": 1 - 1 / 5})
    assert retrieval(apart[:1].expand(5, -1, -1, -1), everywhere)["spread"] == 0
    # two defects of which the low magnifications are mixed up: across, nothing is found
    mixed = apart[:2].clone()
    mixed[:, 1] = mixed[[1, 0], 1]
    assert retrieval(mixed, everywhere[:2]) == pytest.approx(
        {"self": 1.0, "cross": 0.0, "spread": 0.5}
    )
    assert "cross" not in retrieval(apart, torch.tensor([[True, False]] * 5))


def test_a_run_leaves_an_encoder_that_another_size_takes(defects, tmp_path):
    learn = settings_for(defects, pairs=defects / "pairs.csv", validation=0.3)
    figures = runs.start("pretrain", learn, LOOP, tmp_path / "run")
    assert figures.keys() == {"reconstruction", "fitness", "self", "cross", "spread"}
    state = json.loads((tmp_path / "run/best/state.json").read_text())
    assert state["epoch"] == 1 and state["spec"]["data"] == "23 images of data, 10 pairs"
    tensors = {
        k.removeprefix("encoder."): v
        for k, v in checkpoint.best(tmp_path / "run")[0].items()
        if k.startswith("encoder.")
    }
    built = state["spec"]["built"]
    Vit(**built).load_state_dict(tensors)
    larger = Vit(**{**built, "image": (64, 32)})
    load_vit(larger, tensors, (4, 4))
    torch.testing.assert_close(larger.blocks[0].mlp.fc1.weight, tensors["blocks.0.mlp.fc1.weight"])
    assert runs.resume(tmp_path / "run") == figures
    with pytest.raises(SettingsError, match="train classify --init"):
        export(tmp_path / "run", tmp_path / "model.onnx")


def test_the_command_line_tells_what_comes_next(defects, tmp_path, monkeypatch, capsys):
    command = (
        f"semiscope train pretrain --data {defects} --pairs {defects}/pairs.csv --net vit-tiny"
    )
    command += " --patch 8 --height 32 --width 32 --decoder-width 32 --decoder-depth 1 --batch 6"
    command += f" --epochs 1 --no-self-consistency --workers 0 --out {tmp_path}/run"
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert (
        f"train classify --data FOLDERS --net NET --init {tmp_path}/run" in capsys.readouterr().out
    )
    assert "self_consistency = false" in (tmp_path / "run/settings.toml").read_text()


# ------------------------------------------------------------------------------------ bad input


def test_an_image_that_breaks_off_gives_way(tmp_path, caplog):
    for i in range(4):
        write(tmp_path / f"{i}.png", 10 * i + 5, 20)
    data = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(data[:-40])
    (tmp_path / "note.png").write_text("no image")
    task = PretrainTask(settings_for(tmp_path), 0)
    with caplog.at_level(logging.WARNING):
        batch = batch_of(task, 8)
    assert batch.present[:, 0].all()
    assert sum("1.png" in r.message for r in caplog.records) <= 1


def test_images_that_are_all_broken_are_an_error(tmp_path):
    for i in range(2):
        write(tmp_path / f"{i}.png", 10, 20)
        (tmp_path / f"{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes()[:-40])
    with pytest.raises(DataError, match="none that can be read whole"):
        batch_of(PretrainTask(settings_for(tmp_path), 0))


def test_an_empty_folder_is_an_error(tmp_path):
    (tmp_path / "unlabelled").mkdir()
    with pytest.raises(DataError, match="expected images to learn from, found 0 files"):
        PretrainTask(settings_for(tmp_path), 0)
    with pytest.raises(DataError, match="found no folder"):
        PretrainTask(settings_for(tmp_path / "none"), 0)
    write(tmp_path / "unlabelled/one.png", 9, 9)
    with pytest.raises(DataError, match="at least two images"):
        PretrainTask(settings_for(tmp_path), 0)


def test_pairs_that_name_nothing_of_the_data_are_an_error(defects):
    with pytest.raises(DataError, match="expected pairs of images in train, found none"):
        PretrainTask(settings_for(defects / "train", pairs=defects / "pairs.csv"), 0)


def test_consistency_across_needs_pairs(defects):
    with pytest.raises(SettingsError, match="cross_magnification"):
        PretrainTask(settings_for(defects, self_consistency=False), 0)


@pytest.mark.parametrize("wrong", [{"height": 36}, {"patch": 32}])
def test_an_image_of_broken_patches_is_refused(defects, wrong):
    with pytest.raises(ValidationError, match="patch"):
        settings_for(defects, **{"patch": 8, **wrong})
