"""MobileSAM: Zhang et al. 2023, "Faster Segment Anything". TinyViT before SAM's decoder."""

from __future__ import annotations

from semiscope.nets.promptable import PromptableNetwork
from semiscope.nets.sam_decoder import CHANNELS
from semiscope.nets.tiny_vit import Attention, TinyViT


class MobileSAM(PromptableNetwork):
    """The published network: ``load_state_dict`` takes its checkpoint as it is, all 439 tensors.

    Args:
        side: Pixels of the input along either axis. The weights are trained for 1,024.
    """

    def __init__(self, side: int = 1024) -> None:
        encoder = TinyViT(CHANNELS)
        attentions = {n: m for n, m in encoder.named_modules() if isinstance(m, Attention)}
        fused = {f"image_encoder.{name}.qkv": m.heads for name, m in attentions.items()}
        super().__init__(encoder, side, fused)
