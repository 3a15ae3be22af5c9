r"""Tables 2 and 3 of Lee et al. 2025: class maps from few labels, and on devices without any.

    python benchmarks/few_labels.py train [CASE ...] [--methods tem ...] [--seeds 0 1 2]
    python benchmarks/few_labels.py table [CASE ...]
    python benchmarks/few_labels.py cost

A case is some labelled images of one data set, unlabelled ones of it or of another, and the test
images of the latter. ``train`` trains and tests the methods on the cases named, or on all, from the
same labelled images, which the seed draws. All go on from one supervised training, for the same
number of steps of labelled crops, supervised learning too. Of ours (``tem``) it stays the teacher;
the other methods, as published, and the row ``tem-itself`` teach themselves. The last weights are
tested; nothing is chosen by the test images. A training that was killed goes on when the command is
given again, and what is finished is not done again. ``table`` prints what is finished: mean and
standard deviation over the seeds, beside the paper's figures on its own devices. ``cost`` prints
memory and speed of a training step of every method, and of adapting a promptable network.

Table 2's cases are ebc-4, ebc-8 and ebc-13 of real cross-sections, the rest of the 13 training
images unlabelled (of all 13, themselves), and A-20 and A-60 of simulated ones with 70 unlabelled.
Table 3's are superalloy-to-other, where the unlabelled images are the five test images without
their labels and the labelled ones without theirs, and A-20-to-B and A-60-to-B, where 100 of B and
70 of A are unlabelled, none of them a test image.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np

from devices import device, written
from semiscope.cli.show import image_bar
from semiscope.compress.export import export
from semiscope.config import Settings
from semiscope.inspection.score_maps import MapScoreSettings, score_maps
from semiscope.io import masks
from semiscope.io.files import write_atomic
from semiscope.learn.run import TASKS
from semiscope.learn.semi_examples import find_unlabelled
from semiscope.learn.tasks.prompt import PromptTaskSettings
from semiscope.learn.tasks.segment import MapLoopSettings
from semiscope.learn.tasks.semi import METHODS as SEMI
from semiscope.simulate.tem_stack import DEFECTS as SIMULATED
from semiscope.types import Dataset
from speed_and_memory import costs
from training_rows import train_run

SUPERVISED, OURS = "supervised", "tem"
ITSELF = "tem-itself"  # ours, but that the network teaches itself
FIRST = "first"  # the supervised training that all go on from
# of ours, by the held-out images of A-20-to-B
CHOSEN = {"policy": "all", "strength": 0.5, "cutmix": 0.5}
METHODS = (SUPERVISED, *SEMI, ITSELF)
REST = "the rest"  # of the training images


class Case(NamedTuple):
    """What is learned from, and what it is asked for then.

    Attributes:
        source: The data set with labelled images.
        count: Of its training images, so many are labelled.
        pools: Where unlabelled images are from.
        target: Whose test images are asked.
    """

    source: str
    count: int
    pools: tuple[str, ...]
    target: str


CASES = {
    "ebc-4": Case("ebc", 4, (REST,), "ebc"),
    "ebc-8": Case("ebc", 8, (REST,), "ebc"),
    "ebc-13": Case("ebc", 13, (REST,), "ebc"),
    "A-20": Case("A", 20, ("A",), "A"),
    "A-60": Case("A", 60, ("A",), "A"),
    "superalloy-to-other": Case("superalloy", 10, (REST, "superalloy_other"), "superalloy_other"),
    "A-20-to-B": Case("A", 20, ("A", "B"), "B"),
    "A-60-to-B": Case("A", 60, ("A", "B"), "B"),
}
DEFECTS = {"ebc": ("crack",), "superalloy": (), "A": SIMULATED}
# on the paper's own devices A and B: mIoU of all classes, materials, defects
PAPER: dict[str, dict[str, tuple[float | None, ...]]] = {
    "A-20": {
        SUPERVISED: (0.852, 0.974, 0.592),
        "cutmix": (0.867, 0.978, 0.630),
        "unimatch": (0.795, 0.958, 0.440),
        OURS: (0.874, 0.979, 0.650),
    },
    "A-60": {
        SUPERVISED: (0.867, 0.976, 0.634),
        "cutmix": (0.868, 0.978, 0.634),
        "unimatch": (0.827, 0.968, 0.521),
        OURS: (0.877, 0.979, 0.661),
    },
    "A-20-to-B": {
        SUPERVISED: (0.646, None, 0.091),
        "cutmix": (0.784, None, 0.440),
        OURS: (0.825, None, 0.556),
    },
    "A-60-to-B": {
        SUPERVISED: (0.813, None, 0.515),
        "cutmix": (0.843, None, 0.599),
        OURS: (0.845, None, 0.604),
    },
}
GAIN = 0.05  # mIoU that ours is to have over supervised learning across devices
MOST_EPOCHS = 10  # each ends with a checkpoint
MODEL, BEST, CHECKPOINTS = "model.onnx", "best", "checkpoints"


def main() -> None:
    """Trains rows, or prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/few-labels"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cross_sections"))
    parser.add_argument("--made", type=Path, default=Path("runs/data"), help="of what is written")
    parser.add_argument("--threads", type=int, help="of testing; all cores when not given")
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    usual = [m for m in METHODS if m not in ("fixmatch", ITSELF)]
    training.add_argument("--methods", nargs="+", choices=METHODS, default=usual)
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    training.add_argument("--first", type=int, default=1500, help="steps that all have in common")
    training.add_argument("--steps", type=int, default=500, help="of each method")
    training.add_argument("--batch", type=int, default=6, help="labelled crops a step")
    training.add_argument("--crop", type=int, default=256, help="side of a crop, px")
    training.add_argument("--first-rate", type=float, default=3e-3, help="learning rate, at first")
    training.add_argument("--rate", type=float, default=1e-3, help="learning rate of each method")
    training.add_argument("--threshold", type=float, default=0.9, help="of pseudo labels")
    training.add_argument("--encoder", default="efficientnet-lite0")
    training.add_argument("--features", type=int, default=256, help="channels of the decoder")
    training.add_argument("--pretrained", default="package", help="as of semiscope train")
    for verb in (training, verbs.add_parser("table")):
        verb.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    cost = verbs.add_parser("cost")
    cost.add_argument("--base", default="mobile-sam:../shared/weights/mobile_sam.pt")
    cost.add_argument("--batch", type=int, default=4)
    cost.add_argument("--side", type=int, default=512, help="of a crop, px")
    cost.add_argument("--steps", type=int, default=4, help="timed, a turn")
    cost.add_argument("--turns", type=int, default=3)
    cost.add_argument(
        "--teacher", type=Path, help="run of train segment on device A; ours with it is a row too"
    )
    given = parser.parse_args()
    if given.verb == "cost":
        cost_table(given)
        return
    unknown = [c for c in given.cases if c not in CASES]
    if unknown:
        parser.error(f"expected cases of {', '.join(CASES)}, found {', '.join(unknown)}")
    if given.verb == "table":
        tables(given.out, given.cases or list(CASES))
        return
    # all cases with one seed first: there is a table to look at early
    for seed in given.seeds:
        for name in given.cases or CASES:
            for method in given.methods:
                train_row(name, method, seed, given)


