"""Table 4.6 of Wong 2023: eight ways to a small network that finds dice and their cracks.

    python benchmarks/die_settings.py train [SETTING ...]
    python benchmarks/die_settings.py table

``train`` trains the settings named, or all, by the two recipes of the shipped model ic-die, which
say how their data are made: each for the same number of epochs, first on many clear cracks, where
the whole network of a neck and the pruned ones of the same neck are one, then on the units of the
table. What is pruned is pruned in between; by slimming after half of the second part, with
sparsity. A training that was killed goes on when the command is given again. ``table`` holds those
that are finished against the test units.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from fps import in_onnx
from semiscope.cli.show import image_bar, stderr, training_bar
from semiscope.compress.export import DEPLOYMENTS, export, trained_network
from semiscope.compress.fuse import fuse
from semiscope.compress.profile import profile
from semiscope.compress.prune import PruneSettings, prune
from semiscope.config import read_toml
from semiscope.evaluate.speed import steady_rates
from semiscope.inspection.score import ScoreSettings, score
from semiscope.learn.loop import LoopSettings
from semiscope.learn.presets import PRESETS
from semiscope.learn.run import SETTINGS_FILE, resume, start
from semiscope.learn.tasks.detect import DetectSettings


class Paper(NamedTuple):
    """A row of the paper's table: percent, parameters, GFLOPs, images per second at batch 16."""

    precision: float
    recall: float
    map50: float
    map: float
    parameters: int
    gflops: float
    fps: float


PAPER = {
    "die-baseline": Paper(97.4, 87.0, 92.1, 69.8, 6010302, 13.0, 19.5),
    "die-setting-1": Paper(98.0, 88.3, 92.1, 69.6, 6010302, 13.0, 19.2),
    "die-setting-2": Paper(98.0, 92.2, 94.2, 69.7, 5746078, 12.1, 18.2),
    "die-setting-3": Paper(96.7, 89.9, 93.2, 69.5, 3012905, 8.0, 19.8),
    "die-setting-4": Paper(97.0, 92.2, 94.2, 70.6, 2078651, 8.0, 21.1),
    "die-setting-5": Paper(95.8, 92.2, 94.2, 70.9, 6027198, 13.1, 17.8),
    "die-setting-6": Paper(94.8, 89.4, 93.6, 71.9, 2855550, 8.7, 19.4),
    "die-setting-7": Paper(95.7, 93.8, 95.1, 72.3, 2082812, 8.6, 20.6),
}
# what is trained first; the pruned settings share it with the whole network of their neck
FIRST = {
    "die-setting-3": "die-setting-2",
    "die-setting-4": "die-setting-2",
    "die-setting-6": "die-setting-5",
    "die-setting-7": "die-setting-5",
}
LAMP = ("die-setting-4", "die-setting-7")
PAPER_SIDE = 640  # the table's operations are for it
SPEED_UP = 1.5
FPS_BATCH = 16
START, SECOND = Path("recipes/ic-die-start.toml"), Path("recipes/ic-die.toml")


