"""The vision transformer: Dosovitskiy et al. 2021. Modules are named as in timm's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.weights import take_all

# name -> width, depth, heads
VITS = {
    "vit-tiny": (192, 12, 3),
    "vit-small": (384, 12, 6),
    "vit-base": (768, 12, 12),
}

_EPS = 1e-6
_LONGEST_WAVE = 10_000
# classifiers, and the decoder of a published masked autoencoder
_NOT_OURS = re.compile(r"(head|fc_norm)\.|(decoder_|mask_token).*")


class Attention(nn.Module):
    """Self-attention with fused query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, T, width) -> the same shape."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and an MLP, each after a norm and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, T, width) -> the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """Each patch through one linear layer."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, patches, width), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Vit(nn.Module):
    """Patches and a class token through a stack of blocks.

    Args:
        image: Height and width of the images, multiples of ``patch``.
        patch: Side of a patch.
        width: Channels of a token, a multiple of 4 and of ``heads``.
        depth: Number of blocks.
        heads: Of each attention.
        channels: Of the images.

    Attributes:
        grid: Rows and columns of patches.

    Raises:
        ValueError: The image is not made of whole patches.
    """

    def __init__(
        self,
        image: tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if image[0] % patch or image[1] % patch:
            raise ValueError(f"expected an image of whole patches of {patch}, found {image}")
        self.grid = (image[0] // patch, image[1] // patch)
        self.width = width
        self.patch_embed = PatchEmbedding(patch, channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        places = sine_positions(self.grid, width)
        self.pos_embed = nn.Parameter(F.pad(places, (0, 0, 1, 0))[None])
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        nn.init.normal_(self.cls_token, std=0.02)
        self.apply(start_linear)
        # the convolution is a linear layer over patches and starts as one
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(width, -1))
        assert self.patch_embed.proj.bias is not None
        nn.init.zeros_(self.patch_embed.proj.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Patches as tokens that know their place.

        Args:
            images: (n, channels, H, W).

        Returns:
            (n, patches, width), row by row.
        """
        return self.patch_embed(images) + self.pos_embed[:, 1:]  # type: ignore[no-any-return]

    def encode(self, tokens: Tensor) -> Tensor:
        """What a token means among the others; their order does not matter.

        Args:
            tokens: (n, T, width) of ``embed``, all or some.

        Returns:
            (n, 1 + T, width), normed, the class token first.
        """
        first = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        return self.norm(self.blocks(torch.cat([first, tokens], 1)))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n, 1 + patches, width), the class token first."""
        return self.encode(self.embed(images))


def start_linear(module: nn.Module) -> None:
    """Gives a linear layer the weights that a masked autoencoder starts from."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Places as sines and cosines: He et al. 2022.

    Args:
        grid: Rows and columns.
        width: Channels, a multiple of 4: a half for the column, a half for the row.

    Returns:
        (rows * columns, width), row by row.
    """
    waves = _LONGEST_WAVE ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = (torch.arange(n, dtype=torch.float64)[:, None] * waves for n in grid)
    row, column = (torch.cat([x.sin(), x.cos()], 1) for x in (rows, columns))
    row, column = row[:, None].expand(-1, grid[1], -1), column[None].expand(grid[0], -1, -1)
    return torch.cat([column, row], 2).flatten(0, 1).float()


def load_vit(
    network: Vit, tensors: Mapping[str, Tensor], grid: tuple[int, int] | None = None
) -> None:
    """Takes trained weights by name, of an image of any size and of one or three channels.

    Places are interpolated (bicubic, smoothed when they get fewer). A grey network sums the three
    colours' filters; a colour network spreads the one of grey. Classifiers and decoders are left
    out.

    Args:
        network: Takes them.
        tensors: Named as timm names them.
        grid: Rows and columns of patches that the weights were trained with; None for a square.

    Raises:
        ValueError: Tensors are missing, unknown, or of another shape; or their number of places is
            no square.
    """
    given = {k: v for k, v in tensors.items() if not _NOT_OURS.match(k)}
    own = network.state_dict()
    if "pos_embed" in given:
        given["pos_embed"] = _moved(given["pos_embed"], grid, network.grid)
    filters, channels = (
        given.get("patch_embed.proj.weight"),
        own["patch_embed.proj.weight"].shape[1],
    )
    if filters is not None and filters.ndim == 4 and filters.shape[1] != channels:
        summed = filters.sum(1, keepdim=True).expand(-1, channels, -1, -1)
        given["patch_embed.proj.weight"] = summed / channels
    take_all(own, given)


def _moved(places: Tensor, source: tuple[int, int] | None, target: tuple[int, int]) -> Tensor:
    """Positions (1, 1 + rows * columns, width) on another grid."""
    count = places.shape[1] - 1
    rows, columns = source or (round(count**0.5),) * 2
    if rows * columns != count:
        raise ValueError(f"expected positions of a grid of {rows} by {columns}, found {count}")
    if (rows, columns) == target:
        return places
    grid = places[:, 1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), target, mode="bicubic", antialias=True)
    return torch.cat([places[:, :1], grid.flatten(2).transpose(1, 2).to(places)], 1)
