"""Draws the pictures of docs/tem-noise.md: each perturbation on a real image.

    python benchmarks/tem_noise.py IMAGE [--pictures docs/images]

The pictures of the page show a part of 070516#1_S1160020.png, a training image of the coating set
in ../shared/data/cross_sections.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from semiscope.data.perturbation import FloatArray
from semiscope.data.tem_noise import FAMILIES
from semiscope.io.image import read_image

STRENGTHS = (0.5, 1.0)
SIDE = 360
SEED = 4


def part_of(path: Path) -> FloatArray:
    """The middle of an image, (SIDE, SIDE) float32 in [0, 1]."""
    image = read_image(path)
    pixels = np.asarray(image.pixels, np.float32) / np.float32(np.iinfo(image.pixels.dtype).max)
    grey = pixels if pixels.ndim == 2 else pixels.mean(axis=2)
    top, left = ((n - SIDE) // 2 for n in grey.shape)
    return grey[top : top + SIDE, left : left + SIDE]


def draw(pixels: FloatArray, family: str, path: Path) -> None:
    """A column a perturbation, a row a strength."""
    members = FAMILIES[family]
    columns = len(members) + 1
    figure = Figure(figsize=(2.2 * columns, 4.7), layout="constrained")
    axes = figure.subplots(len(STRENGTHS), columns)
    for row, strength in zip(axes, STRENGTHS, strict=True):
        shown = {"as it is": pixels} | {
            f"{name} {strength:g}": member(pixels, np.random.default_rng(SEED), strength)[0]
            for name, member in members.items()
        }
        for axis, (title, picture) in zip(row, shown.items(), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="lanczos")
            axis.set_title(title.replace("_", " "), fontsize=8)
            axis.set_axis_off()
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 80})


def main() -> None:
    """Draws one picture a family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    pixels = part_of(arguments.image)
    for family in FAMILIES:
        draw(pixels, family, arguments.pictures / f"tem_noise_{family}.jpg")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
