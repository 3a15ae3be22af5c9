"""SAM ViT-B, L and H: Kirillov et al. 2023. The image encoder is that of the library transformers.

Prompt encoder and mask decoder are ours and take transformers' weights by name, so that training,
export and inference know one decoder for all promptable networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn
from transformers import SamModel

from semiscope.nets.promptable import PromptableNetwork

# transformers' names -> those of SAM's own checkpoints, applied one after the other
_NAMES = (
    (
        r"shared_image_embedding\.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"(prompt_encoder)\.point_embed\.", r"\1.point_embeddings."),
    (r"(prompt_encoder)\.mask_embed\.conv1\.", r"\1.mask_downscaling.0."),
    (r"(prompt_encoder)\.mask_embed\.layer_norm1\.", r"\1.mask_downscaling.1."),
    (r"(prompt_encoder)\.mask_embed\.conv2\.", r"\1.mask_downscaling.3."),
    (r"(prompt_encoder)\.mask_embed\.layer_norm2\.", r"\1.mask_downscaling.4."),
    (r"(prompt_encoder)\.mask_embed\.conv3\.", r"\1.mask_downscaling.6."),
    (r"(mask_decoder)\.upscale_conv1\.", r"\1.output_upscaling.0."),
    (r"(mask_decoder)\.upscale_layer_norm\.", r"\1.output_upscaling.1."),
    (r"(mask_decoder)\.upscale_conv2\.", r"\1.output_upscaling.3."),
    (r"(mask_decoder\.transformer)\.layer_norm_final_attn\.", r"\1.norm_final_attn."),
    (r"(mask_decoder\.transformer\.layers\.\d)\.layer_norm(\d)\.", r"\1.norm\2."),
    (r"(mask_decoder\.(?:output_h|iou).*)\.layers\.0\.", r"\1.layers.1."),
    (r"(mask_decoder\.(?:output_h|iou).*)\.proj_in\.", r"\1.layers.0."),
    (r"(mask_decoder\.(?:output_h|iou).*)\.proj_out\.", r"\1.layers.2."),
)


class _Encoder(nn.Module):
    """transformers' vision encoder, giving its features alone."""

    def __init__(self, vision: nn.Module) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, side, side) -> (B, 256, side / 16, side / 16)."""
        return self.vision(images).last_hidden_state  # type: ignore[no-any-return]


class SAM(PromptableNetwork):
    """A SAM of transformers, its encoder as it is and its decoder's weights in ours.

    Args:
        model: With SAM's own prompt encoder and mask decoder; only the encoder's size may vary.

    Raises:
        RuntimeError: The decoder is of another form.
    """

    def __init__(self, model: SamModel) -> None:
        depth = len(model.vision_encoder.layers)
        fused = {f"image_encoder.vision.layers.{i}.attn.qkv": 1 for i in range(depth)}
        side = model.config.vision_config.image_size
        # its places are learnt one by one
        super().__init__(_Encoder(model.vision_encoder), side, fused, any_side=False)
        named = original_names(model.state_dict())
        self.prompt_encoder.load_state_dict(_below("prompt_encoder.", named))
        self.mask_decoder.load_state_dict(_below("mask_decoder.", named))


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of transformers' prompt encoder and mask decoder under SAM's own names."""
    renamed = {}
    for name, tensor in tensors.items():
        # the encoder stays transformers'; the second copy of the places' matrix is left out
        if name.startswith(("vision_encoder.", "prompt_encoder.shared_embedding.")):
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(f"^{pattern}", replacement, name)
        renamed[name] = tensor
    return renamed


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
