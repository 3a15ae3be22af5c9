r"""Tables 4 and 5 of Lee et al. 2025: what pre-training without labels is worth.

    python benchmarks/pretrain.py train [CASE ...] [--rows both ...] [--seeds 0 1 2]
    python benchmarks/pretrain.py table [CASE ...]

Table 4 pre-trains on many images of a device and fine-tunes on few labelled ones of it: a masked
autoencoder with a mask ratio of 0.75 and of 0.25, with consistency within a magnification, across,
and both. Beside it the same network from scratch, and EfficientNet-Lite0 from ImageNet. Table 5
has a new device, of which only the labelled images are known: pre-trained on these, against a
network that learned the classes of the other device.

What all pre-trainings share (network, weights it goes on from, input, weights of the terms, views,
learning rate) is read from a recipe of ``semiscope train pretrain``; the rows differ in the mask
ratio and in which terms of consistency are on. Networks that go on from weights keep the statistics
of their norms, here as in fine-tuning.

Cases: ``simulated`` and ``simulated-few`` (ten labels a class) are device A of simulated defects at
two magnifications, which the classifier looks at together; ``device-b`` is another pitch, contrast
and noise, for Table 5. ``real`` and ``real-few`` are real images, whose pairs are made by
resampling: the middle of an image, 0.6 of its side, is the high magnification, the image itself the
low one; the classifier looks at the image alone.

All rows of a case fine-tune for the same number of steps; nothing is held out, the last weights are
tested, once. A training that was killed goes on when the command is given again, and what is
finished is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import cv2

from classifiers import seen_by
from devices import written
from semiscope.cli.show import image_bar
from semiscope.compress.export import trained_network
from semiscope.data.dataset import open_dataset
from semiscope.data.pairs import COLUMNS, partners, read_pairs
from semiscope.infer.model import InputSpec
from semiscope.io.files import write_atomic
from semiscope.io.image import read_image
from semiscope.learn.class_validation import ClassValidation
from semiscope.learn.pretrain_examples import find_images
from semiscope.learn.run import TASKS, read_settings
from semiscope.learn.tasks.classify import ClassifyLoopSettings
from semiscope.learn.tasks.pretrain import PretrainLoopSettings, PretrainSettings
from semiscope.simulate.sem_pairs import SemPairsSettings, write_pairs
from training_rows import train_run

MIDDLE = 0.6  # of the side: what a made high magnification shows
FEW = 10  # labels a class
BATCH = 32
FIGURES = "test.json"
SIMULATED = {
    "A": SemPairsSettings(count=3000, seed=401, train=0.2, test=0.2),
    "B": SemPairsSettings.from_dict(
        {
            "count": 900,
            "seed": 402,
            "train": 0.4,
            "test": 0.6,
            "pattern": {"pitch_nm": (24.0, 40.0), "nm_per_px": (0.8, 1.2), "etched": 0.0},
            "optics": {"electrons": (20.0, 200.0)},
        },
        "device B",
    ),
}


class Row(NamedTuple):
    """A way to begin.

    Attributes:
        pretrain: Settings of the pre-training; None for none.
        classify: What differs in fine-tuning.
    """

    pretrain: dict[str, Any] | None
    classify: dict[str, Any] = {}


ALONE = {"self_consistency": False, "cross_magnification": False}
TABLE_4 = {
    "imagenet": Row(
        None, {"net": "efficientnet-lite0", "pretrained": "package", "frozen_norms": True}
    ),
    "scratch": Row(None),
    "mae-0.75": Row({"mask_ratio": 0.75, **ALONE}),
    "mae-0.25": Row({"mask_ratio": 0.25, **ALONE}),
    "self": Row({"mask_ratio": 0.25, "cross_magnification": False}),
    "cross": Row({"mask_ratio": 0.25, "self_consistency": False}),
    "both": Row({"mask_ratio": 0.25}),
}
OTHER = "other device"
TABLE_5 = {OTHER: Row(None), "both": Row({"mask_ratio": 0.25})}


class Case(NamedTuple):
    """What is pre-trained and fine-tuned on.

    Attributes:
        data: "A" or "B" of the simulated devices, or "real".
        labels: A class; 0 for all.
        rows: The table.
        paper: The paper's accuracy on its own devices, percent.
    """

    data: str
    labels: int
    rows: dict[str, Row]
    paper: dict[str, float]


PAPER_4 = {
    **{"imagenet": 84.65, "mae-0.75": 86.78, "mae-0.25": 87.64},
    **{"self": 87.65, "cross": 87.89, "both": 88.09},
}
CASES = {
    "simulated": Case("A", 0, TABLE_4, PAPER_4),
    "simulated-few": Case("A", FEW, TABLE_4, PAPER_4),
    "device-b": Case("B", 0, TABLE_5, {OTHER: 84.3, "both": 85.9}),
    "real": Case("real", 0, TABLE_4, PAPER_4),
    "real-few": Case("real", FEW, TABLE_4, PAPER_4),
}


def main() -> None:
    """Trains rows, or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("--real", type=Path, default=Path("../shared/data/sem_defects"))
    training.add_argument("--made", type=Path, default=Path("runs/data"), help="of what is written")
    training.add_argument("--rows", nargs="+", choices=[*TABLE_4, OTHER], default=None)
    training.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    training.add_argument("--steps", type=int, default=6000, help="of each pre-training")
    training.add_argument("--tuning", type=int, default=1000, help="steps of each fine-tuning")
    training.add_argument("--recipe", type=Path, default=Path("recipes/sem-pairs.toml"))
    for verb in (training, verbs.add_parser("table")):
        verb.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    given = parser.parse_args()
    unknown = [c for c in given.cases if c not in CASES]
    if unknown:
        parser.error(f"expected cases of {', '.join(CASES)}, found {', '.join(unknown)}")
    if given.verb == "table":
        for name in given.cases or CASES:
            table(given.out / name, CASES[name])
        return
    # all rows with one seed first: there is a table to look at early
    for seed in given.seeds:
        for name in given.cases or CASES:
            for row in CASES[name].rows:
                if given.rows is None or row in given.rows:
                    train_row(name, row, seed, given)


