"""Two magnifications of one specimen: what they share, what not, and how they are written."""

from collections import Counter

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from semiscope.data.dataset import open_dataset
from semiscope.data.pairs import read_pairs
from semiscope.errors import SettingsError
from semiscope.io.image import read_image
from semiscope.learn.pretrain_examples import find_images
from semiscope.simulate.line_scene import render_scene
from semiscope.simulate.sem_pairs import SemPairsSettings, render_pair, write_pairs

QUIET = {
    **{k: (0.0, 0.0) for k in ("drift_px", "jitter_px", "vibration_px", "charging", "streaks")},
    **{k: (0.0, 0.0) for k in ("vignetting", "unevenness", "beam_nm")},
    "electrons": (1e6, 1e6),
    "contrast": (0.15, 0.15),
}


def settings(**changes):
    return SemPairsSettings.from_dict({"side": 96, "workers": 1, **changes}, "test")


@pytest.mark.parametrize("zoom", [3, 4])
def test_the_high_magnification_is_a_part_of_the_low_one(zoom):
    quiet = settings(count=12, zoom=zoom, optics=QUIET)
    for index in range(12):
        pair = render_pair(quiet, index)
        x, y = pair.corner
        assert 0 <= min(x, y) and max(x, y) + 96 / zoom <= 96
        # the low image at the high one's resolution, moved so that both begin at one place
        matrix = np.array([[zoom, 0, (0.5 - x) * zoom - 0.5], [0, zoom, (0.5 - y) * zoom - 0.5]])
        part = cv2.warpAffine(pair.low, matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE)
        smooth = cv2.blur(pair.high, (zoom, zoom))
        inner = slice(2 * zoom, -2 * zoom)
        found = np.corrcoef(part[inner, inner].ravel(), smooth[inner, inner].ravel())[0, 1]
        assert found > 0.9, (index, pair.label)


def test_the_defect_is_about_the_middle_of_the_high_magnification():
    quiet = settings(count=10, optics=QUIET, off_centre=0.1)
    for index in (i for i in range(10) if i % 6 != 5):
        pair = render_pair(quiet, index)
        lines = quiet.lines(pair.label)
        scenes = [render_scene(lines, index + 10 * attempt) for attempt in range(12)]
        # in which specimen, and where in it, the image was taken
        matches = [
            cv2.minMaxLoc(cv2.matchTemplate(s.signal, pair.high.astype(np.float32), 5))
            for s in scenes
        ]
        best = max(range(12), key=lambda i: matches[i][1])
        assert matches[best][1] > 0.99
        box = scenes[best].annotations.xyxy[0]
        middle = (box[:2] + box[2:]) / 2 - matches[best][3]
        assert (np.abs(middle - 48) < 0.1 * 96 + 1).all(), (index, pair.label)


def test_noise_and_instrument_are_each_image_s_own():
    pair = render_pair(settings(count=1), 0)
    again = render_pair(settings(count=1), 0)
    assert (pair.high == again.high).all() and (pair.low == again.low).all()
    flat = {"optics": {**QUIET, "electrons": (40.0, 40.0)}, "count": 1}
    noisy, calm = render_pair(settings(**flat), 0), render_pair(settings(count=1, optics=QUIET), 0)
    noise = [
        (a.astype(float) - b).ravel() for a, b in ((noisy.high, calm.high), (noisy.low, calm.low))
    ]
    assert min(n.std() for n in noise) > 1000
    assert abs(np.corrcoef(noise)[0, 1]) < 0.05


def test_classes_and_splits_are_met_to_the_image():
    made = settings(count=30, train=0.4, test=0.2)
    kinds = made.class_names
    assert kinds[-1] == "clean" and len(kinds) == 6
    counts = Counter((p.split, p.label) for p in (render_pair(made, i) for i in range(30)))
    expected = {"train": 2, "test": 1, "unlabelled": 2}
    assert counts == {(s, k): n for s, n in expected.items() for k in kinds}


def test_what_is_written_is_a_data_set_of_folders_with_its_pairs(tmp_path):
    made = settings(count=24, train=0.25, test=0.25)
    told = []
    write_pairs(made, tmp_path / "data", lambda done, count: told.append((done, count)))
    assert told[-1] == (24, 24)
    dataset = open_dataset(tmp_path / "data")
    assert dataset.classes == made.class_names and dataset.notes == ()
    assert Counter(s.split for s in dataset) == {"train": 6, "test": 6, "unlabelled": 12}
    assert all((s.label is None) == (s.split == "unlabelled") for s in dataset)
    found = read_pairs(tmp_path / "data/pairs.csv")
    assert len(found.pairs) == 24 and found.notes == ()
    high, low = (read_image(p) for p in found.pairs[5])
    expected = render_pair(made, 5)
    assert (high.pixels == expected.high).all() and (low.pixels == expected.low).all()
    assert low.nm_per_px == pytest.approx(3 * high.nm_per_px, rel=1e-6)
    # what is learned from without labels holds nothing of the test
    images = find_images([tmp_path / "data", tmp_path / "data/low"])
    assert len(images) == 36 and not any("test" in p.parts for p in images)


def test_the_number_of_processes_changes_nothing(tmp_path):
    for workers in (1, 2):
        write_pairs(settings(count=17, workers=workers), tmp_path / str(workers))
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in sorted((tmp_path / n).rglob("*.tif"))}
        for n in ("1", "2")
    )
    assert one == two and len(one) == 34


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"train": 0.7, "test": 0.4}, "at most 1, found 1.1"),
        ({"classes": "none_such"}, "none_such"),
        ({"pattern": {"nm_per_px": (9.0, 9.0)}}, "pitch of at least 4 px"),
    ],
)
def test_what_cannot_be_simulated_is_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        settings(**wrong)


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="new or empty folder"):
        write_pairs(settings(count=1), tmp_path)
    with pytest.raises(ValidationError):
        SemPairsSettings(zoom=1)
