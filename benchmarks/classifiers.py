"""Classifiers of SEM defects: how they begin, with how many labels, and which network.

    python benchmarks/classifiers.py train starts [ROW ...] [--labels 0 10] [--seeds 0 1 2]
    python benchmarks/classifiers.py train nets [ROW ...] [--seeds 0 1 2]
    python benchmarks/classifiers.py table starts
    python benchmarks/classifiers.py table nets

``starts`` asks what trained weights are worth: from scratch, from ImageNet, and from a run of
``semiscope train pretrain``, each fine-tuned and with the last layer alone, on all labels and on
ten of each class, which the seed draws. Ours is fine-tuned with frozen norms, ImageNet both ways.
``nets`` asks the question of Wong 2023, Tables 2.2 and 2.6: networks from scratch by one recipe,
beside what the table tells of other images. All train for the same number of steps; nothing is held
out and the last weights are tested, once. A training that was killed goes on when the command is
given again, and what is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from fps import in_onnx
from semiscope.cli.show import image_bar
from semiscope.compress.export import DEPLOYMENTS, export, trained_network
from semiscope.compress.fuse import fuse
from semiscope.data.dataset import open_dataset
from semiscope.evaluate.speed import steady_rates
from semiscope.inspection.score_labels import LabelScoreSettings, score_labels
from semiscope.io.files import write_atomic
from semiscope.learn.run import SETTINGS_FILE, read_settings
from semiscope.learn.tasks.classify import ClassifyLoopSettings, ClassifySettings
from training_rows import train_run

OURS = "the net, patch and input of the pre-training run"
IMAGENET = {"net": "efficientnet-lite0", "pretrained": "package"}
STARTS: dict[str, dict[str, Any]] = {
    "scratch": {"like": OURS},
    "imagenet-probe": {**IMAGENET, "freeze": True},
    "imagenet": IMAGENET,
    "imagenet-frozen-norms": {**IMAGENET, "frozen_norms": True},
    "ours-probe": {"like": OURS, "init": OURS, "freeze": True},
    "ours": {"like": OURS, "init": OURS, "frozen_norms": True},
}
NETS: dict[str, dict[str, Any]] = {
    name: {"net": name}
    for name in (
        "cheon-cnn",
        "resnet50",
        "resnet50-se",
        "resnet50-nl",
        "resnet50-snl",
        "resnet50-gc",
        "sp-net",
        "spa-net",
    )
}
PARTS = {"starts": STARTS, "nets": NETS}
# test accuracy on other images: Cheon 2019 by Table 2.2, the others by Table 2.6, cosine annealing
PAPER = {
    "cheon-cnn": 0.962,
    "resnet50-se": 0.9739,
    "resnet50-nl": 0.9738,
    "resnet50-snl": 0.9725,
    "resnet50-gc": 0.9766,
    "sp-net": 0.9757,
    "spa-net": 0.9827,
}
BATCH = 32
MODEL, FIGURES = "model.onnx", "test.json"


def main() -> None:
    """Trains rows, or prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/classifiers"))
    parser.add_argument("--threads", type=int, default=1, help="of testing and timing")
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("--data", type=Path, default=Path("../shared/data/sem_defects"))
    training.add_argument("--pretrained-run", type=Path, default=Path("runs/sem-pretrain"))
    training.add_argument("--labels", type=int, nargs="+", default=[0, 10], help="0 for all")
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    training.add_argument("--steps", type=int, default=1000, help="of each training")
    training.add_argument("--side", type=int, default=128, help="of the input, px")
    for verb in (training, verbs.add_parser("table")):
        verb.add_argument("part", choices=PARTS)
    training.add_argument("rows", nargs="*", metavar="ROW", help="by default all")
    given = parser.parse_args()
    if given.verb == "table":
        table(given.out / given.part, given)
        return
    rows = PARTS[given.part]
    unknown = [name for name in given.rows if name not in rows]
    if unknown:
        parser.error(f"expected rows of {', '.join(rows)}, found {', '.join(unknown)}")
    counts = given.labels if given.part == "starts" else [0]
    # all rows with one seed first: there is a table to look at early
    for seed in given.seeds:
        for count in counts:
            for name in given.rows or rows:
                train_row(given.out / given.part / f"{name}-{count}-{seed}", name, count, given)


def train_row(run: Path, name: str, count: int, given: argparse.Namespace) -> None:
    """Trains one row and tests it.

    Raises:
        SystemExit: The row was trained with other options, or needs a pre-training that is not
            there.
    """
    if (run / FIGURES).exists():
        return
    learn, loop = settings_of(run, name, count, given)
    model = trained(run, learn, loop)
    asked = LabelScoreSettings(
        model=str(model), data=(given.data,), split="test", threads=given.threads
    )
    with image_bar("testing") as bar:
        report, _ = score_labels(asked, bar)
    write_atomic(run / FIGURES, json.dumps(report.to_dict(), indent=1) + "\n")


