"""Is what a classifier never saw put to unknown? Table 2.3's question (Cheon et al. 2019).

    python benchmarks/unknowns.py train [CLASS ...] [--init RUN] [--seed 0]
    python benchmarks/unknowns.py table
    python benchmarks/unknowns.py speed

``train`` leaves one class out in turn and learns the others. Held-out images of the others set how
much is refused: for ours the factor on the reach of the classes, for the maximum softmax the lowest
score, both at the same share of these. "paper" is ours with the factor 1, as Cheon has it, beside
the softmax at the share that this refuses. Then all images of the class left out, none of which
was learned, and the test images of the others are judged. ``AUROC`` is the chance that an unseen
image looks stranger than a known one, whatever the threshold. A training that was killed goes on
when the command is given again, and what is finished is not done again.

``speed`` compares the search among 100,000 known examples with a plain loop over the classes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers import seen_by, trained
from semiscope.cli.show import image_bar
from semiscope.data.dataset import open_dataset
from semiscope.evaluate.classification import UNSEEN
from semiscope.infer.classifier import Classifier
from semiscope.infer.open_set import KnownExamples, learn_examples, nearest_other, to_levels
from semiscope.inspection.labelled_images import answer, held_out, open_labelled
from semiscope.io.files import write_atomic
from semiscope.learn.run import SETTINGS_FILE
from semiscope.learn.tasks.classify import ClassifyLoopSettings, ClassifySettings

FIGURES = "unknown.json"
REFUSED = (0.05, 0.1, 0.2)
PAPER = "paper"
BATCH = 32

Floats = NDArray[np.float64]


def main() -> None:
    """Trains folds, prints the table, or times the search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/unknowns"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("classes", nargs="*", metavar="CLASS", help="left out; by default each")
    training.add_argument("--data", type=Path, default=Path("../shared/data/sem_defects"))
    training.add_argument("--net", default="efficientnet-lite0")
    training.add_argument("--init", type=Path, help="a run of train pretrain, and its net")
    training.add_argument("--steps", type=int, default=600, help="of each training")
    training.add_argument("--side", type=int, default=128, help="of the input, px")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--threads", type=int, default=1, help="of judging")
    verbs.add_parser("table")
    timing = verbs.add_parser("speed")
    timing.add_argument("--examples", type=int, default=100_000)
    given = parser.parse_args()
    if given.verb == "table":
        table(given.out)
    elif given.verb == "speed":
        speed(given.examples)
    else:
        known = open_dataset(given.data).classes
        if odd := [name for name in given.classes if name not in known]:
            parser.error(f"expected classes of {', '.join(known)}, found {', '.join(odd)}")
        for name in given.classes or known:
            fold(given.out / f"{name}-{given.seed}", name, given)


def fold(run: Path, name: str, given: argparse.Namespace) -> None:
    """Learns all classes but one, and judges.

    Raises:
        SystemExit: The fold was trained with other options.
    """
    if (run / FIGURES).exists():
        return
    learn, loop = settings_of(name, given)
    model = trained(run, learn, loop)
    figures = judge(model, given.data, given.threads)
    write_atomic(run / FIGURES, json.dumps({"class": name, **figures}, indent=1) + "\n")