def train_row(name: str, row: str, seed: int, given: argparse.Namespace) -> None:
    """Pre-trains, fine-tunes and tests one row with one seed.

    Raises:
        SystemExit: It was trained with other options, or what it begins from is not there.
    """
    case = CASES[name]
    run = given.out / name / f"{row.replace(' ', '-')}-{seed}"
    if (run / FIGURES).exists():
        return
    way = case.rows[row]
    goes_on = bool(shared(given)[0].pretrained)
    classes, pairs = labelled_data(case.data, given)
    values: dict[str, Any] = {
        "data": classes,
        "pairs": pairs,
        "labels_per_class": case.labels,
        "validation": 0.0,
        **seen_by(given.recipe),
        **way.classify,
    }
    if way.pretrain is not None:
        values["init"] = pretrained(case.data, row, seed, given)
    elif row == OTHER:
        beginning = "imagenet" if goes_on else "scratch"
        values["init"] = given.out / "simulated" / f"{beginning}-{seed}"
        if not (values["init"] / FIGURES).exists():
            raise SystemExit(f"{values['init']}: expected device A learned: train simulated first")
    if "init" in values:
        values["frozen_norms"] = goes_on
    labels = [s.label for s in open_dataset(classes, "train")]
    images = sum(min(case.labels or n, n) for n in (labels.count(k) for k in set(labels)))
    loop = ClassifyLoopSettings(**steps_of(given.tuning, images, BATCH, seed))
    train_run("classify", TASKS["classify"].settings.from_dict(values, row), loop, run)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    write_atomic(run / FIGURES, json.dumps(tested(run, classes, pairs), indent=1) + "\n")


def pretrained(data: str, row: str, seed: int, given: argparse.Namespace) -> Path:
    """The run of a pre-training, which cases with the same images share."""
    run: Path = given.out / "pretrained" / f"{data}-{row}-{seed}"
    folders: tuple[Path, ...]
    if data == "real":
        folder = resampled(given)
        folders, pairs = (folder,), folder / "pairs.csv"
    else:
        folder = simulated(data, given)
        folders, pairs = (folder, folder / "low"), folder / "pairs.csv"
        if data == "B":  # nothing but the labelled images is known of it
            folders = (folder / "train", folder / "low" / "train")
    way = TABLE_4[row].pretrain
    assert way is not None
    learn, loop = shared(given)
    learn = learn.model_copy(update={"data": folders, "pairs": pairs, **way})
    defects = len(find_images(folders)) // 2
    loop = loop.model_copy(update=steps_of(given.steps, defects, BATCH, seed))
    train_run("pretrain", learn, loop, run)
    return run


