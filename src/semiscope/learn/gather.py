"""What the other processes of a training hold, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllGather(torch.autograd.Function):
    """Joins tensors of one shape; what each process's use of a tensor asks of it is added up."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.count = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.count
        return total[first : first + ctx.count]


def gathered(tensor: Tensor) -> tuple[Tensor, int]:
    """A tensor of all processes joined along its first dimension.

    Args:
        tensor: Of the same shape in each process.

    Returns:
        The joined tensor, and where in it this process's own part begins.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor, 0
    joined: Tensor = _AllGather.apply(tensor)  # type: ignore[no-untyped-call]
    return joined, dist.get_rank() * len(tensor)
