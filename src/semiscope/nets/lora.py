"""Low-rank adaptation of fused query-key-value layers: Hu et al. 2022, "LoRA".

As SeSAMI adapts SAM: only the queries' and values' slices of the image encoder learn, with
W + B A (equation 3, scale 1), A Gaussian and B zero, so that learning starts from the base exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from semiscope.nets.promptable import PromptableNetwork

_ADAPTED = ("q_down", "q_up", "v_down", "v_up")


class LowRankQV(nn.Module):
    """A fused layer whose keys stay as they are.

    Args:
        base: (inputs) -> (3 * width).
        groups: With g groups the outputs are query, key and value of the first g-th of the
            channels, then those of the second, ...
        rank: Columns of B.
    """

    def __init__(self, base: nn.Linear, groups: int, rank: int) -> None:
        super().__init__()
        width = base.out_features // 3
        if not 1 <= rank <= min(width, base.in_features):
            raise ValueError(f"rank must be from 1 to {min(width, base.in_features)}, found {rank}")
        self.base = base
        self.groups = groups
        weight = base.weight
        deviation = base.in_features**-0.5  # what A gives is then as large as what it takes
        self.q_down = nn.Parameter(deviation * torch.randn_like(weight[:rank]))
        self.q_up = nn.Parameter(weight.new_zeros(width, rank))
        self.v_down = nn.Parameter(deviation * torch.randn_like(weight[:rank]))
        self.v_up = nn.Parameter(weight.new_zeros(width, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., 3 * width)."""
        query = (x @ self.q_down.T) @ self.q_up.T
        value = (x @ self.v_down.T) @ self.v_up.T
        return self.base(x) + self._fused(query, value)  # type: ignore[no-any-return]

    def merged(self) -> nn.Linear:
        """The same function as one linear layer."""
        change = self._fused((self.q_up @ self.q_down).T, (self.v_up @ self.v_down).T).T
        layer = copy.deepcopy(self.base)
        with torch.no_grad():
            layer.weight += change
        return layer

    def _fused(self, query: Tensor, value: Tensor) -> Tensor:
        """(..., width) each -> (..., 3 * width) as the base orders them, 0 for the keys."""
        q, v = (x.unflatten(-1, (self.groups, -1)) for x in (query, value))  # type: ignore[no-untyped-call]
        return torch.cat([q, torch.zeros_like(q), v], -1).flatten(-2)


def add_lora(network: PromptableNetwork, rank: int) -> None:
    """Freezes a network and puts a learnable change beside each fused layer of its encoder.

    Train it in evaluation mode: batch norms then keep the statistics of the base.

    Raises:
        ValueError: The rank is not from 1 to the narrowest layer's width.
    """
    network.requires_grad_(False)
    for path, groups in network.fused_qkv.items():
        base = network.get_submodule(path)
        assert isinstance(base, nn.Linear)
        _replace(network, path, LowRankQV(base, groups, rank))


def lora_tensors(network: PromptableNetwork) -> dict[str, Tensor]:
    """What the adaptation has learnt, by name; all that an adapter's file needs."""
    return {
        f"{path}.{name}": getattr(network.get_submodule(path), name).detach()
        for path in network.fused_qkv
        for name in _ADAPTED
    }


def load_lora(network: PromptableNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Adds the adaptation that ``lora_tensors`` gave to a base of the same architecture.

    Raises:
        ValueError: Names or shapes are those of another architecture; the network is unchanged.
    """
    expected = {f"{path}.{name}" for path in network.fused_qkv for name in _ADAPTED}
    if tensors.keys() != expected:
        odd = sorted(tensors.keys() ^ expected)
        raise ValueError(
            f"expected {len(expected)} tensors, found {len(tensors)}; not in both: {odd[0]}"
        )
    rank = len(next(t for name, t in tensors.items() if name.endswith("down")))
    for path in network.fused_qkv:
        base = network.get_submodule(path)
        assert isinstance(base, nn.Linear)
        inputs, width = base.in_features, base.out_features // 3
        for name in _ADAPTED:
            shape = (rank, inputs) if name.endswith("down") else (width, rank)
            if tensors[f"{path}.{name}"].shape != shape:
                found = tuple(tensors[f"{path}.{name}"].shape)
                raise ValueError(f"{path}.{name}: expected {shape}, found {found}")
    add_lora(network, rank)
    network.load_state_dict(tensors, strict=False)


def merge_lora(network: PromptableNetwork) -> None:
    """Folds the adaptation into the base's weights: the same function, the base's architecture."""
    for path in network.fused_qkv:
        layer = network.get_submodule(path)
        assert isinstance(layer, LowRankQV)
        _replace(network, path, layer.merged())


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
