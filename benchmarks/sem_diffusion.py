r"""The tables of SEMI-DiffusionInst (De Ridder et al. 2023) with our networks, beside the paper's.

    python benchmarks/sem_diffusion.py table2|table3 [--minutes 20] [--backbones resnet50 ...]
    python benchmarks/sem_diffusion.py table4 [--minutes 20] [--nets ...] [--sampling ...]
    python benchmarks/sem_diffusion.py table5
    python benchmarks/sem_diffusion.py table6 [--minutes 20] [--steps 1 4]
    python benchmarks/sem_diffusion.py speed [--run RUN | --backbones resnet50]
    python benchmarks/sem_diffusion.py memory

Tables II to IV and VI train what they need into runs/table, every row for the same time (see
training_rows.py), on simulated scenes of the sizes of Table I. A row that is there is not trained
again, so a table can be printed again and tables share rows. Each prints markdown for
docs/benchmarks.md and what its claims come to.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import torch

from semiscope.infer.model import DialPoint
from semiscope.inspection.dial import DialSettings, measure_dial
from semiscope.nets.backbones import BACKBONES
from semiscope.nets.diffusion_inst import DiffusionInst
from speed_and_memory import memory, speed
from training_rows import (
    NETS,
    PAPER_SCORE,
    Row,
    Tested,
    Trained,
    add_options,
    render_table1,
    tested,
    trained,
)

# the paper's classes in the order of its columns
COLUMNS = (
    "line_collapse",
    "single_bridge",
    "multi_bridge_non_horizontal",
    "thin_bridge",
    "multi_bridge_horizontal",
)
RARE = ("multi_bridge_non_horizontal", "multi_bridge_horizontal")

# tables II and III: backbone, sampling, AP by COLUMNS, mAP
PAPER_BACKBONES = {
    "box": (
        ("ResNet 50", "standard", (81.06, 74.75, 56.12, 78.77, 49.83), 64.24),
        ("ResNet 101", "standard", (79.89, 75.56, 58.89, 81.23, 53.80), 66.83),
        ("Swin", "standard", (82.44, 75.04, 62.36, 83.08, 57.23), 67.82),
        ("ResNet 50", "balanced", (79.83, 72.30, 57.87, 79.33, 50.63), 64.11),
        ("ResNet 101", "balanced", (81.71, 78.32, 60.63, 81.10, 55.18), 66.00),
        ("Swin", "balanced", (83.23, 76.97, 63.25, 81.25, 53.39), 67.39),
    ),
    "mask": (
        ("ResNet 50", "standard", (74.76, 73.33, 46.03, 74.33, 44.80), 59.76),
        ("ResNet 101", "standard", (73.68, 74.31, 49.03, 74.09, 47.64), 61.05),
        ("Swin", "standard", (74.28, 74.22, 50.75, 75.38, 53.09), 63.01),
        ("ResNet 50", "balanced", (73.30, 71.84, 46.04, 72.56, 44.92), 58.99),
        ("ResNet 101", "balanced", (75.37, 77.60, 48.72, 73.79, 51.84), 61.80),
        ("Swin", "balanced", (75.50, 74.29, 50.21, 75.07, 47.59), 61.86),
    ),
}
# table IV: both networks by shape
PAPER_NETS = {
    "box": (
        ("SEMI-PointRend", (68.7, 76.5, 69.6, 58.8, 52.8), 65.3),
        ("SEMI-DiffusionInst, Swin", (82.44, 75.04, 62.36, 83.08, 57.23), 67.8),
    ),
    "mask": (
        ("SEMI-PointRend", (63.6, 77.7, 57.4, 55.0, 53.5), 61.7),
        ("SEMI-DiffusionInst, Swin", (74.28, 74.22, 50.75, 75.38, 53.09), 63.0),
    ),
}
# table V: GB of a checkpoint, seconds an image on a V100
PAPER_SIZES = {
    "resnet50": (1.315, 0.0964),
    "resnet101": (1.537, 0.1084),
    "swin-b": (2.053, 0.1439),
}
# table VI, ResNet 50: mAP (of boxes or masks is not said), seconds an image
PAPER_BOXES = {
    500: (62.68, 0.1084),
    400: (63.07, 0.0889),
    300: (62.81, 0.0786),
    200: (62.79, 0.0695),
    100: (62.13, 0.0573),
    50: (59.89, 0.0518),
    25: (53.81, 0.0494),
}
LITTLE = 0.01  # mAP that the claims call little
LEARNED = 0.1  # networks below this mAP say nothing about a claim
SHAPES = {"box": "boxes", "mask": "masks"}


def line(cells: Iterable[object]) -> None:
    """Prints one line of a table at once, for a row may take an hour."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def percent(value: float | None) -> str:
    """As the paper writes AP."""
    return "-" if value is None else f"{100 * value:.1f}"