def settings_of(
    name: str, given: argparse.Namespace
) -> tuple[ClassifySettings, ClassifyLoopSettings]:
    """What is learned and for how long."""
    values: dict[str, Any] = {"net": given.net, "height": given.side, "width": given.side}
    if given.init is not None:
        values |= {**seen_by(given.init / SETTINGS_FILE), "init": given.init}
    elif given.net == "efficientnet-lite0":
        values["pretrained"] = "package"
    values["frozen_norms"] = "init" in values or "pretrained" in values
    values |= {"data": given.data, "leave_out": (name,), "validation": 0.15}
    images = sum(s.label is not None for s in open_dataset(given.data, "train"))
    loop = ClassifyLoopSettings(
        epochs=max(1, round(given.steps / max(1, images // BATCH))),
        batch=BATCH,
        warmup_epochs=0.0,
        warmup_steps=given.steps // 20,
        workers=0,
        seed=given.seed,
    )
    return ClassifySettings.from_dict(values, name), loop


def judge(path: Path, data: Path, threads: int) -> dict[str, Any]:
    """Shares put to unknown, by ours and by the maximum softmax.

    Raises:
        SystemExit: An image cannot be read.
    """
    model = Classifier.load(path, threads)
    kinds = model.meta.classes
    train, test = (open_labelled(data, part, kinds, model.meta.name) for part in ("train", "test"))
    failed: list[tuple[str, str]] = []
    with image_bar("judging") as bar:
        _, answers = answer(model, (*train.paths, *test.paths), failed, bar)
    if failed:
        raise SystemExit(f"{failed[0][0]}: {failed[0][1]}")
    truth = np.concatenate([train.truth, test.truth])
    in_train = np.arange(len(truth)) < len(train)
    held = np.append(held_out(train, model.meta.held_out), np.zeros(len(test), bool))
    learned = in_train & ~held & (truth != UNSEEN)
    known = learn_examples(
        answers.features[learned],
        truth[learned],
        answers.probability[learned].argmax(axis=1),
        [train.names[i] for i in np.flatnonzero(learned)],
        len(kinds),
    )
    strange = {
        "ours": known.look(answers.features).strangeness,
        "softmax": -answers.probability.max(axis=1).astype(np.float64),
    }
    unseen, others = truth == UNSEEN, ~in_train & (truth != UNSEEN)
    right = answers.probability[others].argmax(axis=1) == truth[others]
    paper = float((strange["ours"][held] > 1).mean())
    rows = {}
    for share in (PAPER, *REFUSED):
        row: dict[str, float] = {}
        for way, values in strange.items():
            limit = limit_at(values[held], paper if share == PAPER else float(share))
            if share == PAPER and way == "ours":
                limit = 1.0
            row |= {
                f"{way} found": float((values[unseen] > limit).mean()),
                f"{way} refused": float((values[others] > limit).mean()),
            }
        rows[str(share)] = row
    return {
        "unseen": int(unseen.sum()),
        "known": int(others.sum()),
        "held_out": int(held.sum()),
        "held_out_refused_by_paper": paper,
        "accuracy": float(right.mean()),
        "auroc": {way: auroc(v[unseen], v[others]) for way, v in strange.items()},
        "rows": rows,
    }


def limit_at(values: Floats, share: float) -> float:
    """The value that at most a share of these exceeds."""
    ranked = np.sort(values)
    return float(ranked[len(ranked) - 1 - int(share * len(ranked) + 1e-9)])


def auroc(above: Floats, below: Floats) -> float:
    """The chance that one of the first is larger than one of the second; equal counts half."""
    order = above[:, None] - below
    return float((order > 0).mean() + (order == 0).mean() / 2)


def table(out: Path) -> None:
    """Prints the folds that are finished, and their mean.

    Raises:
        SystemExit: There is none.
    """
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob(f"*/{FIGURES}"))]
    if not found:
        raise SystemExit(f"{out}: expected judged folds, found none: train them first")
    ways = ("ours found", "ours refused", "softmax found", "softmax refused")
    for share in (PAPER, *map(str, REFUSED)):
        title = "by the paper's reach" if share == PAPER else f"at {float(share):.0%} of held-out"
        print(f"\nRefused {title}:\n\n| left out | unseen | {' | '.join(ways)} | AUROC | softmax |")
        print("|---" * 8 + "|")
        lines = []
        for f in found:
            cells = [f["rows"][share][way] for way in ways]
            cells += [f["auroc"][way] for way in ("ours", "softmax")]
            lines.append(cells)
            print(f"| {f['class']} | {f['unseen']} | {' | '.join(f'{v:.3f}' for v in cells)} |")
        means = [mean(column) for column in zip(*lines, strict=True)]
        print(f"| mean | | {' | '.join(f'{v:.3f}' for v in means)} |")
    accuracy = mean(f["accuracy"] for f in found)
    refused = mean(f["held_out_refused_by_paper"] for f in found)
    print(
        f"\nAccuracy of known test images {accuracy:.3f}; the paper's reach refuses {refused:.3f}"
    )
    print("of the held-out images, where 0.100 is meant.")


def speed(examples: int, width: int = 512, classes: int = 10) -> None:
    """Prints how much faster the search is than a plain loop; processor time, one thread's."""
    rng = np.random.default_rng(0)
    levels = to_levels(rng.normal(0, 1, (examples, width)).astype(np.float32))
    class_id = np.sort(rng.integers(0, classes, examples))
    known = KnownExamples(levels, class_id, [""] * examples, np.ones(classes))
    images = rng.normal(0, 1, (16, width)).astype(np.float32)
    points = levels.astype(np.float32) / 255
    asked = to_levels(images).astype(np.float32) / 255
    own = points[class_id == 0]

    def plain() -> None:
        for k in range(classes):
            ((points[class_id == k] - asked[0]) ** 2).sum(axis=1).min()

    def plain_row() -> None:
        ((own - own[0]) ** 2).sum(axis=1).min()

    of_loop, of_row = seconds(plain), seconds(plain_row) * len(own)
    at_once, alone = (
        seconds(lambda: known.look(images)) / 16,
        seconds(lambda: known.look(asked[:1])),
    )
    part = class_id == 0
    leaving = seconds(lambda: nearest_other(levels[part], class_id[part]), 1)
    print(f"| {examples:,} examples of {width} features, {classes} classes | x a plain loop |")
    print("|---|---|")
    print(f"| an image, 16 at once | {of_loop / at_once:.1f} |")
    print(f"| an image alone | {of_loop / alone:.1f} |")
    print(f"| leaving one out, a class of {part.sum():,} | {of_row / leaving:.1f} |")


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """Processor time of a work, the median."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return median(taken)


if __name__ == "__main__":
    main()
