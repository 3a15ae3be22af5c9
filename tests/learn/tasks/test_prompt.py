"""From class maps to an adapter, a merged file, and the same masks from both."""

import copy
import shutil

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from semiscope.compress.promptable_graph import export_run
from semiscope.errors import DataError, SettingsError
from semiscope.infer.promptable import Promptable
from semiscope.learn import run as runs
from semiscope.learn.prompt_examples import PromptSettings, draw_prompts
from semiscope.learn.promptable import TorchPrompter, load_adapter, load_base
from semiscope.learn.tasks import prompt
from semiscope.learn.tasks.prompt import PromptLoopSettings, PromptTask, PromptTaskSettings
from semiscope.nets.lora import lora_tensors, merge_lora
from semiscope.nets.mobile_sam import MobileSAM

SIDE = 64
LOOP = PromptLoopSettings(
    epochs=1, batch=2, warmup_epochs=0, workers=0, ema_decay=0, evaluate_every=1
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint of MobileSAM's form with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base") / "mobile_sam.pt"
    torch.save(MobileSAM().state_dict(), path)
    return f"mobile-sam:{path}"


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """Class maps: a layer across the image and two particles."""
    root = tmp_path_factory.mktemp("layers")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            indices = np.zeros((48, 64), np.uint8)
            indices[8 + i : 20 + i] = 1
            for x in (10, 40):
                cv2.circle(indices, (x + i, 34), 7, 2, -1)
            grey = np.array([40, 120, 220])[indices] + rng.normal(0, 9, indices.shape)
            cv2.imwrite(str(root / split / "images" / f"{i}.png"), grey.clip(0, 255).astype("u1"))
            cv2.imwrite(str(root / split / "masks" / f"{i}.png"), indices)
    (root / "classes.txt").write_text("background\nlayer\nparticle\n")
    return root


def settings_for(base, layers, **changes):
    return PromptTaskSettings(base=base, rank=2, **{"data": (layers,), "side": SIDE, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base, layers):
    folder = tmp_path_factory.mktemp("prompt") / "run"
    learn = settings_for(base, layers, corrections=1, learning_rate=0.01)
    return folder, runs.start("prompt", learn, LOOP, folder)


def test_a_run_keeps_the_adapter_alone_and_says_how_good_it_is(trained, base):
    folder, figures = trained
    assert {"fitness", "box_iou", "point_iou", "box_iou_layer", "point_iou_particle"} <= set(
        figures
    )
    assert figures["fitness"] == pytest.approx((figures["box_iou"] + figures["point_iou"]) / 2)
    expected = 2 * 7424
    for file in (folder / "best" / "model.safetensors", *folder.glob("checkpoints/*/network.*")):
        tensors = load_file(file)
        assert sum(t.numel() for t in tensors.values()) == expected
        assert any(t.any() for n, t in tensors.items() if n.endswith("up"))
    assert runs.resume(folder) == figures
    name, learn, loop = runs.read_settings(folder / "settings.toml")
    assert (name, learn.rank, loop.batch) == ("prompt", 2, 2)


@pytest.mark.slow
def test_the_file_of_a_run_answers_as_the_adapted_network(trained, tmp_path, base):
    folder, figures = trained
    meta = export_run(folder, tmp_path / "adapted.onnx", licence="Apache-2.0")
    assert (meta.side, meta.network) == (SIDE, "mobile-sam, LoRA of rank 2 merged")
    assert meta.settings["learn"]["rank"] == 2
    assert meta.metrics["val_box_iou"] == pytest.approx(figures["box_iou"], abs=1e-4)
    network = load_base(base)
    network.resize(SIDE)
    load_adapter(folder / "best" / "model.safetensors", network)
    merge_lora(network)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    boxes = [[5, 5, 30, 30], [20, 10, 58, 44]]
    answers = [
        p.logits(p.encode(pixels), boxes=boxes)[0]
        for p in (Promptable.load(tmp_path / "adapted.onnx", 1), TorchPrompter(network))
    ]
    np.testing.assert_allclose(*answers, rtol=1e-3, atol=1e-3 * np.abs(answers[0]).max())


def test_before_the_first_step_it_is_the_base_bit_for_bit(base, layers):
    task = PromptTask(settings_for(base, layers), 0)
    learner, plain = task.network(), load_base(base)
    plain.resize(SIDE)
    image = torch.randn(1, 3, SIDE, SIDE)
    asked = torch.tensor([[[20.0, 30.0], [0, 0]]]), torch.tensor([[1, -1]])
    rest = torch.zeros(1, 1, 16, 16), torch.zeros(1)
    with torch.no_grad():
        for ours, theirs in zip(
            learner.network(image, *asked, *rest), plain(image, *asked, *rest), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_only_lora_on_queries_and_values_learns_and_the_loss_falls(base, layers):
    task = PromptTask(settings_for(base, layers, learning_rate=0.003), 0)
    torch.manual_seed(0)
    learner = task.network()
    before = copy.deepcopy(nn.Module.state_dict(learner))
    examples, rng = task.examples(), np.random.default_rng(0)
    batch = examples.collate([examples.example(i, rng) for i in range(2)])
    optimiser = task.optimiser(learner)
    losses = []
    for _ in range(6):
        learner.train()  # as the loop does; batch norms must keep their statistics
        loss, _ = task.loss(learner, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = nn.Module.state_dict(learner)
    changed = {k.removeprefix("network.") for k in after if not torch.equal(after[k], before[k])}
    assert changed == lora_tensors(learner.network).keys()


def test_a_view_shows_regions_and_prompts_of_them(base, layers):
    given = PromptSettings(regions=3, box_jitter=0)
    task = PromptTask(settings_for(base, layers, prompts=given), 0)
    rng = np.random.default_rng(1)
    kinds = set()
    for _ in range(12):
        view = task.examples().example(0, rng)
        assert view.image.shape == (3, SIDE, SIDE)
        assert not view.image[:, 48:].any() and not view.truth[:, 48:].any()
        assert sorted(i for a in view.asked for i in a.regions.tolist()) == list(
            range(len(view.truth))
        )
        for asked in view.asked:
            kinds.add(asked.kind)
            for i, region in enumerate(view.truth[asked.regions].bool()):
                check(asked, i, region)
    assert kinds == {"point", "points", "box", "mask"}


def check(asked, i, region):
    """A prompt must fit its region."""
    points, labels = asked.points[i], asked.labels[i].tolist()
    rows, columns = np.nonzero(region.numpy())
    if asked.kind == "box":
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert labels == [2, 3] and points.flatten().tolist() == box
        return
    assert labels[-1] == -1
    if asked.kind == "mask":
        shown = asked.masks[i, 0] > 0
        near = nn.functional.max_pool2d(region[None].float(), 4)[0] > 0
        assert not (shown & ~near).any() and asked.masks[i].max() > asked.masks[i].min()
        return
    assert labels[0] == 1 and (len(labels) == 2) == (asked.kind == "point")
    for (x, y), label in zip(points[:-1].tolist(), labels[:-1], strict=True):
        assert region[int(y), int(x)] == (label == 1)


def test_a_region_that_fills_the_view_has_no_negative_point():
    truth = np.ones((1, SIDE, SIDE), bool)
    given = PromptSettings(kinds=("points",))
    (asked,) = draw_prompts(truth, (SIDE, SIDE), given, np.random.default_rng(0))
    assert set(asked.labels[0, :-1].tolist()) == {1}


def test_a_part_of_the_image_may_be_the_view(base, layers):
    task = PromptTask(settings_for(base, layers, side=128, view=64), 0)
    view = task.examples().example(0, np.random.default_rng(0))
    assert view.image.shape == (3, 64, 64)
    learner = task.network()
    loss, _ = task.loss(learner, task.examples().collate([view]))
    assert torch.isfinite(loss)
    assert "box_iou" in task.evaluate(learner) and learner.network.side == 128


def test_two_sets_are_learned_from_as_one(base, layers, tmp_path):
    shutil.copytree(layers, tmp_path / "other")
    (tmp_path / "other" / "classes.txt").write_text("matrix\nlayer\nvoid\n")
    both = settings_for(base, layers, data=(layers, tmp_path / "other"))
    task = PromptTask(both, 0)
    assert len(task.examples()) == 8
    figures = task.evaluate(task.network())
    assert {"box_iou_layer", "box_iou_particle", "box_iou_void"} <= figures.keys()


def test_a_view_without_a_region_teaches_nothing(base, layers):
    task = PromptTask(settings_for(base, layers, prompts=PromptSettings(least_area=9999)), 0)
    examples, learner = task.examples(), task.network()
    view = examples.example(0, np.random.default_rng(0))
    assert view.asked == () and len(view.truth) == 0
    loss, parts = task.loss(learner, examples.collate([view]))
    loss.backward()
    assert loss == 0 and parts == {}
    assert not any(p.grad.any() for p in learner.parameters() if p.grad is not None)


def test_corrections_are_where_the_answer_was_wrong():
    truth = torch.zeros(3, 16, 16)
    truth[:2, 4:8, 4:8] = 1
    answer = torch.full((3, 4, 4), -1.0)
    answer[1, 1, 1] = answer[1, 3, 0] = 1
    torch.manual_seed(0)
    place, label = prompt._corrections(answer, truth)
    # the first missed the region, the second took a place outside, the third is right
    assert label.tolist() == [1, 0, -1]
    assert place[:2].tolist() == [[6, 6], [2, 14]]


def test_what_cannot_be_is_told(base, layers, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match="view: expected at most the input's 64, found 80"):
        PromptTask(settings_for(base, layers, view=80), 0)
    with pytest.raises(SettingsError, match="rank must be from 1 to 128, found 200"):
        PromptTask(PromptTaskSettings(base=base, data=(layers,), rank=200, side=64), 0).network()
    (tmp_path / "boxes/images").mkdir(parents=True)
    (tmp_path / "boxes/labels").mkdir()
    cv2.imwrite(str(tmp_path / "boxes/images/a.png"), np.zeros((20, 20), np.uint8))
    (tmp_path / "boxes/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "boxes/classes.txt").write_text("spot\n")
    with pytest.raises(DataError, match="boxes: expected class maps or outlines, found none"):
        PromptTask(settings_for(base, tmp_path / "boxes"), 0)
    shutil.copytree(layers / "train", tmp_path / "odd")
    cv2.imwrite(str(tmp_path / "odd/masks/1.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match=r"1.png: label cannot be read: expected 64 x 48 px"):
        PromptTask(settings_for(base, tmp_path / "odd"), 0)
    fixed = MobileSAM(SIDE)
    fixed.any_side = False
    monkeypatch.setattr(prompt, "load_base", lambda _: fixed)
    with pytest.raises(SettingsError, match="inputs of 64 px alone, found 32"):
        PromptTask(settings_for(base, layers, view=32), 0)