def claim(text: str, holds: bool, *measured: float | None) -> None:
    """Prints what a claim about networks of these mAP comes to."""
    learned = max(v or 0.0 for v in measured) >= LEARNED
    verdict = ("confirmed" if holds else "refuted") if learned else "not judged, too little learned"
    print(f"- {text}: **{verdict}**", flush=True)


def rows_of(given: argparse.Namespace, nets: Sequence[str]) -> dict[Row, tuple[Trained, Tested]]:
    """Trains what is missing, then tests all in one run."""
    render_table1(given.data)
    rows = [Row(*parts) for parts in product(nets, given.backbones, given.sampling)]
    runs = [trained(row, given) for row in rows]
    figures = tested([run.file for run in runs], given.data, given.threads)
    return dict(zip(rows, zip(runs, figures, strict=True), strict=True))


def is_papers(found: dict[Row, tuple[Trained, Tested]]) -> bool:
    """Whether the classes are the paper's."""
    return all(set(t.reports["box"].per_class) == set(COLUMNS) for _, t in found.values())


def head(found: dict[Row, tuple[Trained, Tested]]) -> tuple[str, ...]:
    """Prints a table's head; gives the classes that are its columns."""
    _, first = next(iter(found.values()))
    classes = COLUMNS if is_papers(found) else tuple(first.reports["box"].per_class)
    columns = ("network", "sampling", "AP of", *(c.replace("_", " ") for c in classes), "mAP")
    columns += ("AP50", f"mAP from score {PAPER_SCORE}", "steps", "minutes", "s an image")
    line(columns)
    line("---" for _ in columns)
    return classes


def show(row: Row, run: Trained, figures: Tested, shape: str, classes: Sequence[str]) -> None:
    """Prints one of our rows."""
    report = figures.reports[shape]
    line(
        (
            f"{row.net}, {row.backbone}",
            row.sampling,
            SHAPES[shape],
            *(percent(report.per_class[c].ap) for c in classes),
            f"**{percent(report.map)}**",
            percent(report.map50),
            percent(figures.cut[shape].map),
            run.steps,
            "-" if run.minutes is None else f"{run.minutes:.1f}",
            f"{figures.seconds:.3f}",
        )
    )


def show_papers(name: str, sampling: str, shape: str, ap: Sequence[float], mean: float) -> None:
    """Prints one of the paper's rows, its mAP in the column of its score."""
    cells = (*(f"{v:.1f}" for v in ap), "", "", f"{mean:.1f}", "", "", "")
    line((f"the paper: {name}", sampling, SHAPES[shape], *cells))


def differences(given: argparse.Namespace) -> None:
    """Says what was not as in the paper."""
    start = "" if given.init is None else f" as {given.init} left it"
    print(
        f"\nNot as in the paper: images from {given.data}; input {given.side} px (480); heads and "
        f"pyramid of scale '{given.scale}', {given.boxes} random boxes in training and test (500); "
        f"{given.minutes:g} minutes of training a row (30,000 steps of 8 images on a GPU), the "
        f"first {given.frozen_stages} stages of the backbone frozen{start}; one choice of weights "
        "by a held-out tenth of the training images, tested once, where the paper takes the best "
        "of every column over evaluations on the test images; AP over the whole curve as COCO "
        f"does, where the paper counts detections from score {PAPER_SCORE} (a column of its own "
        f"here). One seed ({given.seed}). Seconds: {given.threads} core(s) in ONNX Runtime.\n"
    )


