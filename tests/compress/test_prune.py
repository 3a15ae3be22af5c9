"""Pruned networks against what they must keep: their function, their file, the published counts."""

import copy
import json

import cv2
import pytest
import torch
from torch import nn
from torch_pruning import DependencyGraph
from torch_pruning.pruner.function import prune_conv_out_channels
from torch_pruning.pruner.importance import LAMPImportance

from semiscope.compress.export import export, trained_network
from semiscope.compress.profile import profile
from semiscope.compress.prune import PruneSettings, prune, prune_network
from semiscope.errors import SettingsError
from semiscope.infer.model import Model
from semiscope.nets.widths import widths_of
from semiscope.nets.yolov7_tiny import GSConv, YoloV7Tiny

FEW = PruneSettings(steps=5)


@pytest.fixture(scope="module", params=["coord", "slim"])
def pruned(request, tmp_path_factory, detector_run):
    folder = tmp_path_factory.mktemp("prune")
    run = detector_run(folder / "run", folder, request.param)
    report = prune(run, folder / "pruned", FEW)
    return folder, report


def test_the_rebuilt_network_is_the_pruned_one_bit_by_bit(pruned):
    folder, report = pruned
    network, _ = trained_network(folder / "run")
    whole = copy.deepcopy(network)
    steps = prune_network(network, 1, FEW)
    rebuilt, state = trained_network(folder / "pruned")
    images = torch.randn(2, 1, 96, 64)
    with torch.no_grad():
        for a, b, c in zip(network(images), rebuilt(images), whole(images), strict=True):
            assert torch.equal(a, b) and a.shape == c.shape
    assert steps == report.steps and state["metrics"] == {}


def test_the_figures_are_those_of_the_networks(pruned):
    folder, report = pruned
    image = [torch.zeros(1, 1, 64, 64)]
    before, after = (profile(trained_network(folder / n)[0], image) for n in ("run", "pruned"))
    assert (report.before, report.after) == (before, after)
    assert before.gflops / after.gflops >= 1.5 and after.deployed < before.deployed
    written = json.loads((folder / "pruned/pruning.json").read_text())
    assert written["parameters_after"] == after.deployed and written["method"] == "lamp"
    now = widths_of(trained_network(folder / "pruned")[0])
    assert all(now[k][1] == after for k, (_, after) in written["channels"].items())


def test_the_pictures_are_there(pruned):
    folder, _ = pruned
    for name in ("channels.png", "scale_factors.png"):
        assert min(cv2.imread(str(folder / "pruned" / name)).shape[:2]) > 300


def test_gsconv_keeps_its_channels_and_a_gsconvs_does_not(tmp_path, detector_run):
    run = detector_run(tmp_path / "run", tmp_path, "slim")
    channels = prune(run, tmp_path / "pruned", FEW).channels
    network = trained_network(run)[0]
    gsconv = [n for n, m in network.named_modules() if type(m) is GSConv]
    fixed = {k: v for k, v in channels.items() if k.startswith((*gsconv, "heads")) or "unused" in k}
    assert len(fixed) == 4 * 2 * 2 + 4 + 3
    assert all(before == after for before, after in fixed.values())
    assert all(channels[f"neck.{n}.mix"][1] < channels[f"neck.{n}.mix"][0] for n in ("down4",))


def test_channels_that_do_nothing_go_first_and_the_answers_stay(tmp_path, detector_run):
    network = trained_network(detector_run(tmp_path / "run", tmp_path, "coord"))[0]
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and "backbone" in name:
            with torch.no_grad():
                layer.weight[1::2] = 0
                layer.bias[1::2] = 0
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = network(images)
    # as an averaged network comes: it takes no gradients
    network.requires_grad_(False)
    prune_network(network, 1, PruneSettings(method="slimming", steps=20, speed_up=1.01))
    with torch.no_grad():
        after = network(images)
    assert network.backbone.stage3.first.conv.out_channels == 4
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_backbone_of_depthwise_convolutions_is_pruned_as_well():
    built = {"classes": 2, "backbone": "efficientnet-lite0", "channels": 1}
    network = YoloV7Tiny(**built).eval()
    prune_network(network, 1, PruneSettings(steps=20, speed_up=1.02))
    widths = {k: v for k, v in widths_of(network).items() if not k.startswith("heads.")}
    again = YoloV7Tiny(**built, widths=widths).eval()
    again.load_state_dict(network.state_dict())
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        for a, b in zip(network(images), again(images), strict=True):
            assert torch.equal(a, b)