def folder_of(out: Path, name: str, method: str, seed: int) -> Path:
    """A row's run; without unlabelled images it is the same whatever the target."""
    case = CASES[name]
    learned_from = f"{case.source}-{case.count}" if method in (FIRST, SUPERVISED) else name
    return out / learned_from / f"{method}-{seed}"


def train_row(name: str, method: str, seed: int, given: argparse.Namespace) -> None:
    """Trains one row with one seed, and tests it on its target and on the device it learned from.

    Raises:
        SystemExit: See ``trained``.
    """
    case = CASES[name]
    run = folder_of(given.out, name, method, seed)
    wanted = [t for t in dict.fromkeys((case.target, case.source)) if not figures_of(run, t)]
    if not wanted:
        return
    trained(name, FIRST, seed, given)
    steps = trained(name, method, seed, given)
    model = run / MODEL
    if not model.exists():
        export(run, model, limits="a row of a benchmark")
    for test in wanted:
        asked = MapScoreSettings(
            model=str(model), data=(data_set(test, given),), split="test", threads=given.threads
        )
        with image_bar(f"testing on {test}") as bar:
            report, _ = score_maps(asked, bar)
        figures = {"steps": steps, **report.to_dict()}
        write_atomic(run / f"{test}.json", json.dumps(figures, indent=1) + "\n")