def balance_claims(found: dict[Row, tuple[Trained, Tested]], shape: str) -> None:
    """What balanced sampling changes, wherever both were trained."""
    for row, (_, standard) in found.items():
        other = found.get(Row(row.net, row.backbone, "balanced"))
        if row.sampling != "standard" or other is None:
            continue
        before, after = standard.reports[shape], other[1].reports[shape]
        change = (after.map or 0.0) - (before.map or 0.0)
        name = f"{row.net}, {row.backbone}, {SHAPES[shape]}"
        claim(
            f"{name}: balanced sampling changes mAP little ({100 * change:+.1f} points)",
            abs(change) < LITTLE,
            before.map,
            after.map,
        )
        if is_papers(found):
            rare = sum(
                (after.per_class[c].ap or 0.0) - (before.per_class[c].ap or 0.0) for c in RARE
            ) / len(RARE)
            text = f"{name}: and helps the two rare classes ({100 * rare:+.1f} points)"
            claim(text, rare > 0, before.map, after.map)


def backbones_table(given: argparse.Namespace, shape: str) -> None:
    """Tables II (boxes) and III (masks): DiffusionInst by backbone and sampling."""
    found = rows_of(given, ("diffusion-inst",))
    classes = head(found)
    for row, (run, figures) in found.items():
        show(row, run, figures, shape, classes)
    if is_papers(found):
        for name, sampling, ap, mean in PAPER_BACKBONES[shape]:
            show_papers(name, sampling, shape, ap, mean)
    differences(given)
    balance_claims(found, shape)


def table4(given: argparse.Namespace) -> None:
    """Table IV: DiffusionInst against PointRend, and Mask R-CNN, on one backbone."""
    found = rows_of(given, given.nets)
    classes = head(found)
    for shape in SHAPES:
        for row, (run, figures) in found.items():
            show(row, run, figures, shape, classes)
        if is_papers(found):
            for name, ap, mean in PAPER_NETS[shape]:
                show_papers(name, "standard", shape, ap, mean)
    differences(given)
    for shape, ((row, (_, ours)), theirs) in product(
        SHAPES, product(found.items(), ("pointrend", "mask-rcnn"))
    ):
        other = found.get(Row(theirs, row.backbone, row.sampling))
        if row.net != "diffusion-inst" or other is None:
            continue
        own, its = ours.reports[shape].map, other[1].reports[shape].map
        gain = (own or 0.0) - (its or 0.0)
        claim(
            f"{row.backbone}, {row.sampling}, {SHAPES[shape]}: DiffusionInst beats {theirs} in "
            f"overall mAP ({100 * gain:+.1f} points)",
            gain > 0,
            own,
            its,
        )
    for shape in SHAPES:
        balance_claims(found, shape)


def table5(given: argparse.Namespace) -> None:
    """Table V: sizes by backbone; a checkpoint holds weights and AdamW's two moments."""
    line(("backbone", "parameters", "checkpoint", "as the paper counts", "the paper", "ratio"))
    line("---" for _ in range(6))
    for name in given.backbones or BACKBONES:
        with torch.device("meta"):
            network = DiffusionInst(classes=len(COLUMNS), backbone=name)
        parameters = sum(p.numel() for p in network.parameters())
        size = 3 * 4 * parameters + 4 * sum(b.numel() for b in network.buffers())
        # the paper's GB are KiB / 10^6
        told = size / 1024 / 1e6
        paper, _ = PAPER_SIZES.get(name, (None, None))
        beside = ("", "") if paper is None else (f"{paper:.3f} GB", f"{told / paper:.4f}")
        line((name, f"{parameters:,}", f"{size / 1e9:.3f} GB", f"{told:.3f} GB", *beside))


