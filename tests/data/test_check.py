from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.data.check import CheckSettings, check_dataset
from semiscope.data.check_report import CheckReport, render
from semiscope.errors import DataError

DATA = Path(__file__).parents[2] / "../shared/data"
SETTINGS = CheckSettings(min_examples=2)


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (12, 16)).astype(np.uint8), (width, height))


def put(root: Path, split: str, name: str, pixels: np.ndarray, label: str | None = None) -> Path:
    folder = root / split
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    path = folder / "images" / f"{name}.png"
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    if label is not None:
        (folder / "labels" / f"{name}.txt").write_text(label)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A faultless data set of two classes."""
    (tmp_path / "classes.txt").write_text("gap\nbridge\n")
    for i in range(6):
        put(tmp_path, "train", f"t{i}", picture(i), f"{i % 2} 0.5 0.5 0.25 0.25\n")
        put(tmp_path, "test", f"e{i}", picture(100 + i), f"{i % 2} 0.5 0.5 0.25 0.25\n")
    put(tmp_path, "train", "clean", picture(50), "")
    put(tmp_path, "unlabelled", "u", picture(51))
    return tmp_path


def find(report: CheckReport, phrase: str):
    (problem,) = [p for p in report.problems if phrase in p.what]
    return problem


def test_a_faultless_data_set_is_fit(root: Path):
    report = check_dataset(root, SETTINGS)
    assert report.verdict == "fit"
    assert report.problems == ()
    assert report.format == "yolo"
    assert list(report.splits) == ["train", "test", "unlabelled"]
    train = report.splits["train"]
    assert (train.images, train.clean, train.unlabelled) == (7, 1, 0)
    assert train.instances_per_class == {"gap": 3, "bridge": 3}
    assert report.splits["unlabelled"].unlabelled == 1
    text = render(report)
    assert "verdict: fit\n" in text
    assert ["gap", "3", "3", "0"] in [line.split() for line in text.splitlines()]
    assert json.loads(json.dumps(report.to_dict()))["verdict"] == "fit"


def test_size_groups_are_coco_s(tmp_path: Path):
    # boxes of 31.9, 32, 95.9 and 96 px a side in an image of 200 x 400 px: their areas count
    sides = (31.9, 32.0, 95.9, 96.0)
    lines = [f"0 0.5 0.5 {side / 400} {side / 200}\n" for side in sides]
    # long and thin: 10 x 102 is small, 10 x 103 is not
    lines += [f"0 0.5 0.5 {10 / 400} {length / 200}\n" for length in (102, 103)]
    (tmp_path / "classes.txt").write_text("gap\n")
    for i in range(2):
        put(tmp_path, "train", f"t{i}", picture(i, 200, 400), "".join(lines))
    report = check_dataset(tmp_path, SETTINGS)
    assert report.splits["train"].instances_per_size == {"small": 4, "medium": 6, "large": 2}
    cells = [line.split() for line in render(report).splitlines()]
    assert ["(medium", "instances)", "6"] in cells


@pytest.mark.parametrize(
    ("line", "phrase", "severity"),
    [
        ("7 0.5 0.5 0.2 0.2", "class id outside the list", "error"),
        ("0 0.5 0.5 0.2", "label cannot be read", "warning"),
        ("0 0.5 0.5 0 0.2", "without area", "warning"),
        ("0 0.5 0.5 0.01 0.01", "less than a pixel", "warning"),
        ("0 0.95 0.5 0.3 0.2", "boxes that reach outside", "warning"),
        ("0 1.5 0.5 0.3 0.2", "boxes wholly outside", "error"),
        ("0 0.1 0.1 0.9 0.9 0.9 0.1 0.1 0.9", "outline mended", "warning"),
    ],
)
def test_faults_of_labels(root: Path, line: str, phrase: str, severity: str):
    label = root / "train" / "labels" / "t3.txt"
    label.write_text(label.read_text() + line + "\n")
    report = check_dataset(root, SETTINGS)
    problem = find(report, phrase)
    assert (problem.severity, problem.count) == (severity, 1)
    assert "t3" in problem.examples[0]
    assert len(report.problems) == 1
    assert report.verdict == ("unfit" if severity == "error" else "fit with warnings")
    assert phrase in render(report)


def test_missing_images_and_labels(root: Path):
    (root / "train" / "labels" / "t0.txt").rename(root / "train" / "labels" / "gone.txt")
    report = check_dataset(root, SETTINGS)
    assert find(report, "label without an image").count == 1
    assert find(report, "image without a label").count == 1
    assert report.splits["train"].unlabelled == 1
    assert report.verdict == "fit with warnings"


def test_unreadable_files_are_listed_and_many_make_unfit(root: Path):
    empty = root / "train" / "images" / "t0.png"
    empty.write_bytes(b"")
    cut = root / "test" / "images" / "e0.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    report = check_dataset(root, SETTINGS)
    problem = find(report, "files that cannot be read")
    assert (problem.severity, problem.count) == ("error", 2)
    assert any("t0.png" in e and "0 bytes" in e for e in problem.examples)
    assert any("e0.png" in e and "cut off" in e for e in problem.examples)
    assert report.splits["test"].images == 5
    assert report.verdict == "unfit"
    tolerant = check_dataset(root, CheckSettings(min_examples=2, max_unreadable=0.5))
    assert tolerant.verdict == "fit with warnings"


def test_the_same_image_in_two_splits_is_an_error(root: Path):
    # the same pixels in another file format
    path = root / "test" / "images" / "copy.bmp"
    cv2.imwrite(str(path), picture(2))
    (root / "test" / "labels" / "copy.txt").write_text("")
    report = check_dataset(root, SETTINGS)
    problem = find(report, "identical images in several splits")
    assert problem.severity == "error"
    assert "t2.png" in problem.examples[0]
    assert "copy.bmp" in problem.examples[0]
    assert len(report.problems) == 1


def test_the_same_image_twice_in_a_split_is_a_warning(root: Path):
    put(root, "train", "again", picture(2), "")
    report = check_dataset(root, SETTINGS)
    assert find(report, "identical images within a split").severity == "warning"
    assert len(report.problems) == 1


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_turned_brighter_noisy_copies_are_found(root: Path, turns: int, flip: bool):
    copy = np.rot90(picture(2), turns)[:, :: -1 if flip else 1] * 0.8 + 30
    copy += np.random.default_rng(0).normal(0, 2, copy.shape)
    put(root, "test", "copy", np.clip(copy, 0, 255).astype(np.uint8), "")
    report = check_dataset(root, SETTINGS)
    problem = find(report, "nearly identical images in several splits")
    assert problem.count == 1
    assert "t2.png" in problem.examples[0]
    assert "copy.png" in problem.examples[0]
    assert report.verdict == "fit with warnings"


def test_too_few_none_and_unbalanced(root: Path):
    (root / "classes.txt").write_text("gap\nbridge\ncollapse\n")
    label = root / "train" / "labels" / "t0.txt"
    label.write_text("0 0.5 0.5 0.25 0.25\n" * 100)
    report = check_dataset(root, CheckSettings(min_examples=20))
    none = find(report, "classes without an example")
    assert (none.severity, none.examples) == ("error", ("collapse",))
    few = find(report, "fewer than 20 examples")
    assert (few.severity, few.examples) == ("warning", ("bridge: 3",))
    assert find(report, "very unbalanced").examples == ("gap: 102, bridge: 3",)


def test_nothing_labelled_is_unfit(root: Path):
    for label in (root / "train" / "labels").iterdir():
        label.unlink()
    report = check_dataset(root, SETTINGS)
    assert find(report, "fewer than two labelled").severity == "error"


def test_class_maps_with_indices_outside_the_list(tmp_path: Path):
    for i in range(3):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), picture(i))
        indices = np.zeros((48, 64), np.uint8)
        indices[:9], indices[9:12] = 1, 255
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), indices)
    (tmp_path / "classes.txt").write_text("background\noxide\n")
    assert check_dataset(tmp_path).verdict == "fit"
    indices[0, 0] = 7
    cv2.imwrite(str(tmp_path / "masks" / "2.png"), indices)
    problem = find(check_dataset(tmp_path), "class indices outside the list")
    assert "2.png: class indices [7]" in problem.examples[0]


def test_progress_and_what_is_no_data_set(root: Path):
    seen: list[tuple[int, int]] = []
    check_dataset(root, SETTINGS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 14) for i in range(1, 15)]
    with pytest.raises(DataError, match="found no folder"):
        check_dataset(root / "gone")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_data_is_fit():
    report = check_dataset(DATA / "sem_defects")
    assert report.verdict == "fit"
    assert report.splits["train"].images_per_class["BRIDGE"] == 55


def put_label(root: Path, split: str, name: str, number: int, pixels: np.ndarray) -> Path:
    folder = root / split / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}.png"
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def test_class_folders_with_a_class_that_training_never_saw(tmp_path: Path):
    for i in range(3):
        put_label(tmp_path, "train", "bridge", i, picture(i))
        # of another size, and in colour
        put_label(tmp_path, "train", "gap", i, cv2.merge([picture(10 + i, 40, 90)] * 3))
    put_label(tmp_path, "train", "rare", 0, picture(20))
    put_label(tmp_path, "test", "bridge", 0, picture(30))
    same = put_label(tmp_path, "test", "gap", 1, cv2.merge([picture(11, 40, 90)] * 3))
    for i in range(2):
        put_label(tmp_path, "test", "scratch", i, picture(40 + i))
    # a folder for images without labels in which there are none yet
    (tmp_path / "unlabelled").mkdir()
    report = check_dataset(tmp_path, SETTINGS)
    assert report.verdict == "unfit" and report.format == "folders"
    assert "unlabelled" not in report.splits
    unseen = find(report, "classes without an example")
    assert unseen.severity == "error"
    assert unseen.examples == ("scratch (2 in test: a model can only put it to unknown)",)
    twice = find(report, "identical images in several splits")
    assert twice.count == 1 and str(same) in twice.examples[0]
    assert find(report, "fewer than 2 examples").examples == ("rare: 1",)