def trained(run: Path, learn: ClassifySettings, loop: ClassifyLoopSettings) -> Path:
    """The model file of a training, which is begun, gone on with, or done already.

    Raises:
        SystemExit: It was begun with other options.
    """
    model = run / MODEL
    train_run("classify", learn, loop, run, done=model.exists())
    if not model.exists():
        export(run, model, limits="a row of a benchmark")
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return model


def settings_of(
    run: Path, name: str, count: int, given: argparse.Namespace
) -> tuple[ClassifySettings, ClassifyLoopSettings]:
    """What is learned and for how long.

    Raises:
        SystemExit: See ``train_row``.
    """
    values = {
        "data": given.data,
        "labels_per_class": count,
        "validation": 0.0,
        "height": given.side,
        "width": given.side,
        **PARTS[given.part][name],
    }
    if values.pop("like", None):
        path = given.pretrained_run / SETTINGS_FILE
        if not path.is_file():
            raise SystemExit(
                f"{given.pretrained_run}: expected a run of semiscope train pretrain, found none. "
                "Make one, or name it with --pretrained-run"
            )
        values |= seen_by(path)
    if values.get("init"):
        values["init"] = given.pretrained_run
    labels = [s.label for s in open_dataset(given.data, "train")]
    images = sum(min(count or n, n) for n in (labels.count(k) for k in set(labels)))
    epochs = max(1, round(given.steps / max(1, images // BATCH)))
    seed = int(run.name.rpartition("-")[2])
    loop = ClassifyLoopSettings(
        epochs=epochs,
        batch=BATCH,
        warmup_epochs=0.0,
        warmup_steps=given.steps // 20,
        evaluate_every=epochs,
        workers=0,
        seed=seed,
    )
    return ClassifySettings.from_dict(values, name), loop


def seen_by(settings: Path) -> dict[str, Any]:
    """The network of a pre-training and its input, as settings of a fine-tuning.

    Args:
        settings: The TOML file of the pre-training.

    Raises:
        SettingsError: It is missing or faulty.
    """
    _, learned, _ = read_settings(settings)
    shared = ("net", "patch", "height", "width", "channels", "scaling")
    return {k: getattr(learned, k) for k in shared}


def table(out: Path, given: argparse.Namespace) -> None:
    """Prints the rows of a part that are finished, mean and deviation over the seeds."""
    rows = {
        (name, count): sorted(p.parent for p in out.glob(f"{name}-{count}-[0-9]*/{FIGURES}"))
        for name in PARTS[given.part]
        for count in sorted({int(p.parent.name.split("-")[-2]) for p in out.glob(f"*/{FIGURES}")})
    }
    rows = {key: runs for key, runs in rows.items() if runs}
    if not rows:
        raise SystemExit(f"{out}: expected trained rows, found none: train them first")
    rates = frames([runs[0] for runs in rows.values()], given.threads)
    print(
        "| row | labels a class | seeds | accuracy | kappa | balanced accuracy | paper's accuracy "
        "| parameters | ms an image | images/s, x the first row |"
    )
    print("|---" * 10 + "|")
    for ((name, count), runs), (rate, ratio) in zip(rows.items(), rates, strict=True):
        found = [json.loads((run / FIGURES).read_text(encoding="utf-8")) for run in runs]
        cells = [
            spread(f[key]["value"] for f in found)
            for key in ("accuracy", "kappa", "balanced_accuracy")
        ]
        weights = sum(p.numel() for p in trained_network(runs[0])[0].parameters())
        paper = f"{PAPER[name]:.3f}" if given.part == "nets" and name in PAPER else "-"
        print(
            f"| {name} | {count or 'all'} | {len(runs)} | {' | '.join(cells)} | {paper} "
            f"| {weights:,} | {1e3 / rate:.1f} | {ratio:.2f} |"
        )


def frames(runs: Sequence[Path], threads: int) -> list[tuple[float, float]]:
    """Images per second of ONNX Runtime, one at a time, and over the first run's; in turns."""
    works = []
    for run in runs:
        network, state = trained_network(run)
        spec = state["spec"]["input"]
        images = torch.randn(2, spec["channels"], spec["height"], spec["width"])
        graph = DEPLOYMENTS[state["spec"]["net"]].graph(fuse(network, implicit=True), images)
        works.append(in_onnx(graph.SerializeToString(), images[:1], threads))
    measured = steady_rates(works, warm_up=5, iterations=20, turns=5)
    return [
        (median(own), median(a / b for a, b in zip(own, measured[0], strict=True)))
        for own in measured
    ]


def spread(values: Iterable[float]) -> str:
    """Mean and standard deviation."""
    known = list(values)
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


if __name__ == "__main__":
    main()