def table6(given: argparse.Namespace) -> None:
    """Table VI: fewer random boxes, by the speed dial on the test images."""
    render_table1(given.data)
    for backbone, sampling in product(given.backbones, given.sampling):
        run = trained(Row("diffusion-inst", backbone, sampling), given)
        points, _, _ = measure_dial(
            DialSettings(
                model=str(run.file),
                data=given.data,
                split="test",
                boxes=tuple(PAPER_BOXES),
                steps=tuple(given.steps),
                threads=given.threads,
            )
        )
        print(f"diffusion-inst, {backbone}, {sampling}, {run.steps} steps of training, masks\n")
        line(("boxes", "steps", "mAP", "s an image", "of 500 boxes", "the paper: mAP", "its time"))
        line("---" for _ in range(7))
        by_choice = {(p.boxes, p.steps): p for p in points}
        for p in points:
            most = by_choice[max(PAPER_BOXES), p.steps]
            ap, seconds = PAPER_BOXES[p.boxes]
            paper = (f"{ap:.1f}", f"{seconds:.4f}, {seconds / PAPER_BOXES[500][1]:.2f}")
            beside = paper if p.steps == 1 else ("", "")
            cells = (percent(p.map), f"{p.seconds:.3f}", f"{p.seconds / most.seconds:.2f}")
            line((p.boxes, p.steps, *cells, *beside))
        differences(given)
        boxes_claims(by_choice)


def boxes_claims(by_choice: dict[tuple[int, int], DialPoint]) -> None:
    """What 100 boxes lose and save against 500."""
    for steps in sorted({s for _, s in by_choice}):
        many, few = by_choice[500, steps], by_choice[100, steps]
        loss, saved = many.map - few.map, 1 - few.seconds / many.seconds
        name = f"{steps} step(s): 100 boxes in place of 500"
        text = f"{name} cost less than 1 mAP ({100 * loss:+.1f} points lost)"
        claim(text, loss < LITTLE, many.map)
        text = f"{name} save more than 40 % of the time ({100 * saved:.0f} %)"
        claim(text, saved > 0.4, many.map)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = parser.add_subparsers(dest="table", required=True)
    small = ["efficientnet-lite0"]
    for name in ("table2", "table3", "table4", "table5", "table6", "speed", "memory"):
        own = tables.add_parser(name)
        own.add_argument("--threads", type=int, default=1, help="cores")
        full = name in ("table5", "speed", "memory")
        default = {"speed": ["resnet50"], "table5": None, "memory": None}.get(name, small)
        own.add_argument("--backbones", nargs="+", choices=sorted(BACKBONES), default=default)
        if not full:
            add_options(own)
            both = ["standard"] if name == "table6" else ["standard", "balanced"]
            own.add_argument("--sampling", nargs="+", choices=both[:1] + ["balanced"], default=both)
        if name == "table4":
            own.add_argument("--nets", nargs="+", choices=sorted(NETS), default=list(NETS))
        if name == "table6":
            own.add_argument("--steps", type=int, nargs="+", default=[1], help="of the sampling")
        if name in ("speed", "memory"):
            own.add_argument("--side", type=int, default=480, help="of the input, px")
        if name == "speed":
            own.add_argument("--run", type=Path, help="a run folder, in place of fresh weights")
            own.add_argument("--repetitions", type=int, default=5)
        if name == "memory":
            own.add_argument("--data", type=Path, default=Path("runs/data/table1"))
            own.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.table in ("table2", "table3"):
        backbones_table(given, "box" if given.table == "table2" else "mask")
        return
    {"table4": table4, "table5": table5, "table6": table6, "speed": speed, "memory": memory}[
        given.table
    ](given)


if __name__ == "__main__":
    main()
