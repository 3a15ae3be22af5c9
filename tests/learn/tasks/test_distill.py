"""Sparsity training, training from a pruned run, and a teacher, on images of a moment."""

import json
import sys

import numpy as np
import pytest
import torch

from semiscope import cli
from semiscope.compress.export import trained_network
from semiscope.compress.prune import PruneSettings, prune
from semiscope.errors import SettingsError
from semiscope.learn import run as runs
from semiscope.learn.tasks.detect import DetectTask
from semiscope.learn.tasks.distill import DistillSettings, DistillTask
from semiscope.nets.widths import widths_of
from semiscope.nets.yolov7_tiny import YoloV7Tiny, scale_factors

CLASSES = ("square", "triangle")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, detector_run, outlined):
    folder = tmp_path_factory.mktemp("distill")
    data = outlined(folder / "data", 8)
    run = detector_run(folder / "run", data, "coord", classes=CLASSES)
    prune(run, folder / "pruned", PruneSettings(steps=5))
    return folder


def settings_of(folder):
    return runs.read_settings(folder / "run/settings.toml")[1:]


def taught_by(folder, teacher, **changes):
    learn = settings_of(folder)[0].model_dump(exclude_unset=True)
    return DistillSettings(**{**learn, "teacher": teacher, **changes})


def batch_of(task):
    examples = task.examples()
    return examples.collate([examples.example(i, np.random.default_rng(i)) for i in range(4)])


def test_a_pruned_run_is_trained_on_and_stays_pruned(whole, tmp_path):
    learn, loop = settings_of(whole)
    learn = learn.model_copy(update={"init": whole / "pruned"})
    start = DetectTask(learn, 0).network().eval()
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        for a, b in zip(start(images), trained_network(whole / "pruned")[0](images), strict=True):
            assert torch.equal(a, b)
    runs.start("detect", learn, loop, tmp_path / "tuned")
    network, state = trained_network(tmp_path / "tuned")
    assert widths_of(network) == widths_of(start)
    assert state["spec"]["network"].endswith("pruned") and state["metrics"]["fitness"] >= 0


def test_a_pruned_run_of_another_neck_is_refused(whole):
    learn = settings_of(whole)[0].model_copy(update={"init": whole / "pruned", "neck": "slim"})
    with pytest.raises(SettingsError, match="same neck"):
        DetectTask(learn, 0).network()


def test_a_pruned_run_does_not_continue_by_itself(whole):
    with pytest.raises(SettingsError, match="found 'prune'"):
        runs.resume(whole / "pruned")


def test_sparsity_adds_its_sign_to_the_gradient_of_scale_factors(whole):
    gradients = {}
    for sparsity in (0.0, 0.5):
        task = DetectTask(settings_of(whole)[0].model_copy(update={"sparsity": sparsity}), 0)
        torch.manual_seed(0)
        network = task.network()
        loss, parts = task.loss(network, batch_of(task))
        loss.backward()
        assert ("sparsity" in parts) == (sparsity > 0)
        gradients[sparsity] = {n: p.grad for n, p in network.named_parameters()}
    factors = {id(p) for p in scale_factors(network)}
    for name, parameter in network.named_parameters():
        added = gradients[0.5][name] - gradients[0.0][name]
        wanted = 0.5 * parameter.sign() if id(parameter) in factors else torch.zeros_like(added)
        torch.testing.assert_close(added, wanted, atol=1e-4, rtol=1e-3)


def test_under_sparsity_the_newest_weights_are_kept(whole):
    task = DetectTask(settings_of(whole)[0].model_copy(update={"sparsity": 0.1}), 0)
    assert task.evaluate(task.network())["fitness"] == 0.0


def test_a_student_that_is_its_teacher_learns_from_the_truth_alone(whole):
    task = DistillTask(taught_by(whole, whole / "run", init=whole / "run"), 0)
    network = task.network().eval()
    images, targets = batch_of(task)
    loss, parts = task.loss(network, (images, targets))
    alone, _ = DetectTask.judge(task, network, images, network(images), targets)
    torch.testing.assert_close(loss, alone)
    assert parts["taught_objectness"] < 1e-6 and parts["taught_box"] < 1e-6


def test_a_student_comes_nearer_to_its_teacher(whole):
    settings = taught_by(whole, whole / "run", init=whole / "pruned")
    task = DistillTask(settings, 0)
    network, batch = task.network(), batch_of(task)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.003)
    far = []
    for _ in range(12):
        optimiser.zero_grad()
        loss, parts = task.loss(network, batch)
        loss.backward()
        optimiser.step()
        far.append(sum(v.item() for k, v in parts.items() if k.startswith("taught")))
    assert far[-1] < 0.7 * far[0]


def test_a_run_with_a_teacher(whole, tmp_path):
    settings = taught_by(whole, whole / "run", init=whole / "pruned")
    runs.start("distill", settings, settings_of(whole)[1], tmp_path / "run")
    network, state = trained_network(tmp_path / "run")
    assert widths_of(network) == widths_of(trained_network(whole / "pruned")[0])
    taught = trained_network(whole / "run")[1]["spec"]["decoder"]["anchors"]
    assert state["spec"]["decoder"]["anchors"] == taught
    assert isinstance(network, YoloV7Tiny)


def test_prune_distill_and_resume_on_the_command_line(whole, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["semiscope", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capsys.readouterr()
        assert done.value.code == 0, err
        return json.loads(out)

    run, pruned, taught = whole / "run", tmp_path / "pruned", tmp_path / "taught"
    options = ("--exclude=backbone.stem", "--exclude=neck.outputs.0", "--out", pruned, "--steps", 5)
    figures = call("compress", "prune", run, *options)
    assert figures["speed_up"] >= 1.5
    assert figures["parameters_after"] < figures["parameters_before"]
    excluded = json.loads((pruned / "pruning.json").read_text())["exclude"]
    assert excluded == ["backbone.stem", "neck.outputs.0"]
    figures = call("compress", "distill", pruned, "--teacher", run, "--out", taught)
    assert set(figures) == {"fitness", "map", "map50", "precision", "recall"}
    assert runs.read_settings(taught / "settings.toml")[0] == "distill"
    assert call("compress", "distill", "--resume", taught) == figures


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f, d: d(f / "other", f, classes=("a", "b", "c")), "teacher with classes"),
        (lambda f, d: f, "best/state.json"),
    ],
)
def test_a_teacher_must_fit(whole, tmp_path, detector_run, make, words):
    settings = taught_by(whole, make(tmp_path, detector_run))
    with pytest.raises(SettingsError, match=words):
        DistillTask(settings, 0)
