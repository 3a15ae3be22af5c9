"""Images that are seen as a whole, as training views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiscope.data.augment import ViewSettings, photometric
from semiscope.infer.decode import letterbox, scale_range, to_tensor, with_channels
from semiscope.infer.model import InputSpec
from semiscope.io.image import read_image
from semiscope.types import Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Boxed:
    """An image scaled to the network's input, its grey values as they were.

    Attributes:
        pixels: (height, width) or (height, width, 3) of the input.
        low_high: The grey values that become 0 and 1.
    """

    pixels: Pixels
    low_high: tuple[float, float]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.pixels.nbytes


def read_boxed(path: Path, spec: InputSpec) -> Boxed:
    """Reads an image and scales it.

    Raises:
        ImageError: The file cannot be read.
    """
    pixels = read_image(path).specimen
    low_high = scale_range(pixels, spec.scaling)
    middle = low_high[0] + float(np.mean(spec.mean)) * (low_high[1] - low_high[0])
    fitted, _ = letterbox(with_channels(pixels, spec.channels), spec.height, spec.width, middle)
    return Boxed(fitted, low_high)


def view_of(
    image: Boxed,
    matrix: NDArray[np.float64],
    spec: InputSpec,
    settings: ViewSettings,
    rng: np.random.Generator,
) -> Tensor:
    """A view as the network's input.

    Args:
        image: What it shows.
        matrix: (2, 3) from the image to the view, see ``data.augment.random_affine``.
        spec: How pixels become the network's input.
        settings: How much the grey values may change.
        rng: Decides that.

    Returns:
        (C, H, W) float32.
    """
    # cv2 puts (0, 0) at the centre of the first pixel, our coordinates at its corner
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    # what is mirrored in shows no edge that a network could take for a defect
    pixels = cv2.warpAffine(
        image.pixels, centred, (spec.width, spec.height), borderMode=cv2.BORDER_REFLECT_101
    )
    nothing, one = (0.0,) * spec.channels, (1.0,) * spec.channels
    planes = to_tensor(pixels, image.low_high, nothing, one)  # type: ignore[arg-type]
    values = np.moveaxis(planes, 0, -1) if spec.channels == 3 else planes[0]
    values = photometric(values, settings, rng)
    return torch.from_numpy(to_tensor(values, (0.0, 1.0), spec.mean, spec.std))
