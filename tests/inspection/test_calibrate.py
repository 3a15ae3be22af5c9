from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.cli import calibrating, show
from semiscope.errors import DataError, SettingsError
from semiscope.evaluate.inspection import judge_units, verdicts
from semiscope.infer import rewrite
from semiscope.infer.model import ClassThreshold, Model
from semiscope.infer.tiled import detect
from semiscope.inspection.calibrate import CalibrateSettings, calibrate, choose
from semiscope.inspection.escape_curve import UNITS
from semiscope.inspection.thresholds import dispose
from semiscope.io.formats import FORMATS
from semiscope.io.image import read_image
from semiscope.types import Annotations, Dataset, Sample

HAD = ClassThreshold(report=0.25, accept=0.5)


def settings(**changes) -> CalibrateSettings:
    return CalibrateSettings(model="x", data=Path("x"), **changes)


def of_one_class(with_it, without, **changes):
    """A calibration of one class, from its scores on images that show it and on the others."""
    scores = np.array([*with_it, *without], float)[:, None]
    truth = np.arange(len(scores))[:, None] < len(with_it)
    return choose(settings(**changes), ["crack"], [HAD], truth, scores)


def test_a_class_by_hand():
    with_it = [0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.31237, 0.1]
    without = [0.0, 0.0, 0.2, 0.35, 0.7]
    found = of_one_class(with_it, without, max_escape=0.1, max_over_reject=0.3)
    crack = found.classes["crack"]
    # ten images cannot show 10 % at 95 %, so one of them may escape here, the lowest; the threshold
    # lies between the next one and the 0.2 of an image without a crack
    assert crack.report == pytest.approx((0.31237 + 0.2) / 2, abs=1e-6)
    # of five images one may fail unreviewed, which is the one of 0.7
    assert crack.accept == 0.350001
    assert [(r.count, r.of) for r in (crack.outcome.escape, crack.outcome.over_reject)] == [
        (1, 10), (2, 5)
    ]  # fmt: skip
    assert crack.outcome.unreviewed.count == 1
    # one of ten: 1 - 0.606, from the binomial (1 - p)^10 + 10 p (1 - p)^9 = 0.05
    assert crack.escape_limit == pytest.approx(0.3942, abs=1e-4)
    assert "too few to show 0.1" in crack.problem and "it takes 29" in crack.problem
    units = found.after
    assert (units.escape.count, units.over_reject.count, units.unreviewed.count) == (1, 2, 1)
    assert (found.before.escape.count, found.before.over_reject.count) == (1, 2)


def test_enough_images_show_the_bound():
    rng = np.random.default_rng(0)
    with_it = rng.random(299)
    without = rng.random(299) / 2
    found = of_one_class(with_it, without, max_escape=0.01).classes["crack"]
    assert found.problem == "" and found.outcome.escape.count == 0
    assert found.report <= with_it.min()
    assert found.outcome.over_reject.count == np.sum(without >= with_it.min())
    assert found.escape_limit <= 0.01
    assert "298 images" in of_one_class(with_it[1:], [0.1], max_escape=0.01).problems[0]


def test_the_bound_holds_for_images_to_come():
    # the true share that escapes is known where scores are uniform: it is the threshold itself
    rng = np.random.default_rng(1)
    bound, worse = 0.05, 0
    for _ in range(60):
        found = of_one_class(rng.random(100), [], max_escape=bound).classes["crack"]
        assert found.problem == ""
        worse += found.report > bound
    # by construction in at most 5 % of the trials; if 5 % of the images were let escape, in half
    assert worse <= 8


def test_images_without_any_detection_escape_whatever_the_threshold():
    found = of_one_class([0.0, 0.0, 0.9, 0.8], [0.1], max_escape=0.3)
    crack = found.classes["crack"]
    assert (crack.report, crack.accept, crack.kept) == (HAD.report, HAD.accept, True)
    assert crack.outcome.escape.count == 2
    assert "no detection of it at all" in crack.problem
    assert found.thresholds(Model.load("sem-lines").meta) == Model.load("sem-lines").meta.thresholds