def main() -> None:
    """Trains rows, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/die"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("settings", nargs="*", metavar="SETTING", help=", ".join(PAPER))
    verbs.add_parser("table")
    given = parser.parse_args()
    if given.verb == "table":
        table(given.out)
        return
    for name in given.settings or PAPER:
        if name not in PAPER:
            parser.error(f"expected settings of {', '.join(PAPER)}, found {name}")
        train_setting(name, given.out)


def train_setting(name: str, out: Path) -> None:
    """Trains one row, from what it shares with others to its last weights."""
    first = FIRST.get(name, name)
    begun = out / f"{first}-start"
    train_run(START, first, begun)
    run = out / name
    if name not in FIRST:
        train_run(SECOND, name, run, init=begun)
        return
    whole, share = begun, 1.0
    if name not in LAMP:
        whole, share = out / f"{name}-sparse", 0.5
        train_run(SECOND, name, whole, share, init=begun)
    pruned = out / f"{name}-pruned"
    if not (pruned / SETTINGS_FILE).exists():
        method = "lamp" if name in LAMP else "slimming"
        with image_bar("pruning") as bar:
            prune(whole, pruned, PruneSettings(method=method, speed_up=SPEED_UP), bar)
    train_run(SECOND, name, run, share, init=pruned, sparsity=0.0)


def train_run(recipe: Path, name: str, run: Path, share: float = 1.0, **learn: Any) -> None:
    """One training by a recipe, its network and loss those of a setting.

    It is continued, or left alone, when it was begun.

    Args:
        recipe: How it is trained.
        name: The setting.
        run: The run's folder.
        share: Of the recipe's epochs.
        learn: What else differs from the recipe.
    """
    stderr.print(f"{run}:", markup=False)
    with training_bar() as bar:
        if (run / SETTINGS_FILE).exists():
            resume(run, bar)
            return
        values = read_toml(recipe)
        preset = {k: v for k, v in PRESETS[name]["learn"].items() if k in ("neck", "sparsity")}
        loss = {**values["learn"]["loss"], "box": "ciou", **PRESETS[name]["learn"].get("loss", {})}
        values["learn"] |= {"neck": "elan", **preset, "loss": loss, **learn}
        values["loop"]["epochs"] = round(share * values["loop"]["epochs"])
        settings = DetectSettings.from_dict(values["learn"], name)
        start("detect", settings, LoopSettings.from_dict(values["loop"], recipe), run, bar)


def table(out: Path) -> None:
    """Prints the rows whose training is finished, ours over the paper's."""
    runs = [out / name for name in PAPER if (out / name / "best" / "state.json").exists()]
    if not runs:
        raise SystemExit(f"{out}: expected trained settings, found none: train them first")
    rates = frames(runs)
    data = Path(read_toml(SECOND)["learn"]["data"])
    print(
        "| setting | precision | recall | mAP50 | mAP50:95 | parameters | GFLOPs at 640 px "
        f"| images/s, batch {FPS_BATCH}, x the first row |"
    )
    print("|---" * 8 + "|")
    for run, rate in zip(runs, rates, strict=True):
        network, state = trained_network(run)
        side = torch.zeros(1, state["spec"]["input"]["channels"], PAPER_SIDE, PAPER_SIDE)
        size = profile(network, [side])
        file = run.with_suffix(".onnx")
        export(run, file, limits="a row of a benchmark")
        with image_bar("testing") as bar:
            report, _ = score(ScoreSettings(model=str(file), data=(data,), split="test"), bar)
        found = (report.precision, report.recall, report.map50, report.map)
        cells = " | ".join("-" if v is None else f"{100 * v:.1f}" for v in found)
        print(f"| {run.name} | {cells} | {size.deployed:,} | {size.gflops:.1f} | {rate:.2f} |")
        paper = PAPER[run.name]
        print(
            f"| paper's | {' | '.join(f'{v:.1f}' for v in paper[:4])} | {paper.parameters:,} | "
            f"{paper.gflops:.1f} | {paper.fps / PAPER['die-baseline'].fps:.2f} |"
        )


def frames(runs: Sequence[Path]) -> list[float]:
    """Images per second of ONNX Runtime on one core, over those of the first run; in turns."""
    works = []
    for run in runs:
        network, state = trained_network(run)
        given = state["spec"]["input"]
        shape = given["channels"], given["height"], given["width"]
        deployed = fuse(network, implicit=True)
        graph = DEPLOYMENTS[state["spec"]["net"]].graph(deployed, torch.zeros(2, *shape))
        images = torch.randn(FPS_BATCH, *shape)
        works.append(in_onnx(graph.SerializeToString(), images, 1))
    rates = steady_rates(works, warm_up=2, iterations=4, turns=5)
    return [median(a / b for a, b in zip(r, rates[0], strict=True)) for r in rates]


if __name__ == "__main__":
    main()
