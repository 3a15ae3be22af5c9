"""Taking published tensors by name, all or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def take_all(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copies tensors into those of the same name; nothing is changed unless everything fits.

    Args:
        own: A network's tensors, those that may keep their values left out.
        given: Their new values.

    Raises:
        ValueError: Tensors are missing, unknown, or of another shape.
    """
    faults = {
        "missing": [k for k in own if k not in given],
        "unknown": [k for k in given if k not in own],
        "of another shape": [
            f"{k} (expected {tuple(own[k].shape)}, found {tuple(v.shape)})"
            for k, v in given.items()
            if k in own and v.shape != own[k].shape
        ],
    }
    if any(faults.values()):
        raise ValueError(
            "; ".join(f"{len(v)} tensors {k}: {_some(v)}" for k, v in faults.items() if v)
        )
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
