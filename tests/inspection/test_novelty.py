"""Unknown images in groups, by a classifier that any one can work by hand."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from semiscope.errors import DataError, ModelError
from semiscope.infer.classifier import Classifier
from semiscope.inspection.calibrate_labels import LabelCalibrateSettings, calibrate_labels
from semiscope.inspection.novelty import NoveltySettings, find_novelties
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings


def put(folder, name, left, right):
    pixels = np.empty((32, 32), np.uint8)
    pixels[:, :16], pixels[:, 16:] = round(255 * left), round(255 * right)
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), pixels)
    return folder / name


@pytest.fixture
def run(tmp_path, class_model):
    """Both halves bright five times, both middling four times, one alone, and two known images."""
    for i in range(6):
        for name, left, right in (("left", 0.9, 0.0), ("right", 0.0, 0.9), ("even", 0.0, 0.0)):
            step = 0.015 * i
            put(tmp_path / "data" / "train" / name, f"{i}.png", abs(left - step), abs(right - step))
    calibrate_labels(LabelCalibrateSettings(model=str(class_model), data=tmp_path / "data"))
    images = tmp_path / "in"
    for i in range(5):
        put(images, f"bright#{i}.png", 1, 0.94 + 0.015 * i)
    for i in range(4):
        put(images, f"middle{i}.png", 0.5 + 0.005 * i, 0.5)
    put(images, "alone.png", 1, 0.5)
    put(images, "left.png", 0.9, 0.0)
    put(images, "even.png", 0.01, 0.01)
    inspect([images], InspectSettings(model=str(class_model)), tmp_path / "run")
    return tmp_path / "run"


def test_groups_by_hand(tmp_path, run):
    told = []
    settings = NoveltySettings(copy_images=True)
    found = find_novelties(run, tmp_path / "out", settings, lambda *done: told.append(done))
    bright, middle = found.groups
    names = [[f.rsplit("/", 1)[1] for f in g.files] for g in found.groups]
    assert sorted(names[0]) == [f"bright#{i}.png" for i in range(5)]
    # the most typical lies in the middle
    assert names[0][0] == "bright#2.png" and len(middle.files) == 4
    assert [a.rsplit("/", 1)[1] for a in found.alone] == ["alone.png"]
    assert min(bright.strangeness) > 1 and sum(n for _, n in bright.like) == 5
    assert told == [(1, 2), (2, 2)] and not found.failed and not found.left_out
    plain = json.loads((tmp_path / "out" / "groups.json").read_text())
    assert plain["groups"][0]["name"] == "group-01" and plain["alone"] == list(found.alone)
    assert len(list((tmp_path / "out" / "group-01").iterdir())) == 5
    picture = cv2.imread(str(tmp_path / "out" / "group-01.png"))
    assert picture.shape == (136, 5 * 132 + 4, 3) and picture[70, 70].min() > 240
    # narrower groups, and fewer images that make one
    more = find_novelties(run, tmp_path / "more", NoveltySettings(spread=0.01, least=2))
    assert len(more.groups) + len(more.alone) > 3
    assert not (tmp_path / "more" / "group-01").exists()
    with pytest.raises(DataError, match="new or empty"):
        find_novelties(run, tmp_path / "out", settings)


def test_images_that_have_gone_and_a_run_without_unknown_ones(tmp_path, run, class_model):
    (tmp_path / "in" / "middle0.png").unlink()
    found = find_novelties(run, tmp_path / "out", NoveltySettings())
    assert [f.rsplit("/", 1)[1] for f, _ in found.failed] == ["middle0.png"]
    assert len(found.groups[1].files) == 4 and (tmp_path / "out" / "group-02.png").exists()
    known = tmp_path / "known"
    inspect([tmp_path / "in" / "left.png"], InspectSettings(model=str(class_model)), known)
    found = find_novelties(known, tmp_path / "none", NoveltySettings())
    assert found.groups == found.alone == ()
    assert (tmp_path / "none" / "groups.json").exists()


def test_folders_and_models_that_do_not_fit(tmp_path, run, class_model, blob_model):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="finished inspection"):
        find_novelties(tmp_path / "nothing", out, NoveltySettings())
    inspect([tmp_path / "in" / "left.png"], InspectSettings(model=str(blob_model)), tmp_path / "d")
    with pytest.raises(DataError, match="found task 'detect'"):
        find_novelties(tmp_path / "d", out, NoveltySettings())
    moved = class_model.rename(tmp_path / "moved.onnx")
    with pytest.raises(ModelError, match="found none"):
        find_novelties(run, out, NoveltySettings())
    assert len(find_novelties(run, out, NoveltySettings(model=str(moved))).groups) == 2
    model = Classifier.load(moved)
    model.keep(model.known, clean=("even",))
    with pytest.raises(ModelError, match="another or a changed one"):
        find_novelties(run, tmp_path / "x", NoveltySettings(model=str(moved)))


def test_the_verb(tmp_path, run, capsys):
    from semiscope.cli import app

    def called(*given):
        with pytest.raises(SystemExit) as left:
            app(["novelty", str(run), *given], exit_on_error=False, print_error=False)
        assert left.value.code == 0
        return capsys.readouterr().out

    told = json.loads(called("--out", str(tmp_path / "a"), "--json"))
    assert [len(g["images"]) for g in told["groups"]] == [5, 4]
    assert "group-01" in called("--out", str(tmp_path / "b"), "--least", "4")