def shared(given: argparse.Namespace) -> tuple[PretrainSettings, PretrainLoopSettings]:
    """What all pre-trainings share."""
    _, learn, loop = read_settings(given.recipe)
    assert isinstance(learn, PretrainSettings)
    assert isinstance(loop, PretrainLoopSettings)
    return learn, loop


def steps_of(steps: int, images: int, batch: int, seed: int) -> dict[str, Any]:
    """What a loop needs to take so many steps."""
    epochs = max(1, round(steps / max(1, images // batch)))
    return {
        "epochs": epochs,
        "batch": batch,
        "warmup_epochs": 0.0,
        "warmup_steps": steps // 10,
        "evaluate_every": epochs,
        "workers": 0,
        "seed": seed,
    }


def tested(run: Path, classes: Path, pairs: Path | None) -> dict[str, float]:
    """Accuracy, balanced accuracy and kappa on the test images."""
    network, state = trained_network(run)
    dataset = open_dataset(classes, "test")
    low = None
    if pairs is not None:
        low_of = partners(read_pairs(pairs).pairs)
        low = {s.path: low_of[s.path.resolve()] for s in dataset}
    spec = InputSpec.model_validate(state["spec"]["input"])
    return ClassValidation(dataset, spec, low).evaluate(network)


def labelled_data(data: str, given: argparse.Namespace) -> tuple[Path, Path | None]:
    """Folders of classes, and the list of their partners."""
    if data == "real":
        return given.real, None
    folder = simulated(data, given)
    return folder, folder / "pairs.csv"


def simulated(name: str, given: argparse.Namespace) -> Path:
    """The folder of a simulated device, rendered if it is not there yet."""

    def render(folder: Path) -> None:
        with image_bar(f"rendering device {name}") as bar:
            write_pairs(SIMULATED[name], folder, bar)

    return written(given.made / f"sem-pairs-{name}", render)


def resampled(given: argparse.Namespace) -> Path:
    """Pairs made of the real images without those of the test; see the module's docstring."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        rows = []
        for place, path in enumerate(find_images([given.real])):
            pixels = read_image(path).specimen
            height, width = (round(n * MIDDLE) for n in pixels.shape[:2])
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            whole = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            names = {k: f"{place:05d}-{k}.png" for k in COLUMNS}
            cv2.imwrite(str(folder / names["low"]), whole)
            middle = whole[top : top + height, left : left + width]
            cv2.imwrite(str(folder / names["high"]), middle)
            rows.append(names)
        with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    return written(given.made / "sem-defects-pairs", write)


def table(out: Path, case: Case) -> None:
    """Prints the rows of a case that are finished, beside the paper's."""
    found = {}
    for row in case.rows:
        files = sorted(out.glob(f"{row.replace(' ', '-')}-[0-9]*/{FIGURES}"))
        some = [json.loads(f.read_text(encoding="utf-8")) for f in files]
        if some:
            found[row] = some
    if not found:
        return
    labels = "all labels" if not case.labels else f"{case.labels} labels a class"
    print(f"\n{out.name}, {labels}\n")
    print("| pre-training | seeds | accuracy | balanced | kappa | above the first | paper's |")
    print("|---" * 7 + "|")
    first = mean(f["accuracy"] for f in next(iter(found.values())))
    for row, some in found.items():
        cells = [spread([100 * f[k] for f in some]) for k in ("accuracy", "balanced_accuracy")]
        kappa = spread([f["kappa"] for f in some], ".3f")
        above = 100 * (mean(f["accuracy"] for f in some) - first)
        paper = case.paper.get(row)
        print(
            f"| {row} | {len(some)} | {' | '.join(cells)} | {kappa} | {above:+.1f} | "
            f"{'' if paper is None else f'{paper:.2f}'} |"
        )


def spread(values: list[float], form: str = ".1f") -> str:
    """The mean, and the deviation where there are several."""
    text = f"{mean(values):{form}}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):{form}}"


if __name__ == "__main__":
    main()