def trained(name: str, method: str, seed: int, given: argparse.Namespace) -> int:
    """Trains one run, goes on with it, or leaves it as it is if it is done; tells its steps.

    Raises:
        SystemExit: It was trained with other options.
    """
    run = folder_of(given.out, name, method, seed)
    task, learn, loop, steps = settings_of(name, method, seed, given)
    done = (run / BEST).exists() and not (run / CHECKPOINTS).exists()
    train_run(task, learn, loop, run, done=done)
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    return steps


def settings_of(
    name: str, method: str, seed: int, given: argparse.Namespace
) -> tuple[str, Settings, MapLoopSettings, int]:
    """The task, what is learned, for how long, and in how many steps."""
    case = CASES[name]
    labelled = draw(case, seed, given)
    values: dict[str, Any] = {
        "encoder": given.encoder,
        "features": given.features,
        # images of one device differ in gain, devices differ more
        "scaling": "percentile",
        "crop": given.crop,
        # the farthest taps learn nothing from small crops, and disturb in windows far larger
        "height": 2 * given.crop,
        "width": 2 * given.crop,
        "defects": DEFECTS[case.source],
    }
    if method == FIRST:
        wanted = given.first
        values |= {"pretrained": given.pretrained, "learning_rate": given.first_rate}
    else:
        wanted = given.steps
        init = folder_of(given.out, name, FIRST, seed)
        values |= {"init": init, "learning_rate": given.rate}
    images = case.count
    if method in (FIRST, SUPERVISED):
        task = "segment"
        values["data"] = labelled
    else:
        task = "semi"
        pools = tuple(labelled if p == REST else data_set(p, given) for p in case.pools)
        values |= {"labelled": labelled, "unlabelled": pools}
        values |= {"method": OURS if method == ITSELF else method, "threshold": given.threshold}
        if method in (OURS, ITSELF):
            values |= {**CHOSEN, "teacher": init if method == OURS else None}
        # an epoch is a pass over the longer part
        images = max(images, len(find_unlabelled(pools)))
    epochs, crops = length(images, given.batch, wanted)
    learn = TASKS[task].settings.from_dict({**values, "crops": crops}, method)
    loop = MapLoopSettings(
        epochs=epochs,
        batch=given.batch,
        warmup_epochs=0.0,
        warmup_steps=wanted // 20,
        # the last weights count, so the held-out images need to be asked but once
        evaluate_every=epochs,
        checkpoint_steps=100,
        workers=0,
        seed=seed,
    )
    return task, learn, loop, epochs * (images * crops // given.batch)


def length(images: int, batch: int, steps: int) -> tuple[int, int]:
    """Epochs, and crops of each image an epoch, that come nearest to a number of steps."""
    best = (steps * batch, 1, 1)
    for epochs in range(1, MOST_EPOCHS + 1):
        middle = steps * batch // (epochs * images)
        for crops in (middle, middle + 1):
            an_epoch = images * crops // batch
            if an_epoch:
                best = min(best, (abs(epochs * an_epoch - steps), epochs, crops))
    return best[1:]


def data_set(name: str, given: argparse.Namespace) -> Path:
    """The folder of a data set."""
    return device(name, given.made) if name in ("A", "B") else given.data / name


def draw(case: Case, seed: int, given: argparse.Namespace) -> Path:
    """A data set with some of the training images labelled, the others not; the same held out.

    A seed draws in one order, so that fewer images are a part of more.
    """
    folder = given.made / "few-labels" / f"{case.source}-{case.count}-{seed}"
    source = data_set(case.source, given)

    def write(beside: Path) -> None:
        whole = masks.read(source)
        train = whole.split("train").samples
        order = np.random.default_rng(seed).permutation(len(train))
        labelled = [train[i] for i in sorted(order[: case.count])]
        rest = [
            replace(train[i], class_map=None, split="unlabelled")
            for i in sorted(order[case.count :])
        ]
        kept = (*labelled, *rest, *whole.split("val").samples)
        masks.write(Dataset(whole.classes, kept), beside)

    return written(folder, write)


def figures_of(run: Path, test: str) -> dict[str, Any]:
    """What a run reaches on the test images of a data set; empty if it was not tested."""
    path = run / f"{test}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def tables(out: Path, names: Sequence[str]) -> None:
    """Prints what is finished: cases on the same device, then those on another."""
    for across in (False, True):
        some = [n for n in names if (CASES[n].source != CASES[n].target) == across]
        found = {(n, m): rows_of(out, n, m, CASES[n].target) for n in some for m in METHODS}
        if any(found.values()):
            print(f"\nTable {3 if across else 2}\n")
            line("case", "method", "seeds", "steps", "all", "material", "defect", "by class",
                 "all, above supervised", *(["all, on the labelled device"] * across))  # fmt: skip
            line(*["---"] * (10 if across else 9))
            for name in some:
                show_case(out, name, {m: found[name, m] for m in METHODS}, across)
    for name in names:
        case = CASES[name]
        if case.source != case.target:
            supervised, ours = (rows_of(out, name, m, case.target) for m in (SUPERVISED, OURS))
            gain = above(ours, supervised)
            if gain:
                holds = mean(gain) >= GAIN
                print(
                    f"- {name}: ours is {GAIN} mIoU above supervised or more "
                    f"({spread(gain, '+.3f')}): **{'confirmed' if holds else 'refuted'}**"
                )


def rows_of(out: Path, name: str, method: str, test: str) -> dict[int, dict[str, Any]]:
    """The figures of a row by seed."""
    parent = folder_of(out, name, method, 0).parent
    seeds = sorted(int(p.name.rpartition("-")[2]) for p in parent.glob(f"{method}-*"))
    found = {s: figures_of(folder_of(out, name, method, s), test) for s in seeds}
    return {s: f for s, f in found.items() if f}


def show_case(
    out: Path, name: str, found: dict[str, dict[int, dict[str, Any]]], across: bool
) -> None:
    """Prints a case's rows, each over the paper's."""
    for method, rows in found.items():
        if rows:
            some = list(rows.values())
            keys = ("mean_iou", "materials", "defect")
            parts = (f"{c} {spread(r['per_class'][c] for r in some)}" for c in some[0]["per_class"])
            own = rows_of(out, name, method, CASES[name].source).values()
            line(
                name,
                f"**{method}**" if method == OURS else method,
                len(rows),
                "/".join(str(s) for s in sorted({r["steps"] for r in some})),
                *(spread(r[k] for r in some) for k in keys),
                ", ".join(parts),
                "" if method == SUPERVISED else spread(above(rows, found[SUPERVISED]), "+.3f"),
                *([spread(r["mean_iou"] for r in own)] * across),
            )
        paper = PAPER.get(name, {}).get(method)
        if rows and paper:
            first = PAPER[name][SUPERVISED][0]
            assert paper[0] is not None and first is not None
            cells = ["-" if v is None else f"{v:.3f}" for v in paper]
            gain = "" if method == SUPERVISED else f"{paper[0] - first:+.3f}"
            line(name, f"paper's {method}", "", "", *cells, "", gain, *([""] * across))


def above(rows: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]]) -> list[float]:
    """Mean IoU of a row over that of another, seed by seed: both learned from the same images."""
    return [rows[s]["mean_iou"] - others[s]["mean_iou"] for s in rows if s in others]


