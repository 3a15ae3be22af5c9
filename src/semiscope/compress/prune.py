"""Pruning whole channels over a network's dependency graph (Fang 2023, "DepGraph").

What must go together goes together: a channel's filter, its batch norm and what reads it. All
groups of channels are ranked in one list, and the least are taken away in small steps until the
operations have fallen as far as asked (Wong 2023, section 3.3.7).

Two measures of a channel's worth. Both, and the ranking, are those of the torch-pruning library:

- lamp: the squares of a channel's weights, the mean over all layers of its group, as a share of the
  sum over it and all larger ones of the group; the largest scores 1 and goes last. Lee 2020 (the
  paper's equation 3.5) scores single weights so.
- slimming: the batch norms' scale factors (Liu 2017), the mean over the group, divided by the mean
  of the group. Liu ranks the factors as they are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from pydantic import Field
from torch import nn
from torch_pruning.pruner import BasePruner
from torch_pruning.pruner.importance import BNScaleImportance, LAMPImportance

from semiscope.compress.export import trained_network
from semiscope.compress.profile import Profile, count_operations, profile
from semiscope.compress.prune_plots import plot_channels, plot_scale_factors
from semiscope.config import Settings, read_toml
from semiscope.errors import SettingsError
from semiscope.io.files import write_atomic
from semiscope.learn import checkpoint
from semiscope.nets.widths import widths_of
from semiscope.nets.yolov7_tiny import ImplicitHead, YoloV7Tiny, fixed_layers, scale_factors

_IMPORTANCE = {"lamp": LAMPImportance, "slimming": BNScaleImportance}
_SIDE = 64  # of the traced image: the ratio of operations is the same at every size


class PruneSettings(Settings):
    """How much of a network goes, and which part."""

    method: Literal["lamp", "slimming"] = Field(
        "lamp",
        description="A channel's worth: the size of its weights, or its batch norms' scale factors "
        "(after training with --sparsity)",
    )
    speed_up: float = Field(1.5, gt=1, description="Operations before over operations after")
    exclude: tuple[str, ...] = Field(
        (), description="Layers and parts that keep all their channels, as neck.outputs.0"
    )
    steps: int = Field(
        200, ge=1, description="A step takes one part in so many of all channels away"
    )


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What pruning did.

    Attributes:
        before: Size and work of the network as it was, for one input of the run.
        after: As it is now.
        steps: How many were taken.
        channels: For each convolution its output channels before and after.
    """

    before: Profile
    after: Profile
    steps: int
    channels: dict[str, tuple[int, int]]

    def figures(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "speed_up": round(self.before.gflops / self.after.gflops, 4),
            "steps": self.steps,
            "gflops_before": round(self.before.gflops, 3),
            "gflops_after": round(self.after.gflops, 3),
            "parameters_before": self.before.deployed,
            "parameters_after": self.after.deployed,
        }


