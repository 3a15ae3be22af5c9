"""SAM's prompt encoder and mask decoder: Kirillov et al. 2023, "Segment Anything", appendix A.

Modules are named as in the published checkpoints of SAM and MobileSAM, which share this part.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiscope.nets.norms import LayerNorm2d

CHANNELS = 256  # of the embedding and of every token
MASKS = 4  # the first for prompts that leave no doubt, three for a single point
NOT_A_POINT, NEGATIVE, POSITIVE, BOX_START, BOX_END = -1, 0, 1, 2, 3

_HEADS = 8
_HIDDEN = 2048
_LAYERS = 2


class PositionalEncoding(nn.Module):
    """Places in [0, 1] as sines and cosines of random projections (Tancik et al. 2020)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "positional_encoding_gaussian_matrix", torch.randn(2, CHANNELS // 2), persistent=True
        )

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2) x and y -> (..., 256)."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], -1)

    def grid(self, rows: int, columns: int) -> Tensor:
        """(1, 256, rows, columns): the centres of a map's places."""
        matrix = self.positional_encoding_gaussian_matrix
        y = (torch.arange(rows, device=matrix.device, dtype=matrix.dtype) + 0.5) / rows
        x = (torch.arange(columns, device=matrix.device, dtype=matrix.dtype) + 0.5) / columns
        places = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], -1)
        return self(places).permute(2, 0, 1)[None]  # type: ignore[no-any-return]


