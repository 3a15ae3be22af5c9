"""How fast TEM cross-sections are rendered; draws the picture of docs/simulate.md.

    python benchmarks/tem_sections.py [--pictures FOLDER] [--count N]

Prints rows for docs/benchmarks.md. Speed is counted in seconds of the processor, so other programs
do not disturb.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from semiscope.simulate.tem_stack import CLASSES, DEFECTS, TemStackSettings, render_scene

SEED = 3
COLOURS = np.array(
    [
        (225, 225, 225),
        (110, 140, 190),
        (130, 195, 130),
        (70, 70, 70),
        (170, 90, 180),
        (255, 210, 0),
        (230, 30, 30),
        (255, 130, 20),
    ],
    np.uint8,
)


def draw(path: Path) -> None:
    """Both devices: two images with every kind of defect between them, and a class map."""
    figure = Figure(figsize=(9.6, 6.7), layout="constrained")
    axes = figure.subplots(2, 3)
    for row, device in zip(axes, "AB", strict=True):
        settings = TemStackSettings(device=device, count=40, seed=SEED)
        scenes = [render_scene(settings, i) for i in range(24)]
        # those that show most kinds of defects
        scenes.sort(key=lambda s: -len(np.unique(s.classes)))
        for axis, scene in zip(row, (scenes[0], scenes[0], scenes[1]), strict=True):
            axis.set_axis_off()
            axis.imshow(scene.pixels, cmap="gray", vmin=0, vmax=65535, interpolation="lanczos")
        row[1].imshow(COLOURS[scenes[0].classes], interpolation="nearest")
        row[0].set_title(f"device {device}, {scenes[0].nm_per_px} nm/px", fontsize=8)
    for name, colour in zip(CLASSES, COLOURS, strict=True):
        axes[1, 1].plot([], [], "s", color=colour / 255, label=name)
    figure.legend(loc="outside lower center", ncols=len(CLASSES), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})


def main() -> None:
    """Draws, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"))
    parser.add_argument("--count", type=int, default=10)
    arguments = parser.parse_args()
    draw(arguments.pictures / "tem_stack.jpg")
    for device in "AB":
        settings = TemStackSettings(device=device, count=arguments.count, seed=SEED)
        start = time.process_time()
        scenes = [render_scene(settings, i) for i in range(settings.count)]
        seconds = (time.process_time() - start) / settings.count
        share = np.mean([np.bincount(s.classes.ravel(), minlength=8) for s in scenes], axis=0)
        share = share / share.sum()
        parts = ", ".join(f"{n} {share[CLASSES.index(n)]:.2%}" for n in CLASSES)
        print(f"| {device} | {1 / seconds:.1f} images a second and core | {parts} |")
    print(f"defects: {', '.join(DEFECTS)}")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
