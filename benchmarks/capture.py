"""Ways of finding a package, held against simulated units, upright and turned.

    python benchmarks/capture.py [--units 100] [--segment MODEL] [--prompt MODEL [--detector MODEL]]

Sets of the same products: as photographed (turned by at most 3 degrees), turned by up to 90 degrees
either way, and, upright, under the two dark fields. Errors and IoU are of the photographs that were
captured; a corner's error is to the nearest order of the truth, as no method here knows which way
up a package lies. A capture counts when its IoU with the truth is at least 0.8. Rates are of one
thread, finding alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.capture.methods import METHODS
from semiscope.capture.package import Finder
from semiscope.capture.run import CaptureSettings
from semiscope.simulate.ic_package import IcPackageSettings, Unit, render_unit

GOOD_IOU = 0.8
SETS = {
    "upright": {},
    "turned by up to 90 degrees": {"pose": {"angle_deg": (-90.0, 90.0)}},
    "dark field, white": {"camera": {"illumination": ("dark_field_white",)}},
    "dark field, blue": {"camera": {"illumination": ("dark_field_blue",)}},
}


def units(settings: IcPackageSettings) -> Iterator[Unit]:
    """All units of a set."""
    for index in range(settings.count):
        yield render_unit(settings, index)


def corner_error(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Largest distance of a corner, px, in the best of the four orders."""
    orders = (np.roll(true, quarter, axis=0) for quarter in range(4))
    return min(float(np.hypot(*(found - order).T).max()) for order in orders)


def iou(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Of two convex quadrilaterals."""
    a, b = found.astype(np.float32), true.astype(np.float32)
    shared = cv2.intersectConvexConvex(a, b)[0]
    return float(shared / (cv2.contourArea(a) + cv2.contourArea(b) - shared))


def row(name: str, finder: Finder, settings: IcPackageSettings) -> str:
    """A row of the table."""
    errors, overlaps, captured, seconds = [], [], 0, 0.0
    for unit in units(settings):
        started = time.process_time()
        found = finder(unit.pixels)
        seconds += time.process_time() - started
        if len(found) != 1:
            continue
        errors.append(corner_error(found[0].corners, unit.package_corners))
        overlaps.append(iou(found[0].corners, unit.package_corners))
        captured += overlaps[-1] >= GOOD_IOU
    if not errors:
        return f"| {name} | 0 % | - | - | - | {settings.count / seconds:.2g} |"
    return (
        f"| {name} | {100 * captured / settings.count:.0f} % | {np.median(errors):.2f} | "
        f"{np.quantile(errors, 0.95):.2f} | {np.mean(overlaps):.3f} | "
        f"{settings.count / seconds:.2g} |"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--segment", help="model that outlines packages")
    parser.add_argument("--prompt", help="promptable model")
    parser.add_argument("--detector", default="ic-package-seg", help="model whose boxes prompt it")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    settings = CaptureSettings.from_dict(
        {
            "segment": {"model": options.segment} if options.segment else {},
            "prompt": {"model": options.prompt, "detector": options.detector}
            if options.prompt
            else {},
        },
        "options",
    )
    wanted = ["contour"] + [n for n in ("segment", "prompt") if getattr(options, n)]
    finders = {name: METHODS[name](settings, 1) for name in wanted}
    for title, changes in SETS.items():
        scenes = IcPackageSettings.from_dict(
            {"count": options.units, "seed": options.seed, **changes}, title
        )
        print(f"\n{title}, {options.units} units of {scenes.width} x {scenes.height} px\n")
        print("| method | captured | corner error, median px | 95 % | IoU | images/s |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, finder in finders.items():
            print(row(name, finder, scenes), flush=True)


if __name__ == "__main__":
    main()
