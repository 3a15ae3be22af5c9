"""The die's rotation, measured on simulated units: errors by angle and by the camera's noise.

    python benchmarks/rotation.py [--units 200] [--plot docs/images/rotation.png]

Every unit has a die that is rotated by up to 15 degrees either way. The package's corners are the
true ones blurred by 2 px; the die is measured from its true corners blurred likewise, and from the
box around them, as a detector would give it. The first table is of units as they come; the plot,
from boxes, takes noise of one level after another, in which no unit has any other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure

from semiscope.capture.upright import make_upright, transform_points
from semiscope.cli.show import image_bar
from semiscope.evaluate.plots import write_figure
from semiscope.measure.angle import corners_in_box, measure_rotation
from semiscope.simulate.ic_package import IcPackageSettings, render_unit

NOISE = (2.0, 4.0, 8.0, 16.0)
BINS = (0.0, 1.0, 2.0, 4.0, 7.0, 10.0, 15.0)
BAR_MEDIAN, BAR_99 = 0.1, 0.5


class Error(NamedTuple):
    """Of one die: its true angle, how far off the measured one is, and whether the interval holds.

    All in degrees; the error of a die that could not be measured is infinite.
    """

    angle: float
    error: float
    inside: bool


def errors(settings: IcPackageSettings, start: str) -> Iterator[Error]:
    """Measures every die of a set, from its ``corners`` or its ``box``."""
    with image_bar(f"measuring from the {start}") as bar:
        for index in range(settings.count):
            unit = render_unit(settings, index)
            bar(index + 1, settings.count)
            if unit.die_corners is None or unit.die_angle_deg is None:
                continue
            rng = np.random.default_rng(index)
            rough = unit.package_corners + rng.normal(0, 2, (4, 2))
            upright = make_upright(unit.pixels, rough)
            die = transform_points(unit.die_corners, upright.homography)
            box = np.concatenate([die.min(axis=0), die.max(axis=0)]) + rng.normal(0, 2, 4)
            corners = die + rng.normal(0, 2, (4, 2))
            if start == "box":
                corners = corners_in_box(upright.pixels, box)
            found = measure_rotation(
                upright.pixels, corners, photo=unit.pixels, homography=upright.homography
            )
            if found is None:
                yield Error(unit.die_angle_deg, np.inf, False)
                continue
            far = abs(found.angle_deg - unit.die_angle_deg)
            yield Error(unit.die_angle_deg, far, found.low <= unit.die_angle_deg <= found.high)


def line(name: str, found: list[Error]) -> str:
    """A row of the table."""
    far = np.array([e.error for e in found])
    inside = 100 * np.mean([e.inside for e in found])
    return (
        f"| {name} | {len(found)} | {np.median(far):.3f} | {np.quantile(far, 0.99):.3f} | "
        f"{far.max():.3f} | {inside:.0f} % |"
    )


def plot(found: dict[float, list[Error]], path: Path) -> None:
    """Median and 99th percentile of the error over the angle, a colour for each noise."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    middle = [(low + high) / 2 for low, high in zip(BINS, BINS[1:], strict=False)]
    for k, (noise, of) in enumerate(found.items()):
        angle = np.abs([e.angle for e in of])
        far = np.array([e.error for e in of])
        place = np.digitize(angle, BINS[1:-1])
        parts = [far[place == i] for i in range(len(middle))]
        for share, style in ((0.5, "o-"), (0.99, "^--")):
            values = [np.quantile(p, share) if len(p) else np.nan for p in parts]
            label = f"noise {noise:g} of 255" if share == 0.5 else None
            axes.plot(middle, values, style, color=f"C{k}", label=label)
    for bar, name in ((BAR_MEDIAN, "bar, median (solid)"), (BAR_99, "bar, 99 % (dashed)")):
        axes.axhline(bar, color="black", lw=0.8, ls=":")
        axes.annotate(
            name,
            (0.01, bar),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(
        xlabel="rotation of the die, degrees",
        ylabel="error, degrees",
        title="error of the measured rotation: median (solid) and 99 % (dashed)",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(figure, path)


def main() -> None:
    """Prints the tables and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=200, help="of each set")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plot", type=Path, default=Path("runs/rotation.png"))
    given = parser.parse_args()
    cv2.setNumThreads(1)

    def units(**changes: Any) -> IcPackageSettings:
        values = {"count": given.units, "seed": given.seed, **changes}
        return IcPackageSettings.from_dict(values, "units")

    head = "dies | median error, degrees | 99 % | largest | true angle in the interval |"
    print(f"| units as they come, from the die's | {head}\n|---|---|---|---|---|---|")
    for start in ("corners", "box"):
        print(line(start, list(errors(units(), start))), flush=True)
    # every die rotated, small angles as often as large ones
    rotated = {"good": 0.0, "rotation": 1.0, "missing": 0.0}
    print(f"\n| noise of 255 levels, from boxes | {head}\n|---|---|---|---|---|---|")
    found: dict[float, list[Error]] = {}
    for noise in NOISE:
        camera = {"noise": (noise, noise)}
        found[noise] = list(errors(units(defects=rotated, camera=camera), "box"))
        print(line(f"{noise:g}", found[noise]), flush=True)
    plot(found, given.plot)


if __name__ == "__main__":
    main()
