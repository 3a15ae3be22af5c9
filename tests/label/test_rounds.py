import cv2
import numpy as np
import pytest

from semiscope.errors import DataError, SettingsError
from semiscope.label.cost import CostSettings
from semiscope.label.rounds import (
    Round,
    below,
    next_folder,
    read_rounds,
    saved,
    write_report,
    write_round,
)


def test_devices_that_fell_by_more_than_noise():
    then = {"a": 0.8, "b": 0.8, "c": None, "d": 0.5}
    assert below({"a": 0.79, "b": 0.7995, "c": 0.1, "e": 0.2}, then) == ("a",)


def test_rounds_come_back_and_the_next_is_after_the_last_finished_one(tmp_path):
    assert next_folder(tmp_path).name == "round-1"
    first = Round(number=0, devices={"b": 0.5})
    write_round(tmp_path, first)
    assert next_folder(tmp_path).name == "round-1"
    second = Round(number=1, images=("x.png",), regions=3, before_iou=0.7, manual_s=9, assisted_s=4)
    write_round(tmp_path, second)
    (tmp_path / "round-2").mkdir()
    assert read_rounds(tmp_path) == [first, second] and saved([first, second]) == 5
    assert next_folder(tmp_path).name == "round-2"
    (tmp_path / "round-1/round.json").write_text("{")
    with pytest.raises(DataError, match="round-1/round.json: expected the record of a round"):
        read_rounds(tmp_path)


def test_the_report_shows_the_curve_and_flags_what_got_worse(tmp_path):
    with pytest.raises(SettingsError, match="a cycle with a finished round"):
        write_report(tmp_path, CostSettings())
    write_round(tmp_path, Round(number=0, devices={"A": 0.9, "<b>": 0.6}))
    write_round(
        tmp_path,
        Round(
            number=1, images=("x.png",), regions=10, changed=4, before_iou=0.7, after_iou=0.8,
            manual_s=792, assisted_s=200, devices={"A": 0.85, "<b>": 0.8}, worse=("A",),
        ),
    )  # fmt: skip
    page = write_report(tmp_path, CostSettings()).read_text()
    assert "592 s of labelling saved in 1 round," in page and "draw_s 79.2" in page
    assert "Worse than the base on 1 of 2 devices: A." in page
    assert '<td class="worse">0.850</td>' in page
    assert "<b>" not in page and "&lt;b&gt;" in page
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape[1] > 800 and np.ptp(picture) == 255
