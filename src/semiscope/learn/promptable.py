"""Promptable networks from published weights, and the adapters that are learnt on top of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from semiscope.errors import SettingsError
from semiscope.infer.promptable import Prompter
from semiscope.io.files import write_atomic
from semiscope.nets.lora import load_lora, lora_tensors
from semiscope.nets.mobile_sam import MobileSAM
from semiscope.nets.promptable import PromptableNetwork

# grey values of 0 to 1, as all SAMs were trained (ImageNet's)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def _mobile_sam(place: str) -> PromptableNetwork:
    network = MobileSAM()
    try:
        content: Any = torch.load(place, map_location="cpu", weights_only=True)
        network.load_state_dict(content)
    except Exception as error:  # torch raises many kinds for a bad file
        raise SettingsError(
            f"{place}: expected MobileSAM's checkpoint (mobile_sam.pt, 439 tensors), found: "
            f"{_first_line(error)}"
        ) from None
    return network


def _sam(place: str) -> PromptableNetwork:
    # imported here: transformers takes seconds
    from transformers import SamModel

    from semiscope.nets.sam import SAM

    try:
        # weights as safetensors only: a pickle could run code
        model = SamModel.from_pretrained(place, use_safetensors=True)
        return SAM(model)
    except Exception as error:  # transformers, its hub and torch raise many kinds
        raise SettingsError(
            f"{place}: expected SAM's folder (config.json, model.safetensors) or its name on the "
            f"Hugging Face Hub, such as facebook/sam-vit-base, found: {_first_line(error)}. "
            "Without a connection, fetch the folder elsewhere."
        ) from None


BASES: dict[str, Callable[[str], PromptableNetwork]] = {"mobile-sam": _mobile_sam, "sam": _sam}


def is_base(source: str) -> bool:
    """Whether a text names a base rather than a run's folder."""
    return source.partition(":")[0] in BASES and ":" in source


def load_base(source: str) -> PromptableNetwork:
    """A promptable network with published weights, in evaluation mode.

    Args:
        source: "mobile-sam:FILE" with its .pt file, or "sam:FOLDER" with what transformers saves;
            a name instead of a folder asks the Hugging Face Hub.

    Raises:
        SettingsError: There is no such kind, or the weights cannot be read.
    """
    if not is_base(source):
        raise SettingsError(
            f"base {source!r}: expected mobile-sam:FILE or sam:FOLDER, found neither"
        )
    kind, _, place = source.partition(":")
    return BASES[kind](place).eval()


def save_adapter(path: Path, network: PromptableNetwork, facts: dict[str, Any]) -> None:
    """Writes what LoRA has learnt as safetensors: a few MB.

    Args:
        path: The .safetensors file.
        network: With ``nets.lora.add_lora``.
        facts: Plain values that tell how it was learnt.

    Raises:
        SemiscopeError: The place cannot be written.
    """
    tensors = {name: t.contiguous().cpu() for name, t in lora_tensors(network).items()}
    write_atomic(path, save(tensors, {"semiscope": json.dumps(facts)}))


def load_adapter(path: Path, network: PromptableNetwork) -> dict[str, Any]:
    """Puts a saved adapter on the base that it was learnt on.

    Args:
        path: What ``save_adapter`` wrote.
        network: A base without LoRA.

    Returns:
        The facts that it was saved with.

    Raises:
        SettingsError: The file is missing, damaged, or of another architecture.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            facts = json.loads((file.metadata() or {}).get("semiscope", "{}"))
        load_lora(network, tensors)
    except (OSError, SafetensorError, ValueError) as error:
        raise SettingsError(
            f"{path}: expected an adapter for this base, found: {_first_line(error)}"
        ) from None
    return facts  # type: ignore[no-any-return]


class TorchPrompter(Prompter):
    """A network as it is now, asked as the exported model will be.

    Args:
        network: In evaluation mode; it must not change while this is used, as embeddings are
            remembered.
    """

    def __init__(self, network: PromptableNetwork) -> None:
        super().__init__(network.side, MEAN, STD)
        self._network = network

    def _run(
        self, outputs: tuple[str, ...], given: dict[str, NDArray[Any]]
    ) -> list[NDArray[np.float32]]:
        device = next(self._network.parameters()).device
        tensors = {name: torch.from_numpy(value).to(device) for name, value in given.items()}
        with torch.no_grad():
            if "images" in tensors:
                found: tuple[torch.Tensor, ...] = (self._network.encode(tensors["images"]),)
            else:
                found = self._network.decode(**tensors)
        return [value.float().cpu().numpy() for value in found]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
