"""Promptable models against the truth, by a model that any one can check by hand."""

import json
import sys

import cv2
import numpy as np
import pytest

from semiscope import cli
from semiscope.errors import DataError, SettingsError
from semiscope.inspection.score_promptable import PromptScoreSettings, score_promptable


def write_set(root, classes="background\nlayer\ncrack\n"):
    """A layer along the border and, on one image, a disc of radius 16 about (40, 40)."""
    (root / "test/images").mkdir(parents=True)
    (root / "test/masks").mkdir()
    for i in range(2):
        indices = np.zeros((64, 64), np.uint8)
        indices[:16] = 1
        if i:
            y, x = np.mgrid[:64, :64] + 0.5
            indices[np.hypot(x - 40, y - 40) < 16] = 2
        indices[60:63, 2:5] = 2  # 9 px: too small to count
        indices[62, 60:] = 255
        # of one grey value
        cv2.imwrite(str(root / f"test/images/{i}.png"), np.full((64, 64), 90, np.uint8))
        cv2.imwrite(str(root / f"test/masks/{i}.png"), indices)
    (root / "classes.txt").write_text(classes)
    return root


@pytest.fixture
def model(tmp_path, write_discs):
    return str(write_discs(tmp_path / "discs.onnx"))


def test_boxes_and_points_by_hand(tmp_path, model):
    data = write_set(tmp_path / "a")
    box, failed = score_promptable(
        PromptScoreSettings(model=model, data=(data,), prompts="box", defects=("crack",))
    )
    assert failed == () and box.regions == {"background": 0, "layer": 2, "crack": 1}
    # the answer to a box is the box
    assert box.per_class["layer"] == pytest.approx(1, abs=0.1)
    assert box.defect == pytest.approx(np.pi / 4, abs=0.06) == box.per_class["crack"]
    point, _ = score_promptable(
        PromptScoreSettings(model=model, data=(data,), prompts="point", threads=1)
    )
    # and to a point a disc of radius 16
    assert point.per_class["crack"] > 0.9 and point.per_class["layer"] < 0.6
    assert point.worst_first[0][0].endswith("0.png")


def test_small_regions_are_found_better_close_up(tmp_path, model):
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/masks").mkdir()
    indices = np.zeros((512, 512), np.uint8)
    indices[301:322, 203:238] = 1
    cv2.imwrite(str(tmp_path / "set/images/0.png"), np.full((512, 512), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "set/masks/0.png"), indices)
    (tmp_path / "set/classes.txt").write_text("background\nvoid\n")
    given = {"model": model, "data": (tmp_path / "set",), "prompts": "box"}
    whole, _ = score_promptable(PromptScoreSettings(**given))
    close, _ = score_promptable(PromptScoreSettings(**given, close_up=True))
    # cells of 32 px, then of 16
    assert close.per_class["void"] > whole.per_class["void"] + 0.05


def test_devices_have_their_own_figures_and_bad_images_are_listed(tmp_path, model):
    first = write_set(tmp_path / "a")
    # the same names in another order
    second = write_set(tmp_path / "b", "background\ncrack\nlayer\n")
    data = (second / "test/images/0.png").read_bytes()
    (second / "test/images/0.png").write_bytes(data[:-20])
    report, failed = score_promptable(PromptScoreSettings(model=model, data=(first, second)))
    ((file, _),) = failed
    assert file.endswith("b/test/images/0.png")
    assert report.regions == {"background": 0, "layer": 2 + 1, "crack": 1 + 1}
    assert report.per_device[str(first)].images == 2 and report.per_device[str(second)].images == 1


def test_maps_of_another_size_are_refused_and_unknown_values_are_no_region(tmp_path, model):
    data = write_set(tmp_path / "a", "background\nlayer\n")
    report, _ = score_promptable(PromptScoreSettings(model=model, data=(data,)))
    assert report.regions == {"background": 0, "layer": 2}
    cv2.imwrite(str(data / "test/masks/1.png"), np.zeros((32, 64), np.uint8))
    with pytest.raises(DataError, match=r"1.png: label cannot be read: expected 64 x 64 px"):
        score_promptable(PromptScoreSettings(model=model, data=(data,)))


def test_what_cannot_be_is_told(tmp_path, model):
    data = write_set(tmp_path / "a")
    with pytest.raises(SettingsError, match="expected some of background, layer, crack, found 'x'"):
        score_promptable(PromptScoreSettings(model=model, data=(data,), defects=("x",)))
    with pytest.raises(DataError, match="expected class maps or outlines in val, found none"):
        score_promptable(PromptScoreSettings(model=model, data=(data,), split="val"))


def test_the_verbs_print_figures_and_card(tmp_path, model, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["semiscope", *arguments, "--json"])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert not done.value.code
        return json.loads(capsys.readouterr().out)

    data = write_set(tmp_path / "a")
    figures = call("evaluate", "--model", model, "--data", str(data), "--prompts", "point")
    assert set(figures["per_class"]) == {"background", "layer", "crack"}
    assert 0 < figures["mean_iou"] < 1 and figures["failed"] == []
    card = call("info", model)
    assert card["task"] == "prompt" and card["side"] == 64 and card["file_bytes"] > 0