def test_a_class_that_no_image_shows_stays():
    truth = np.array([[True, False], [True, False], [False, False]])
    scores = np.array([[0.9, 0.3], [0.8, 0.0], [0.1, 0.6]])
    found = choose(settings(max_escape=0.4), ["a", "b"], [HAD, HAD], truth, scores)
    b = found.classes["b"]
    assert (b.report, b.accept, b.kept) == (HAD.report, HAD.accept, True)
    assert "no image shows it" in b.problem
    # and a class that all images show keeps its accept threshold, but above report
    every = of_one_class([0.9, 0.8], [], max_escape=0.4).classes["crack"]
    assert every.report == every.accept == pytest.approx(0.8, abs=1e-6)
    assert every.outcome.over_reject.value is None


def random_units(seed: int, images: int = 40):
    """Truth and scores of two classes, with ties and images without a detection."""
    rng = np.random.default_rng(seed)
    truth = rng.random((images, 2)) < 0.4
    scores = np.clip(rng.normal(0.3 + 0.4 * truth, 0.2), 0, 1).round(1)
    return truth, scores


@pytest.mark.parametrize("bound", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_left_out_is_choosing_again_without_each_image(seed: int, bound: float):
    truth, scores = random_units(seed)
    given = settings(max_escape=bound, max_over_reject=bound)
    found = choose(given, ["a", "b"], [HAD, HAD], truth, scores)
    assert not any(c.kept for c in found.classes.values())
    judged = []
    for i in range(len(truth)):
        others = np.arange(len(truth)) != i
        again = choose(given, ["a", "b"], [HAD, HAD], truth[others], scores[others]).classes
        cuts = [[c.report for c in again.values()], [c.accept for c in again.values()]]
        judged += verdicts(scores[i : i + 1], *cuts).tolist()
    expected = judge_units(truth.any(axis=1), judged)
    assert found.left_out.escape == expected.escape
    assert found.left_out.unreviewed == expected.over_reject
    both = expected.over_reject.count + expected.review_good.count
    assert found.left_out.over_reject.count == both


@pytest.mark.parametrize("seed", range(4))
def test_curves_are_what_each_threshold_does(seed: int):
    truth, scores = random_units(seed)
    found = choose(settings(max_escape=0.1), ["a", "b"], [HAD, HAD], truth, scores)
    curve = found.curves["a"]
    shows, score = truth[:, 0], scores[:, 0]
    expected = []
    for cut in [*np.unique(score[score > 0]), np.inf]:
        escape, wrong = np.mean(score[shows] < cut), np.mean(score[~shows] >= cut)
        expected.append((wrong, escape))
    np.testing.assert_allclose(np.array([curve.over_reject, curve.escape]).T, expected)
    units = found.curves[UNITS]
    assert (np.diff(units.escape) >= 0).all() and (np.diff(units.over_reject) <= 0).all()
    assert units.escape[-1] == 1 and units.over_reject[-1] == 0
    # a unit never escapes more often than the classes that it shows
    assert found.after.escape.value <= max(c.outcome.escape.value for c in found.classes.values())


# ---------------------------------------------------------------------------- with a model file


def write_data(
    root: Path, split: str = "val", clean: tuple[float, ...] = (0.0, 0.26, 0.285)
) -> Path:
    """Images with a dim defect of some brightness, and clean ones with a dimmer spot."""
    samples = []
    for i, (brightness, bad) in enumerate(
        [(0.32, True), (0.35, True), (0.5, True), *((b, False) for b in clean)]
    ):
        pixels = np.zeros((64, 64), np.uint8)
        pixels[8:16, 16:24] = round(255 * brightness)
        path = root.parent / "source" / f"im {i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        found = Annotations([[16, 8, 24, 16]], [0]) if bad else Annotations.empty()
        samples.append(Sample(path, (64, 64), found, split=split))
    FORMATS["coco"].write(Dataset(("dim", "bright <&>"), tuple(samples)), root)
    return root


def test_a_model_file_end_to_end(tmp_path: Path, blob_model: Path, capsys):
    data = write_data(tmp_path / "data")
    given = CalibrateSettings(model=str(blob_model), data=data, max_escape=0.1, threads=1)
    plot = tmp_path / "plots" / "calibrate.png"
    assert calibrating.calibrate(settings=given, plot=plot, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"] and told["failed"] == []
    assert cv2.imread(str(plot)).shape[1] == 800
    model = Model.load(blob_model)
    dim = model.meta.thresholds["dim"]
    # the blob of brightness 0.32 has a score of 0.69, and those of the clean images 0.37 at most
    assert dim.report == told["classes"]["dim"]["report"] == pytest.approx(0.53, abs=0.02)
    assert model.meta.thresholds["bright <&>"] == ClassThreshold(report=0.3, accept=0.9)
    assert told["units"]["before"]["over_reject"]["count"] == 1
    assert told["units"]["after"]["over_reject"]["count"] == 0
    assert told["units"]["after"]["escape"] == {**told["classes"]["dim"]["escape"]}
    # what is told is what inspection does with the file
    reported = []
    for path in sorted((data / "val" / "images").iterdir()):
        found = detect(model, read_image(path).specimen)
        reported.append(bool(len(dispose(found, model.meta.classes, model.meta.thresholds)[0])))
    assert reported == [True] * 3 + [False] * 3


def test_a_table_and_warnings(tmp_path: Path, blob_model: Path, capsys):
    data = write_data(tmp_path / "data", split="")
    given = CalibrateSettings(model=str(blob_model), data=data, defects=("dim",))
    assert calibrating.calibrate(settings=given, plot=tmp_path / "x.png") == 0
    told = capsys.readouterr()
    assert "dim" in told.out and "bright" not in told.out and "written into" in told.out
    assert "too few to show 0.01" in told.err and "it takes 299" in told.err


def test_a_shipped_model_is_not_written_to(tmp_path: Path, blob_model: Path, capsys, monkeypatch):
    monkeypatch.setattr(rewrite, "ZOO", blob_model.parent)
    before = blob_model.read_bytes()
    given = CalibrateSettings(model=str(blob_model), data=write_data(tmp_path / "data"))
    calibrating.calibrate(settings=given, plot=tmp_path / "x.png")
    assert "not written" in capsys.readouterr().out
    assert blob_model.read_bytes() == before


def test_without_the_extra_that_draws_the_figures_are_there(
    tmp_path: Path, blob_model: Path, capsys, monkeypatch
):
    monkeypatch.setattr(show, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = CalibrateSettings(model=str(blob_model), data=write_data(tmp_path / "data"))
    calibrating.calibrate(settings=given, plot=tmp_path / "x.png")
    printed = capsys.readouterr()
    assert "written into" in printed.out and "plot" not in printed.out
    assert "semiscope[plots]" in printed.err
    assert not (tmp_path / "x.png").exists()


def test_an_image_that_cannot_be_read_and_a_bound_that_cannot_be_kept(
    tmp_path: Path, blob_model: Path, capsys
):
    data = write_data(tmp_path / "data")
    given = CalibrateSettings(model=str(blob_model), data=data, max_escape=0.3)
    path = data / "val" / "images" / "im 2.png"
    path.write_bytes(path.read_bytes()[:60])
    assert calibrating.calibrate(settings=given, plot=tmp_path / "x.png") == 2
    assert "im 2.png" in capsys.readouterr().err
    # nothing is found on an image of the class
    path.write_bytes((data / "val" / "images" / "im 3.png").read_bytes())
    assert calibrating.calibrate(settings=given, plot=tmp_path / "x.png") == 2
    assert "no detection of it at all" in capsys.readouterr().err


def test_the_test_split_is_refused(tmp_path: Path, blob_model: Path):
    given = CalibrateSettings(model=str(blob_model), data=write_data(tmp_path / "data", "test"))
    with pytest.raises(SettingsError, match="never chosen on the test split"):
        calibrate(given.model_copy(update={"split": "test"}))
    with pytest.raises(DataError, match="expected a split 'val', or no splits, found test"):
        calibrate(given)


def test_what_cannot_be_calibrated(tmp_path: Path, blob_model: Path):
    data = write_data(tmp_path / "data")
    given = CalibrateSettings(model=str(blob_model), data=data)
    with pytest.raises(SettingsError, match="found rust"):
        calibrate(given.model_copy(update={"defects": ("dim", "rust")}))
    with pytest.raises(DataError, match="expected images that show bright"):
        calibrate(given.model_copy(update={"defects": ("bright <&>",)}))


def test_the_verb_needs_no_torch(tmp_path: Path, blob_model: Path):
    data = write_data(tmp_path / "data")
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'safetensors', 'accelerate'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from semiscope.cli import main\nmain()"
    )
    arguments = ["calibrate", "--model", blob_model, "--data", data, "--max-escape", "0.1"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"]
    assert (tmp_path / "runs" / "calibrate.png").is_file()