def prune_network(
    network: nn.Module,
    channels: int,
    settings: PruneSettings,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Takes channels out of a network, in place.

    Args:
        network: Left in evaluation mode with all its parameters learning: the graph is found by
            following gradients, and an averaged network, which takes none, would keep all channels.
        channels: Of the image.
        settings: How much and which.
        progress: Called after each step with how many are done and how many there may be.

    Returns:
        How many steps were taken.

    Raises:
        SettingsError: A layer to leave out is unknown, or the speed-up cannot be reached.
    """
    images = torch.zeros(1, channels, _SIDE, _SIDE)
    network.eval().requires_grad_(True)
    pruner = BasePruner(
        network,
        images,
        _IMPORTANCE[settings.method](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=settings.steps,
        ignored_layers=[*fixed_layers(network), *_named(network, settings.exclude)],
        unwrapped_parameters=[
            (parameter, 1)
            for head in network.modules()
            if isinstance(head, ImplicitHead)
            for parameter in (head.add, head.multiply)
        ],
        # the library's defaults are shared by all that it prunes
        in_channel_groups={},
        out_channel_groups={},
    )
    all_operations = count_operations(network, [images])
    reached = 1.0
    for step in range(1, settings.steps + 1):
        pruner.step()
        reached = all_operations / count_operations(network, [images])
        if progress is not None:
            progress(step, settings.steps)
        if reached >= settings.speed_up:
            return step
    raise SettingsError(
        f"expected a speed-up of {settings.speed_up:g}, found {reached:.2f} when nothing more can "
        "go: lower --speed-up, or exclude less"
    )


def prune(
    run: Path,
    out: Path,
    settings: PruneSettings,
    progress: Callable[[int, int], None] | None = None,
) -> PruneReport:
    """Prunes a run's best weights into a run of their own, from which training can start.

    Beside ``best/`` and ``settings.toml`` it holds ``pruning.json`` and two pictures: channels.png
    (each layer before and after) and scale_factors.png (sorted, before training, after it, and of
    the channels that were kept).

    Args:
        run: The run of a detector.
        out: A new or empty folder.
        settings: How much and which.
        progress: Called after each step with how many are done and how many there may be.

    Raises:
        SettingsError: The run has no evaluated weights or a network that is not pruned here, the
            folder holds a run, or as for ``prune_network``.
    """
    if (out / "settings.toml").exists():
        raise SettingsError(f"{out}: already holds a run. Choose another --out.")
    network, state = trained_network(run)
    spec = state["spec"]
    if not isinstance(network, YoloV7Tiny):
        raise SettingsError(
            f"{run}: expected a run with network yolov7-tiny, found {spec['net']}. Only that one "
            "is pruned."
        )
    given = spec["input"]
    image = [torch.zeros(1, given["channels"], given["height"], given["width"])]
    trained_with = read_toml(run / "settings.toml")
    before, trained, all_channels = profile(network, image), _sorted(network), _outputs(network)
    steps = prune_network(network, given["channels"], settings, progress)
    kept = _outputs(network)
    report = PruneReport(
        before, profile(network, image), steps, {k: (n, kept[k]) for k, n in all_channels.items()}
    )
    # the heads follow from the neck
    widths = {k: v for k, v in widths_of(network).items() if not k.startswith("heads.")}
    spec = {
        **spec,
        "built": {**spec["built"], "widths": widths},
        "network": spec["network"].removesuffix(", pruned") + ", pruned",
        # what held-out images said of the whole network does not hold for this one
        "thresholds": {name: {} for name in spec["classes"]},
        "class_ap": {},
    }
    own = {"run": str(run), **settings.model_dump(mode="json")}
    write_atomic(
        out / "pruning.json",
        json.dumps({**own, **report.figures(), "channels": report.channels}, indent=1),
    )
    plot_channels(report.channels, out / "channels.png")
    plot_scale_factors(_first(trained_with), trained, _sorted(network), out / "scale_factors.png")
    write_atomic(
        out / "settings.toml",
        tomli_w.dumps({"task": "prune", "prune": own, "trained": trained_with}),
    )
    checkpoint.save(
        out / "best",
        {"model": network.state_dict()},
        {"spec": spec, "metrics": {}, "epoch": state["epoch"]},
    )
    return report


def _named(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    layers = {name: layer for name, layer in network.named_modules() if name}
    for name in names:
        if name not in layers:
            near = difflib.get_close_matches(name, layers, 3, 0.4) or [
                n for n in layers if n.count(".") == 1
            ]
            raise SettingsError(
                f"--exclude: expected a layer or part of the network, found {name!r}. There are "
                f"{', '.join(near)} and others: pruning.json of a pruned run names all."
            )
    return [layers[name] for name in names]


def _outputs(network: nn.Module) -> dict[str, int]:
    return {k: v[1] for k, v in widths_of(network).items() if len(v) == 2}


def _sorted(network: nn.Module) -> list[float]:
    """The absolute scale factors, smallest first."""
    factors = torch.cat(scale_factors(network)).detach().abs()
    return sorted(factors.tolist())


def _first(trained_with: dict[str, Any]) -> list[float] | None:
    """The scale factors that a training began with, where it began from a run that is still there.

    From scratch all are 1.
    """
    start = trained_with.get("learn", {}).get("init")
    try:
        return None if start is None else _sorted(trained_network(Path(start))[0])
    except SettingsError:
        return None