def test_lamp_worked_by_hand():
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1, bias=False)
    ).eval()
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor([1.0, 3, 2]).view(3, 1, 1, 1))
        layers[1].weight.copy_(torch.tensor([1.0, 1, 2]))
        layers[2].weight.copy_(torch.tensor([[1.0, 2, 0], [0, 1, 1]]).view(2, 3, 1, 1))
    graph = DependencyGraph().build_dependency(layers, torch.zeros(1, 1, 4, 4))
    group = graph.get_pruning_group(layers[0], prune_conv_out_channels, [0, 1, 2])
    # energies: 1 + 1 + 1 = 3, 9 + 1 + 5 = 15, 4 + 4 + 1 = 9; each over itself and all larger ones
    torch.testing.assert_close(LAMPImportance()(group), torch.tensor([3 / 27, 15 / 15, 9 / 24]))


def test_what_is_excluded_keeps_its_channels(tmp_path, detector_run):
    network = trained_network(detector_run(tmp_path / "run", tmp_path))[0]
    before = widths_of(network)
    prune_network(network, 1, PruneSettings(steps=5, exclude=("backbone", "neck.outputs.1")))
    after = widths_of(network)
    assert after["neck.outputs.1.norm"] == before["neck.outputs.1.norm"]
    kept = [k for k, v in before.items() if len(v) == 1 and after[k] == v]
    assert {k for k in before if "backbone" in k and "norm" in k} < set(kept)
    assert len(kept) < sum(len(v) == 1 for v in before.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exclude": ("bakbone.stem",)}, "found 'bakbone.stem'. There are backbone.stem"),
        ({"exclude": ("zzz",)}, "There are backbone.stem"),
        ({"exclude": ("backbone", "neck")}, "found 1.00 when nothing more can go"),
        ({"speed_up": 1e6}, "lower --speed-up"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, detector_run, changes, words):
    run = detector_run(tmp_path / "run", tmp_path)
    with pytest.raises(SettingsError, match=words):
        prune(run, tmp_path / "pruned", PruneSettings(steps=3, **changes))
    assert not (tmp_path / "pruned").exists()


def test_only_a_trained_detector_is_pruned_and_into_a_new_folder(
    tmp_path, detector_run, monkeypatch
):
    run = detector_run(tmp_path / "run", tmp_path)
    with pytest.raises(SettingsError, match="already holds a run"):
        prune(run, run, FEW)
    with pytest.raises(SettingsError, match="best/state.json"):
        prune(tmp_path, tmp_path / "pruned", FEW)
    other = nn.Identity(), {"spec": {"net": "mask-rcnn"}}
    monkeypatch.setattr("semiscope.compress.prune.trained_network", lambda _: other)
    with pytest.raises(SettingsError, match="Only that one is pruned"):
        prune(run, tmp_path / "pruned", FEW)


def test_a_pruned_network_is_pruned_again(tmp_path, detector_run):
    run = detector_run(tmp_path / "run", tmp_path)
    first = prune(run, tmp_path / "1", PruneSettings(steps=5, speed_up=1.2))
    second = prune(tmp_path / "1", tmp_path / "2", PruneSettings(steps=5, speed_up=1.2))
    assert second.before == first.after


def test_the_exported_file_answers_as_torch_does(tmp_path, detector_run):
    prune(detector_run(tmp_path / "run", tmp_path, "coord"), tmp_path / "pruned", FEW)
    # it is written only where ONNX Runtime agrees with torch
    meta = export(tmp_path / "pruned", tmp_path / "small.onnx")
    network = trained_network(tmp_path / "pruned")[0]
    assert Model.load(tmp_path / "small.onnx").meta.network.endswith(", pruned")
    deployed = profile(network, [torch.zeros(1, 1, 64, 64)]).deployed
    implicit = sum(head.add.numel() + head.multiply.numel() for head in network.heads)
    assert meta.parameters == deployed - implicit
    assert meta.settings["prune"]["method"] == "lamp" and meta.metrics == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("neck", "parameters", "gflops"), [("coord", 2082812, 8.6), ("slim", 2078651, 8.0)]
)
def test_counts_are_near_the_thesis_s(neck, parameters, gflops):
    # Wong 2023, Table 4.6, settings 7 and 4: what LAMP leaves depends little on the weights
    torch.manual_seed(0)
    network = YoloV7Tiny(2, neck)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight)
    prune_network(network, 3, PruneSettings())
    size = profile(network, [torch.zeros(1, 3, 640, 640)])
    assert size.deployed == pytest.approx(parameters, rel=0.05)
    assert size.gflops == pytest.approx(gflops, rel=0.02)
