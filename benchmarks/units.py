"""Verdicts on simulated units, from the photograph to pass, fail or review, held against the truth.

    python benchmarks/units.py [--data runs/data/ic-units] [--model ic-die]
        [--capture contour segment prompt] [--prompt MODEL]

The test photographs are inspected as ``semiscope inspect --capture`` does it, once with each way of
finding the package. A bad unit that passes has escaped; a good one that fails is over-rejected. The
rotation is compared for the dice whose unit was captured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from semiscope.cli.show import image_bar
from semiscope.evaluate.inspection import judge_units
from semiscope.evaluate.intervals import Rate
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings

DEFECTS = ("die_crack", "die_rotation", "missing_die")


def percent(rate: Rate) -> str:
    """A rate with its interval at 95 %."""
    found = rate.interval
    if found.value is None or found.low is None or found.high is None:
        return "-"
    low, high = 100 * found.low, 100 * found.high
    return f"{rate.count}/{rate.of} = {100 * found.value:.1f} % ({low:.1f} to {high:.1f})"


def angles(labels: dict[str, Any], die: str) -> dict[str, float]:
    """File name -> the best die's rotation in degrees, of those that have one."""
    names = {i["id"]: Path(i["file_name"]).name for i in labels["images"]}
    kinds = {c["id"]: c["name"] for c in labels["categories"]}
    return {
        names[a["image_id"]]: a["angle_deg"]
        for a in labels["annotations"]
        if kinds[a["category_id"]] == die and a.get("angle_deg") is not None
    }


def main() -> None:
    """Prints a table for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("runs/data/ic-units"))
    parser.add_argument("--model", default="ic-die")
    parser.add_argument("--capture", nargs="+", default=["contour", "segment"])
    parser.add_argument("--segment", default="ic-package-seg", help="model that outlines packages")
    parser.add_argument("--prompt", help="promptable model")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    folder = given.data / "test"
    truth = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    units = {i["file_name"]: i for i in truth["images"]}
    turned = angles(truth, "die")
    print(
        "| package found by | escape | over-reject | bad for review | good for review | "
        f"{' | '.join(f'{d}: escaped' for d in DEFECTS)} | rotation error, degrees: median, 99 % | "
        "units/s |"
    )
    print("|---" * (7 + len(DEFECTS)) + "|")
    for method in given.capture:
        settings = InspectSettings.from_dict(
            {
                "model": given.model,
                "capture": method,
                "threads": given.threads,
                "package": {
                    "segment": {"model": given.segment},
                    "prompt": {"model": given.prompt},
                },
                "gallery": 0,
            },
            "units",
        )
        with tempfile.TemporaryDirectory() as out, image_bar(method) as bar:
            summary = inspect([folder / "images"], settings, Path(out), progress=bar)
            results = json.loads(summary.results.read_text(encoding="utf-8"))
        verdict = {Path(i["file_name"]).name: i["verdict"] for i in results["images"]}
        names = sorted(verdict)
        bad = np.array([units[n]["verdict"] == "fail" for n in names])
        called = np.array([verdict[n] for n in names])
        report = judge_units(bad, called)
        escaped = []
        for defect in DEFECTS:
            having = np.array([defect in units[n]["reasons"] for n in names])
            escaped.append(Rate(int((having & (called == "pass")).sum()), int(having.sum())))
        found = angles(results, "die")
        far = np.abs([found[n] - turned[n] for n in found if n in turned])
        rates = report.escape, report.over_reject, report.review_bad, report.review_good, *escaped
        print(
            f"| {method} | {' | '.join(percent(r) for r in rates)} | {np.median(far):.3f}, "
            f"{np.quantile(far, 0.99):.3f} | {summary.images_per_second:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
