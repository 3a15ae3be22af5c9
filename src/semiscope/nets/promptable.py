"""What every promptable network gives: an image is encoded once, then many prompts are decoded.

SAM: Kirillov et al. 2023. The decoder is ours for all of them (``nets.sam_decoder``); encoders
differ: ``nets.mobile_sam`` has TinyViT, ``nets.sam`` the vision transformers B, L and H.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from semiscope.nets.sam_decoder import MaskDecoder, PromptEncoder


class PromptableNetwork(nn.Module):
    """An image encoder with SAM's prompt encoder and mask decoder.

    Args:
        image_encoder: (B, 3, side, side) -> (B, 256, side / 16, side / 16).
        side: Pixels of the input along either axis, a multiple of 16.
        fused_qkv: The fused query-key-value layers of the encoder: path in this network ->
            groups. With g groups the outputs are query, key and value of the first g-th of the
            channels, then those of the second, ...
        any_side: Whether the encoder takes inputs of other sizes with the same weights.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        side: int,
        fused_qkv: Mapping[str, int],
        any_side: bool = True,
    ) -> None:
        super().__init__()
        self.side: int = side
        self.any_side = any_side
        self.resize(side)
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder()
        self.fused_qkv = dict(fused_qkv)

    def resize(self, side: int) -> None:
        """Takes inputs of another size from now on, with the same weights.

        Args:
            side: Pixels of the input along either axis.

        Raises:
            ValueError: It is no multiple of 16, or the encoder knows one size alone.
        """
        if side % 16:
            raise ValueError(f"side must be a multiple of 16, found {side}")
        if not self.any_side and side != self.side:
            raise ValueError(f"the encoder takes inputs of {self.side} px alone, found {side}")
        self.side = side

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings of images.

        Args:
            images: (B, 3, side, side), normalised, then padded with 0 at the bottom and right.

        Returns:
            (B, 256, side / 16, side / 16).
        """
        return self.image_encoder(images)  # type: ignore[no-any-return]

    def decode(
        self, embedding: Tensor, points: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks of P prompts.

        Args:
            embedding: (1, 256, h, w): all prompts are of one image; or (P, 256, h, w).
            points: (P, N, 2) x and y in pixels of the input.
            labels: (P, N) int64; see ``PromptEncoder.sparse``. A prompt without a box needs a place
                that is no point.
            masks: (P, 1, side / 4, side / 4) logits.
            has_mask: (P,) 1 where the mask counts, else 0; float.

        Returns:
            (P, 4, side / 4, side / 4) logits of the mask for a prompt without doubt and of three
            for a single point, and (P, 4) the IoU that each claims.
        """
        sparse = self.prompt_encoder.sparse(points, labels, self.side)
        dense = self.prompt_encoder.dense(masks, has_mask)
        places = self.prompt_encoder.pe_layer.grid(*embedding.shape[2:])
        return self.mask_decoder(embedding, places, sparse, dense)  # type: ignore[no-any-return]

    def forward(
        self, images: Tensor, points: Tensor, labels: Tensor, masks: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``decode`` after ``encode``: one image for all prompts, or one for each."""
        return self.decode(self.encode(images), points, labels, masks, has_mask)