class PromptEncoder(nn.Module):
    """Points and box corners become tokens, a mask becomes a map."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = PositionalEncoding()
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, CHANNELS) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, CHANNELS)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, 2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, 2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, CHANNELS, 1),
        )
        self.no_mask_embed = nn.Embedding(1, CHANNELS)

    def sparse(self, points: Tensor, labels: Tensor, side: int) -> Tensor:
        """Tokens of points and box corners.

        Args:
            points: (P, N, 2) x and y in pixels of the input; half a pixel is added, as when the
                published weights were trained.
            labels: (P, N) int64: -1 no point, 0 negative, 1 positive, 2 a box's top left corner, 3
                its bottom right corner.
            side: Pixels of the input.

        Returns:
            (P, N, 256).
        """
        place: Tensor = self.pe_layer((points + 0.5) / side)
        real = (e.get_parameter("weight") for e in self.point_embeddings)
        kinds = torch.cat([self.not_a_point_embed.weight, *real])
        counts = (labels != NOT_A_POINT).unsqueeze(-1).to(place.dtype)
        return place * counts + F.embedding(labels + 1, kinds)

    def dense(self, masks: Tensor, has_mask: Tensor) -> Tensor:
        """The map of masks.

        Args:
            masks: (P, 1, h, w) logits at a quarter of the input's resolution.
            has_mask: (P,) 1 where that mask counts, 0 where there is none; of the masks' dtype.

        Returns:
            (P, 256, h / 4, w / 4).
        """
        given = has_mask[:, None, None, None]
        shown: Tensor = self.mask_downscaling(masks)
        return given * shown + (1 - given) * self.no_mask_embed.weight[:, :, None, None]


class Attention(nn.Module):
    """Attention of 8 heads whose width may be less than the tokens'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(CHANNELS, width)
        self.k_proj = nn.Linear(CHANNELS, width)
        self.v_proj = nn.Linear(CHANNELS, width)
        self.out_proj = nn.Linear(width, CHANNELS)
        self.scale = (width // _HEADS) ** -0.5

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(P, Q, 256), (P, K, 256), (P, K, 256) -> (P, Q, 256)."""
        q, k, v = _heads(self.q_proj(query)), _heads(self.k_proj(key)), _heads(self.v_proj(value))
        seen = (self.scale * q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out_proj(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FewQueries(Attention):
    """The same for a few tokens that look at thousands of places.

    The projections of keys and values go to the tokens' side of the products, which is less than
    half the work. What the keys' bias adds is equal for all keys and falls out of the softmax.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``Attention``."""
        q = self.scale * _heads(self.q_proj(query)) @ _rows(self.k_proj.weight)
        weights = (q.flatten(1, 2) @ key.transpose(1, 2)).softmax(-1)
        seen = (weights @ value).unflatten(1, (_HEADS, -1))
        seen = seen @ _rows(self.v_proj.weight).transpose(1, 2)
        return self.out_proj(seen.transpose(1, 2).flatten(2) + self.v_proj.bias)  # type: ignore[no-any-return]


class FewKeys(Attention):
    """The same for thousands of places that look at a few tokens; see ``FewQueries``."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See ``Attention``."""
        k, v = self.scale * _heads(self.k_proj(key)), _heads(self.v_proj(value))
        shift = (k @ self.q_proj.bias.view(_HEADS, -1, 1)).flatten(1)[:, None]
        weights = query @ (k @ _rows(self.q_proj.weight)).flatten(1, 2).transpose(1, 2) + shift
        weights = weights.unflatten(2, (_HEADS, -1)).softmax(-1).flatten(2)
        return weights @ (v @ _rows(self.out_proj.weight.T)).flatten(1, 2) + self.out_proj.bias  # type: ignore[no-any-return]


def _heads(x: Tensor) -> Tensor:
    """(P, T, width) -> (P, 8, T, width / 8)."""
    return x.unflatten(-1, (_HEADS, -1)).transpose(1, 2)  # type: ignore[no-untyped-call,no-any-return]


def _rows(weight: Tensor) -> Tensor:
    """(width, 256) -> (8, width / 8, 256)."""
    return weight.unflatten(0, (_HEADS, -1))  # type: ignore[no-untyped-call,no-any-return]


class TwoWayBlock(nn.Module):
    """Tokens look at each other and at the image, then the image looks at the tokens.

    Args:
        first: The first block: nothing is added to what the tokens' self-attention gives, nor
            their places before it.
    """

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(CHANNELS)
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.cross_attn_token_to_image = FewQueries(CHANNELS // 2)
        self.norm2 = nn.LayerNorm(CHANNELS)
        self.mlp = nn.Sequential(
            OrderedDict(
                lin1=nn.Linear(CHANNELS, _HIDDEN),
                relu=nn.ReLU(),
                lin2=nn.Linear(_HIDDEN, CHANNELS),
            )
        )
        self.norm3 = nn.LayerNorm(CHANNELS)
        self.norm4 = nn.LayerNorm(CHANNELS)
        self.cross_attn_image_to_token = FewKeys(CHANNELS // 2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_places: Tensor, image_places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(P, T, 256), (P, K, 256) and their places -> both, looked at."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_places
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        seen = self.cross_attn_token_to_image(tokens + token_places, image + image_places, image)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token(image + image_places, tokens + token_places, tokens)
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """Two blocks, and a last look of the tokens at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first=i == 0) for i in range(_LAYERS))
        self.final_attn_token_to_image = FewQueries(CHANNELS // 2)
        self.norm_final_attn = nn.LayerNorm(CHANNELS)

    def forward(self, image: Tensor, image_places: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(P, K, 256), (1, K, 256), (P, T, 256) -> tokens and image, looked at."""
        token_places = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_places, image_places)
        seen = self.final_attn_token_to_image(tokens + token_places, image + image_places, image)
        return self.norm_final_attn(tokens + seen), image


class MLP(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)  # type: ignore[no-any-return]


class MaskDecoder(nn.Module):
    """From an embedding and a prompt's tokens to four masks and what IoU each claims."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, CHANNELS)
        self.mask_tokens = nn.Embedding(MASKS, CHANNELS)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, CHANNELS // 4, 2, 2),
            LayerNorm2d(CHANNELS // 4),
            nn.GELU(),
            nn.ConvTranspose2d(CHANNELS // 4, CHANNELS // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP((CHANNELS, CHANNELS, CHANNELS, CHANNELS // 8)) for _ in range(MASKS)
        )
        self.iou_prediction_head = MLP((CHANNELS, CHANNELS, CHANNELS, MASKS))

    def forward(
        self, embedding: Tensor, places: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks of P prompts.

        Args:
            embedding: (1 or P, 256, h, w).
            places: (1, 256, h, w) positional encoding of the embedding's places.
            sparse: (P, N, 256).
            dense: (P, 256, h, w).

        Returns:
            (P, 4, 4 h, 4 w) logits and (P, 4) IoU.
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        # not len(): the export would take the number of prompts as fixed
        tokens = torch.cat([own.expand(sparse.shape[0], -1, -1), sparse], 1)
        image = (embedding + dense).flatten(2).transpose(1, 2)
        tokens, image = self.transformer(image, places.flatten(2).transpose(1, 2), tokens)
        weights = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], 1
        )
        masks = self._upscaled(image) @ weights.transpose(1, 2)
        return _woven(masks, *embedding.shape[2:]), self.iou_prediction_head(tokens[:, 0])

    def _upscaled(self, image: Tensor) -> Tensor:
        """``output_upscaling`` of (P, K, 256) places: (P, 16 K, 32), the parts of a place together.

        Transposed convolutions whose windows do not overlap are products place by place; channels
        stay last, and only the finished masks are put in order (``_woven``).
        """
        first, norm, second = (self.output_upscaling[i] for i in (0, 1, 3))
        assert isinstance(first, nn.ConvTranspose2d) and isinstance(second, nn.ConvTranspose2d)
        assert isinstance(norm, LayerNorm2d)
        x = _parts(image, first)
        x = F.gelu(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        return F.gelu(_parts(x, second)).flatten(1, -2)


def _parts(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """(..., inputs) -> (..., 4, outputs): what a 2 x 2 transposed convolution makes of a place."""
    product = x @ layer.weight.permute(0, 2, 3, 1).flatten(1)
    return product.unflatten(-1, (4, -1)) + layer.bias  # type: ignore[no-untyped-call,no-any-return]


def _woven(masks: Tensor, rows: int, columns: int) -> Tensor:
    """(P, rows * columns * 2 * 2 * 2 * 2, 4) by place and part -> (P, 4, 4 rows, 4 columns)."""
    parts = masks.unflatten(1, (rows, columns, 2, 2, 2, 2))  # type: ignore[no-untyped-call]
    woven = parts.permute(0, 7, 1, 3, 5, 2, 4, 6)
    return woven.flatten(5, 7).flatten(2, 4)  # type: ignore[no-any-return]