def spread(values: Iterable[float | None], form: str = ".3f") -> str:
    """Mean and standard deviation."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    return f"{mean(known):{form}}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


def line(*cells: object) -> None:
    """Prints one line of a table."""
    print(f"| {' | '.join(map(str, cells))} |")


def cost_table(given: argparse.Namespace) -> None:
    """Prints what a training step takes: every method on the same images."""
    data = device("A", given.made)
    # random weights cost as much as trained ones
    common = {"crop": given.side}
    ways: dict[str, tuple[str, Settings]] = {
        "segment (supervised)": (
            "segment",
            TASKS["segment"].settings.from_dict({**common, "data": data}, "segment"),
        )
    }
    for method in SEMI:
        values = {**common, "labelled": data, "unlabelled": (data,), "method": method}
        ways[f"semi, {method}"] = "semi", TASKS["semi"].settings.from_dict(values, method)
        if method == OURS and given.teacher:
            taught = TASKS["semi"].settings.from_dict({**values, "teacher": given.teacher}, method)
            ways[f"semi, {method}, with a teacher"] = "semi", taught
    kind = given.base.partition(":")[0]
    prompt = PromptTaskSettings(data=(data,), base=given.base, view=given.side)
    ways[f"prompt, {kind}"] = "prompt", prompt
    print(f"{given.batch} labelled crops of {given.side} px a step, in semi as many unlabelled\n")
    costs(ways, given.batch, given.steps, given.turns, given.threads)


if __name__ == "__main__":
    main()
