"""Semi-supervised learning: what the methods learn from, and what they do with bad input."""

import logging
import math

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from semiscope.errors import DataError, SettingsError
from semiscope.learn import checkpoint
from semiscope.learn import run as runs
from semiscope.learn.losses.class_map import map_loss
from semiscope.learn.semi_examples import Pool, cutmix_box, find_unlabelled, jitter
from semiscope.learn.tasks.segment import MapLoopSettings, SegmentSettings
from semiscope.learn.tasks.semi import METHODS, SemiSettings, SemiTask, engaged

SIDE = 32


def settings_for(data, **changes) -> SemiSettings:
    small = {"features": 8, "height": 64, "width": 64, "crop": SIDE, "crops": 1}
    return SemiSettings(**{"labelled": data, "unlabelled": (data,), **small, **changes})


class Straight(nn.Module):
    """Says of a pixel what its grey is: the greyer, the surer; dropped features change nothing."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images, dropped=0):
        grey = self.gain * self.norm(images) if self.training else self.gain * images
        logits = torch.cat([-grey, grey, torch.full_like(grey, -9.0)], 1)
        return torch.cat([logits, logits[len(logits) - dropped :]])


def batch_of(task, count=4):
    rng = np.random.default_rng(0)
    examples = task.examples()
    return examples.collate([examples.example(i % len(examples), rng) for i in range(count)])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_finite_loss_and_its_parts(tmp_path, layered, method):
    task = SemiTask(settings_for(layered(tmp_path, unlabelled=3), method=method, threshold=0.6), 0)
    network = Straight(4.0)
    batch = batch_of(task)
    loss, parts = task.loss(network, batch)
    loss.backward()
    assert math.isfinite(loss.item()) and network.gain.grad is not None
    assert 0 < parts["sure"] <= 1
    features = METHODS[method].features
    assert ("features" in parts) == features
    # by hand: half the supervised loss, half of what the views and the features weigh together
    supervised = parts["ce"] + parts["dice"]
    weights = {"fixmatch": (1, 0), "cutmix": (1, 0), "unimatch": (0.5, 0.5), "tem": (1, 0.5)}
    views, dropped = weights[method]
    expected = (supervised + views * parts["strong"] + dropped * parts.get("features", 0)) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def pool_of(weak, *strong):
    """One strong view a family, nothing moved, no boxes."""
    count, _, height, width = weak.shape
    still = torch.arange(height * width, dtype=torch.int32).view(1, 1, height, width)
    views = torch.stack(strong, 1)
    return Pool(
        weak,
        torch.ones(count, height, width, dtype=torch.bool),
        views,
        still.expand(count, views.shape[1], -1, -1),
        torch.zeros(count, views.shape[1], height, width, dtype=torch.bool),
    )


@pytest.mark.parametrize(
    "policy, shares", [("max", (0, 1, 0)), ("top-2", (0, 0.5, 0.5)), ("all", (1 / 3,) * 3)]
)
def test_the_family_with_the_highest_loss_is_engaged(tmp_path, layered, policy, shares):
    task = SemiTask(settings_for(layered(tmp_path, unlabelled=1), policy=policy), 0)
    (images, truth), _ = batch_of(task, 2)
    weak = torch.randn(2, 1, SIDE, SIDE)
    # the second family turns the greys round, the third mixes them up a little, the first is as is
    kinds = [weak, -weak, weak + 0.3 * torch.randn_like(weak)]
    strong = [view for view in kinds for _ in range(2 if policy == "max" else 1)]
    _, parts = task.loss(Straight(9.0), ((images, truth), pool_of(weak, *strong)))
    found = [float(parts[name]) for name in ("sample", "instrument", "post")]
    assert found == pytest.approx(shares)


def test_which_views_are_learned_from():
    scores = torch.tensor([0.1, 0.9, 0.4])
    assert engaged(scores, "max", 2) == [2, 3]
    assert engaged(scores, "top-2", 1) == [1, 2]
    assert engaged(scores, "all", 1) == [0, 1, 2]


def test_strong_views_leave_the_running_statistics_alone(tmp_path, layered):
    task = SemiTask(settings_for(layered(tmp_path, unlabelled=1), threshold=0.6), 0)
    network, alone = Straight(4.0), Straight(4.0)
    (images, truth), pool = batch_of(task)
    task.loss(network, ((images, truth), pool))
    alone(torch.cat([images, pool.weak]))
    torch.testing.assert_close(network.norm.running_mean, alone.norm.running_mean)
    torch.testing.assert_close(network.norm.running_var, alone.norm.running_var)
    assert network.norm.momentum == alone.norm.momentum


def test_before_its_time_the_unlabelled_images_teach_nothing(tmp_path, layered):
    settings = settings_for(layered(tmp_path, unlabelled=1), unlabelled_from=2.0, threshold=0.0)
    task = SemiTask(settings, 0)
    batch = batch_of(task)
    task.tell(1.9)
    loss, parts = task.loss(Straight().eval(), batch)
    expected, _ = map_loss(Straight().eval()(batch[0][0]), batch[0][1], settings.loss)
    assert loss.item() == pytest.approx(expected.item()) and "sure" not in parts
    task.tell(2.0)
    _, parts = task.loss(Straight().eval(), batch)
    assert parts["sure"] == 1


def test_an_epoch_without_a_sure_pixel_is_finite_and_said(tmp_path, layered, caplog):
    task = SemiTask(settings_for(layered(tmp_path, unlabelled=1), threshold=0.999), 0)
    network = Straight(0.1)
    loss, parts = task.loss(network, batch_of(task))
    loss.backward()
    assert loss.item() == pytest.approx((parts["ce"] + parts["dice"]).item() / 2)
    with caplog.at_level(logging.WARNING):
        figures = task.evaluate(network)
    assert figures["sure"] == 0 and math.isfinite(figures["fitness"])
    assert "no pixel of the unlabelled images was as sure as 0.999" in caplog.text
    assert "--unlabelled-from" in caplog.text
    caplog.clear()
    task.loss(Straight(9.0), batch_of(task))
    assert task.evaluate(network)["sure"] > 0 and not caplog.text


def test_unlabelled_images_are_found_and_bad_ones_left_out(tmp_path, layered, caplog):
    data = layered(tmp_path / "data", unlabelled=2)
    assert [p.parent.parent.name for p in find_unlabelled([data])] == ["unlabelled"] * 2
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    cv2.imwrite(str(other / "deep" / "a.png"), np.zeros((40, 40), np.uint8))
    (other / "bad.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        found = find_unlabelled([data, other])
    assert len(found) == 3 and "bad.png: left out" in caplog.text
    # a data set without an unlabelled part gives its training images, never its masks
    assert len(find_unlabelled([layered(tmp_path / "plain")])) == 4


@pytest.mark.slow
def test_a_teacher_that_stays_says_what_the_weak_views_show(tmp_path, layered, caplog):
    data = layered(tmp_path / "data", unlabelled=1)
    small = {
        k: v
        for k, v in settings_for(data).model_dump().items()
        if k in SegmentSettings.model_fields
    }
    loop = MapLoopSettings(epochs=1, batch=2, warmup_epochs=0, workers=0)
    run, other = tmp_path / "run", tmp_path / "other"
    runs.start("segment", SegmentSettings(data=data, **small), loop, run)
    weights, state = checkpoint.best(run)
    sharp = {k: v * 30 if k.startswith("classify.") else v for k, v in weights.items()}
    checkpoint.save(run / "best", {"model": sharp}, state)
    task = SemiTask(settings_for(data, teacher=run, threshold=0.6), 0)
    batch = batch_of(task)
    # the network that learns is sure of nothing, so that what is taught is the teacher's
    network = Straight(0.01)
    _, parts = task.loss(network, batch)
    assert parts["sure"] > 0.5 and parts["strong"] > 0.1
    alone = SemiTask(settings_for(data, threshold=0.6), 0)
    assert alone.loss(Straight(0.01), batch)[1]["sure"] == 0

    # it stays as it is while another learns
    before = [p.clone() for p in task._teacher.state_dict().values()]
    task.loss(network.train(), batch)[0].backward()
    after = task._teacher.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in task._teacher.parameters())

    blank = {k: 0 * v if k.startswith("classify.") else v for k, v in weights.items()}
    checkpoint.save(other / "best", {"model": blank}, state)
    doubtful = SemiTask(settings_for(data, teacher=other, threshold=0.6), 0)
    doubtful.loss(network, batch)
    doubtful.evaluate(network)
    assert "train the teacher for longer" in caplog.text
    with pytest.raises(SettingsError, match="expected a run with evaluated weights"):
        SemiTask(settings_for(data, teacher=tmp_path / "none"), 0)
    with pytest.raises(SettingsError, match="expected a teacher with scaling"):
        SemiTask(settings_for(data, teacher=run, scaling="percentile"), 0)
    for key, value, message in (
        ("classes", ["a", "b", "c"], "expected a teacher with classes"),
        ("task", "detect", "expected a run of train segment or semi"),
    ):
        changed = {**state, "spec": {**state["spec"], key: value}}
        checkpoint.save(other / "best", {"model": weights}, changed)
        with pytest.raises(SettingsError, match=message):
            SemiTask(settings_for(data, teacher=other), 0)


def test_an_empty_pool_is_refused(tmp_path, layered):
    data = layered(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "found 0 files"), ("none", "found no folder")):
        with pytest.raises(DataError, match=message):
            SemiTask(settings_for(data, unlabelled=(tmp_path / folder,)), 0)


def test_options_of_another_method_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="policy: of method tem alone, found unimatch"):
        settings_for(tmp_path, method="unimatch", policy="all")
    with pytest.raises(ValidationError, match="expected 1 for method tem"):
        settings_for(tmp_path, channels=3)


def test_views_are_a_function_of_the_generator(tmp_path, layered):
    task = SemiTask(settings_for(layered(tmp_path, unlabelled=2), cutmix=1.0), 0)
    (_, _), first = task.examples().example(1, np.random.default_rng(7))
    (_, _), again = task.examples().example(1, np.random.default_rng(7))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    pool = Pool(*first)
    assert pool.strong.shape == (6, 1, SIDE, SIDE) and pool.source.dtype == torch.int32
    assert 0 <= pool.source.min() <= pool.source.max() < SIDE**2 and pool.boxes.any((1, 2)).all()
    assert not torch.equal(pool.strong[0], pool.strong[1])


def test_boxes_have_the_areas_of_unimatch_and_jitter_stays_in_range():
    rng = np.random.default_rng(0)
    areas = [cutmix_box(64, rng).mean() for _ in range(200)]
    assert 0.015 < min(areas) < 0.08 and 0.3 < max(areas) < 0.42
    values = rng.random((20, 20)).astype(np.float32)
    changed = [jitter(values, rng)[0] for _ in range(20)]
    assert all(v.dtype == np.float32 and 0 <= v.min() <= v.max() <= 1 for v in changed)


@pytest.mark.slow
def test_a_run_trains_and_tells_how_much_was_believed(tmp_path, layered):
    learn = settings_for(layered(tmp_path / "data", 2, 1, 4), threshold=0.4, defects=("crack",))
    loop = MapLoopSettings(epochs=1, batch=2, warmup_epochs=0, workers=0)
    figures = runs.start("semi", learn, loop, tmp_path / "run")
    assert set(figures) >= {"fitness", "mean_iou", "materials", "sure"}
    name, read, _ = runs.read_settings(tmp_path / "run" / "settings.toml")
    assert name == "semi" and read.method == "tem" and read.unlabelled == learn.unlabelled
