"""From outlined instances to a run, an exported file, and the same answers from both."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from semiscope.cli.learning import dial
from semiscope.compress.export import export, trained_network
from semiscope.compress.fuse import fuse
from semiscope.compress.graph import round_weights
from semiscope.errors import DataError, SettingsError
from semiscope.infer.model import Model
from semiscope.infer.sampling import Dial, alpha_bar
from semiscope.inspection.dial import DialSettings
from semiscope.inspection.score import ScoreSettings, score
from semiscope.learn import run as runs
from semiscope.learn.loop import LoopSettings
from semiscope.learn.losses.diffusion import DiffusionLossSettings, diffusion_loss
from semiscope.learn.tasks.common import StillSettings
from semiscope.learn.tasks.diffuse import DiffuseSettings, DiffuseTask, noisy_boxes
from semiscope.nets.diffusion_inst import DiffusionInst

SMALL = {
    "backbone": "efficientnet-lite0",
    "features": 32,
    "heads": 2,
    "hidden": 8,
    "feedforward": 32,
    "mask_features": 16,
    "boxes": 10,
    "height": 64,
    "width": 96,
    "channels": 1,
    "learning_rate": 0.001,
    "sampling": {"boxes": 12, "steps": 1, "seed": 0},
}
LOOP = LoopSettings(epochs=1, batch=4, warmup_epochs=0, workers=0, ema_decay=0.5, ema_ramp=1)


def settings_for(data, **changes) -> DiffuseSettings:
    augment = StillSettings()
    return DiffuseSettings(data=data, augment=augment, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, outlined):
    folder = tmp_path_factory.mktemp("diffuse")
    figures = runs.start("diffuse", settings_for(outlined(folder / "data")), LOOP, folder / "run")
    return folder, figures


@pytest.fixture(scope="module")
def exported(trained):
    folder, _ = trained
    meta = export(folder / "run", folder / "model.onnx", weights=8)
    return folder, meta, Model.load(folder / "model.onnx")


def images_of(folder):
    files = sorted((folder / "data/val/images").iterdir())
    return [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in files]


def test_a_view_carries_its_masks(tmp_path, outlined):
    examples = DiffuseTask(settings_for(outlined(tmp_path)), 0).examples()
    views = [examples.example(i, np.random.default_rng(i)) for i in (0, 1, 3)]  # the last is clean
    images, rows, masks = examples.collate(views)
    assert images.shape == (3, 1, 64, 96) and rows.shape == (2, 6)
    assert masks.shape == (2, 64, 96) and masks.dtype == torch.uint8
    for row, mask in zip(rows, masks, strict=True):
        y, x = torch.nonzero(mask, as_tuple=True)
        width, height = row[4:].tolist()
        assert x.max() - x.min() + 1 == pytest.approx(width, abs=1.5)
        assert y.max() - y.min() + 1 == pytest.approx(height, abs=1.5)
        image = images[int(row[0]), 0]
        assert image[mask.bool()].mean() > image[~mask.bool()].mean() + 1


def test_boxes_alone_are_no_data_to_learn_masks_from(tmp_path, outlined):
    root = outlined(tmp_path / "data")
    (root / "train/labels/0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"0\.png.*outline.*train detect"):
        DiffuseTask(settings_for(root), 0)


def test_noise_leaves_true_boxes_at_time_zero_and_nothing_at_the_last():
    rows = torch.tensor([[0, 1, 30.0, 20, 10, 8], [0, 0, 50, 40, 20, 30], [2, 0, 60, 30, 4, 4]])
    level = torch.from_numpy(alpha_bar()).float()
    size = torch.tensor([96.0, 64, 96, 64])
    early = noisy_boxes(rows, torch.tensor([0, 0, 0]), level, size, 6)
    assert early.shape == (3, 6, 4)
    first = {tuple(b) for b in early[0, :2].round().int().tolist()}
    # alpha_bar of time 0 is 0.99996: boxes move by a pixel or so
    for box in ((25, 16, 35, 24), (40, 25, 60, 55)):
        assert min(max(abs(a - b) for a, b in zip(box, f, strict=True)) for f in first) <= 2
    # a clean image begins with its own frame
    assert (early[1, 0] - torch.tensor([0.0, 0, 96, 64])).abs().max() < 2
    late = noisy_boxes(rows.repeat(300, 1), torch.full((3,), 999), level, size, 500)
    centre = (late[0, :, 0] + late[0, :, 2]) / 2 / 96
    assert abs(float(centre.mean()) - 0.5) < 0.05 and 0.2 < float(centre.std()) < 0.3


def test_more_instances_than_boxes_are_chosen_from(tmp_path, outlined):
    task = DiffuseTask(settings_for(outlined(tmp_path), boxes=5), 0)
    rows = torch.tensor([[0, i % 2, 20.0 + 3 * i, 30, 9, 9] for i in range(9)])
    masks = torch.zeros(9, 64, 96, dtype=torch.uint8)
    masks[:, 26:34, 20:40] = 1
    loss, parts = task.loss(task.network(), (torch.randn(1, 1, 64, 96), rows, masks))
    loss.backward()
    assert torch.isfinite(loss.detach()) and float(parts["mask"]) > 0


def test_a_few_steps_lower_the_loss_and_reach_every_parameter(tmp_path, outlined):
    task = DiffuseTask(settings_for(outlined(tmp_path)), 0)
    torch.manual_seed(0)
    network = task.network().train()
    optimiser = task.optimiser(network)
    examples = task.examples()
    batch = examples.collate([examples.example(i, np.random.default_rng(0)) for i in range(4)])
    losses = []
    for _ in range(12):
        torch.manual_seed(1)
        loss, _ = task.loss(network, batch)
        loss.backward()
        if not losses:
            # Lite0's last stage and every head learn; nothing is left out
            missed = [n for n, p in network.named_parameters() if p.grad is None]
            assert missed == []
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_the_run_is_a_segmenter_that_says_its_figures(trained, exported):
    _, figures = trained
    _, meta, _ = exported
    assert set(figures) == {"fitness", "map", "map50", "precision", "recall"}
    assert meta.task == "segment" and set(meta.class_ap) == {"square", "triangle"}
    assert meta.decoder.sampling.boxes == 12 and meta.gflops > 0


@pytest.mark.parametrize(("boxes", "steps"), [(12, 1), (5, 3), (40, 2), (1, 1)])
def test_the_file_answers_as_torch_with_any_boxes_and_steps(trained, exported, boxes, steps):
    folder, _, model = exported
    network = fuse(trained_network(folder / "run")[0], implicit=True)
    round_weights(network, 8)
    images = images_of(folder)
    prepared = [model.prepare(i) for i in images]
    ours = model.dialled(Dial(boxes=boxes, steps=steps, seed=7)).run(prepared)
    batch = np.stack([p.tensor for p in prepared])
    further = model.meta.decoder.inputs(Dial(boxes=boxes, steps=steps, seed=7))
    with torch.no_grad():
        theirs = network(torch.from_numpy(batch), *map(torch.from_numpy, further.values()))
    assert ours[0].shape == (steps, 4, boxes, 2) and ours[3].shape == (4, 8, 16, 24)
    for mine, his in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, his.numpy(), atol=2e-3, rtol=1e-3)


def test_an_image_s_answer_is_its_own_whatever_its_batch(exported):
    folder, _, model = exported
    images = images_of(folder)
    dialled = model.dialled(Dial(boxes=20, steps=3))
    together = dialled.predict(images, min_score=0.0)
    for image, found in zip(images, together, strict=True):
        (alone,) = dialled.predict([image], min_score=0.0)
        assert len(alone) == len(found) > 0
        np.testing.assert_allclose(alone.score, found.score, atol=1e-5)
        np.testing.assert_allclose(alone.xyxy, found.xyxy, atol=1e-2)
    (other,) = dialled.dialled(Dial(boxes=20, steps=3, seed=1)).predict(images[:1], min_score=0.0)
    assert len(other) != len(together[0]) or not np.allclose(other.xyxy, together[0].xyxy)


def test_masks_lie_in_their_boxes_and_in_the_image(exported):
    folder, _, model = exported
    for image, found in zip(images_of(folder), model.predict(images_of(folder), 0.0), strict=True):
        height, width = image.shape
        assert found.shapes is not None and len(found.shapes) == len(found)
        for box, mask in zip(found.xyxy, found.shapes, strict=True):
            rows, columns = mask.bits.shape
            assert 0 <= mask.x <= box[0] and mask.x + columns <= min(width, np.ceil(box[2]))
            assert 0 <= mask.y <= box[1] and mask.y + rows <= min(height, np.ceil(box[3]))


def test_a_model_without_random_boxes_refuses_the_dial():
    with pytest.raises(SettingsError, match="boxes.*diffusion"):
        Model.load("sem-lines").dialled(Dial(boxes=50))


def test_a_start_from_another_network_takes_what_fits(trained, tmp_path):
    folder, _ = trained
    theirs = trained_network(folder / "run")[0].network.state_dict()
    wider = settings_for(folder / "data", init=folder / "run", features=64)
    ours = DiffuseTask(wider, 0).network().state_dict()
    backbone = [k for k in theirs if k.startswith("backbone") and theirs[k].is_floating_point()]
    assert backbone and all(torch.equal(ours[k], theirs[k]) for k in backbone)
    assert ours["heads.0.linear2.weight"].shape != theirs["heads.0.linear2.weight"].shape
    shutil.rmtree(tmp_path)


def test_the_dial_is_measured_and_its_knee_written_into_the_file(exported, tmp_path, capsys):
    folder, meta, _ = exported
    file, plot = tmp_path / "dialled.onnx", tmp_path / "dial.png"
    shutil.copy(folder / "model.onnx", file)
    settings = DialSettings(model=str(file), data=folder / "data", boxes=(5, 20), steps=(1, 2))
    assert dial(settings=settings, plot=plot, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(p["boxes"], p["steps"]) for p in told["points"]] == [(5, 1), (5, 2), (20, 1), (20, 2)]
    assert all(p["seconds"] > 0 and 0 <= p["map"] <= 1 for p in told["points"])
    again = Model.load(file)
    chosen = again.meta.decoder.sampling
    assert (chosen.boxes, chosen.steps) == (told["knee"]["boxes"], told["knee"]["steps"])
    assert len(again.meta.dial) == 4 and told["written"]
    # all else is as it was, and the new choice is what the file now does by itself
    assert again.meta.model_copy(update={"decoder": meta.decoder, "dial": ()}) == meta
    image = images_of(folder)[:1]
    (ours,) = again.predict(image, min_score=0.0)
    (theirs,) = again.dialled(Dial(boxes=chosen.boxes, steps=chosen.steps)).predict(image, 0.0)
    np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_masks_are_compared_and_the_dial_is_an_option_of_evaluation(exported):
    folder, _, _ = exported
    settings = ScoreSettings(
        model=str(folder / "model.onnx"), data=(folder / "data",), boxes=7, steps=2, seed=3
    )
    report, failed = score(settings)
    assert not failed and report.images == 4
    boxes, _ = score(settings.model_copy(update={"shape": "box"}))
    assert boxes.images == 4


@pytest.mark.parametrize("classes", [1, 30])
def test_one_class_and_thirty_learn(classes):
    network = DiffusionInst(classes, "resnet18", 1, 32, 2, 8, 32, 16)
    # every fresh score is the prior's whatever the number of classes, and nothing else is touched
    bias = -np.log(99)
    for head in network.heads:
        assert head.logits.bias.tolist() == pytest.approx([bias] * classes)
        assert head.deltas.bias.tolist() == [0.0] * 4
    rows = torch.tensor([[0, classes - 1, 30.0, 30, 10, 8]])
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 26:34, 25:35] = 1
    boxes = torch.tensor([[[20.0, 20, 40, 40]]]).repeat(1, 6, 1)
    stages, features = network(torch.randn(1, 1, 64, 64), boxes, torch.tensor([500.0]))
    loss, _ = diffusion_loss(stages, features, rows, masks, DiffusionLossSettings())
    loss.backward()
    assert torch.isfinite(loss.detach())
    assert all(p.grad is not None for p in network.parameters())


def test_sides_that_do_not_fit_the_strides_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="multiple of 32"):
        settings_for(tmp_path, height=100)


@pytest.mark.parametrize(
    ("backbone", "millions"), [("resnet50", 112.3), ("resnet101", 131.2), ("swin-b", 175.1)]
)
def test_full_width_has_the_paper_s_numbers_of_parameters(backbone, millions):
    with torch.device("meta"):
        network = DiffusionInst(5, backbone)
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)
    assert sum(p.numel() for p in network.heads[0].parameters()) == 13_780_258
