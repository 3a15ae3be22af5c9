"""The state of a training, as safetensors and JSON: no pickles, whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from semiscope.errors import SemiscopeError, SettingsError


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
    """Writes a folder of tensor files and one ``state.json``.

    The folder appears whole under its name or not at all; one of the same name is replaced.

    Args:
        folder: Where.
        tensors: File stem to named tensors.
        state: Plain values.

    Raises:
        SemiscopeError: The place cannot be written.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for stem, named in tensors.items():
            save_file(
                {k: v.detach().contiguous() for k, v in named.items()},
                beside / f"{stem}.safetensors",
            )
        (beside / "state.json").write_text(json.dumps(state), encoding="utf-8")
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside, folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise SemiscopeError(
            f"{folder}: the checkpoint cannot be written: {error}. Free some space, then continue "
            "with --resume."
        ) from error


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Reads what ``save`` wrote, on the CPU.

    Raises:
        SemiscopeError: No checkpoint is there, or it is damaged.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = {p.stem: load_file(p) for p in sorted(folder.glob("*.safetensors"))}
    except (OSError, ValueError, SafetensorError) as error:
        raise SemiscopeError(f"{folder}: expected a checkpoint, found: {error}") from None
    return tensors, state


def best(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The best weights of a run, and what is noted beside them: ``spec`` and ``metrics``.

    Raises:
        SettingsError: It has no evaluated weights.
        SemiscopeError: They are damaged.
    """
    folder = run / "best"
    if not (folder / "state.json").is_file():
        raise SettingsError(
            f"{run}: expected a run with evaluated weights (best/state.json), found none. Train it "
            "first, or continue it with --resume."
        )
    tensors, state = load(folder)
    return tensors["model"], state


def newest(folder: Path) -> Path | None:
    """The step folder of the highest number in a folder of checkpoints, or None."""
    steps = [p for p in folder.glob("step-*") if p.is_dir()]
    return max(steps, key=lambda p: p.name, default=None)


def keep_only(folder: Path) -> None:
    """Removes the other step folders beside one."""
    for other in folder.parent.glob("step-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments by "parameter index.name"."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what ``optimiser_tensors`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
