"""Pictures of pruning: channels by layer, and sorted scale factors (Wong 2023, figure 4.10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from semiscope.evaluate.plots import write_figure

NEAR_ZERO = 0.01
"""Scale factors below it are counted as zero: the paper's sparsity ratio."""


def plot_channels(channels: Mapping[str, tuple[int, int]], path: Path) -> None:
    """Writes a PNG: the output channels of each convolution before and after (appendices C, D).

    Raises:
        SemiscopeError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    before, after = np.array(list(channels.values())).T
    places = np.arange(len(channels))
    figure = Figure(figsize=(max(6.0, 0.22 * len(channels)), 6), layout="constrained")
    axes = figure.subplots()
    axes.bar(places, before, 0.85, color="lightgrey", label=f"before, {before.sum()} in all")
    axes.bar(places, after, 0.85, color="tab:blue", label=f"after, {after.sum()} in all")
    axes.set_xticks(places, list(channels), rotation=90, fontsize=7)
    axes.set(ylabel="output channels", xlim=(-0.7, len(channels) - 0.3))
    axes.legend()
    write_figure(figure, path)


def plot_scale_factors(
    first: Sequence[float] | None, trained: Sequence[float], kept: Sequence[float], path: Path
) -> None:
    """Writes a PNG: batch-norm scale factors, smallest first.

    Args:
        first: Before the training that led to ``trained``; None for a start from scratch, at 1.
        trained: What was pruned.
        kept: What pruning left.
        path: The .png file.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    near = float(np.mean(np.array(trained) < NEAR_ZERO))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    label = "before training" if first is not None else "before training: 1, from scratch"
    axes.plot(first if first is not None else np.ones(len(trained)), color="grey", label=label)
    axes.plot(trained, color="tab:blue", label=f"trained: {near:.1%} below {NEAR_ZERO}")
    axes.plot(kept, color="tab:orange", label=f"kept by pruning: {len(kept)} of {len(trained)}")
    axes.set(xlabel="batch-norm channels, sorted", ylabel="absolute scale factor")
    axes.set(xlim=(0, len(trained)), ylim=(0, None))
    axes.legend()
    write_figure(figure, path)
