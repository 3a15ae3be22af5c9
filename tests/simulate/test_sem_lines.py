from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from semiscope.errors import SettingsError
from semiscope.io.coco import decode_rle
from semiscope.io.image import read_image
from semiscope.simulate.line_defects import DEFECTS
from semiscope.simulate.line_settings import CLASS_SETS, plan, shares
from semiscope.simulate.sem_lines import Scene, SemLinesSettings, render_scene, write_scenes
from semiscope.types import Mask

STILL = {
    "drift_px": (0, 0),
    "jitter_px": (0, 0),
    "vibration_px": (0, 0),
    "edge_bloom": (0, 0),
}


def settings(**values: Any) -> SemLinesSettings:
    return SemLinesSettings.from_dict(values, "test")


def every_defect(count: int, **values: Any) -> SemLinesSettings:
    return settings(
        count=count, classes=",".join(DEFECTS), distribution="uniform", split="test", **values
    )


def dense(scene: Scene) -> np.ndarray:
    """All masks of a scene in one bitmap."""
    out = np.zeros(scene.pixels.shape, bool)
    for mask in scene.annotations.shapes or ():
        assert isinstance(mask, Mask)
        h, w = mask.bits.shape
        out[mask.y : mask.y + h, mask.x : mask.x + w] |= mask.bits
    return out


def test_table_1_is_met_to_the_image() -> None:
    counts = Counter(plan(settings()))
    names = CLASS_SETS["semi-diffusion"]
    assert [counts["train", i] for i in range(5)] == [240, 240, 80, 160, 200]
    assert [counts["val", i] for i in range(5)] == [30, 30, 10, 20, 30]
    assert sum(counts.values()) == 1040
    assert names[2] == "multi_bridge_non_horizontal"


@pytest.mark.parametrize("count", [1, 7, 24, 104, 333])
@pytest.mark.parametrize("split", ["train-val", "test"])
def test_any_count_is_met_and_in_proportion(count: int, split: str) -> None:
    scenes = plan(settings(count=count, split=split))
    assert len(scenes) == count
    found = Counter(c for _, c in scenes)
    for class_id, images in enumerate((270, 270, 90, 180, 230)):
        assert abs(found[class_id] - count * images / 1040) < 2


def test_clean_images_are_the_share_asked_for() -> None:
    scenes = plan(settings(count=100, split="test", clean_fraction=0.25))
    assert sum(c is None for _, c in scenes) == 25
    number = next(i for i, (_, c) in enumerate(scenes) if c is None)
    scene = render_scene(settings(count=100, split="test", clean_fraction=0.25), number)
    assert len(scene.annotations) == 0


def test_largest_remainder() -> None:
    assert shares((240, 240, 80, 160, 200), 10) == [3, 2, 1, 2, 2]
    assert shares((1, 1, 1), 2) == [1, 1, 0]


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    one, two = settings(count=50, seed=4), settings(count=50, seed=4)
    forward = [render_scene(one, i).pixels for i in (3, 7)]
    backward = [render_scene(two, i).pixels for i in (7, 3)]
    np.testing.assert_array_equal(forward[0], backward[1])
    np.testing.assert_array_equal(forward[1], backward[0])
    assert not np.array_equal(render_scene(settings(count=50, seed=5), 3).pixels, forward[0])


def test_a_test_set_shares_nothing_with_the_training_set_of_the_same_seed() -> None:
    train, test = settings(count=4), settings(count=4, split="test")
    for index in range(4):
        assert not np.array_equal(
            render_scene(train, index).signal, render_scene(test, index).signal
        )


def test_boxes_are_the_extent_of_connected_masks() -> None:
    chosen = every_defect(45, seed=2)
    seen = set()
    for index in range(45):
        scene = render_scene(chosen, index)
        assert len(scene.annotations) == 1
        (mask,) = scene.annotations.shapes or ()
        assert isinstance(mask, Mask)
        assert mask.bits[0].any() and mask.bits[-1].any()
        assert mask.bits[:, 0].any() and mask.bits[:, -1].any()
        h, w = mask.bits.shape
        np.testing.assert_array_equal(
            scene.annotations.xyxy[0], [mask.x, mask.y, mask.x + w, mask.y + h]
        )
        assert 0 <= mask.x and mask.x + w <= 480 and 0 <= mask.y and mask.y + h <= 480
        assert cv2.connectedComponents(mask.bits.astype(np.uint8), connectivity=8)[0] == 2
        assert mask.area >= 8
        seen.add(chosen.class_names[int(scene.annotations.class_id[0])])
    assert seen == set(DEFECTS)


def test_without_its_defect_an_image_differs_only_at_the_mask() -> None:
    chosen = every_defect(18, seed=6)
    for index in range(18):
        scene, clean = (render_scene(chosen, index, with_defects=w) for w in (True, False))
        assert len(clean.annotations) == 0
        change = np.abs(scene.signal - clean.signal)
        inside = dense(scene)
        metrology = scene.metrology
        reach = (0.5 * metrology.pitch_nm + 3 * metrology.beam_nm) / scene.nm_per_px
        size = 2 * int(np.ceil(reach)) + 1
        near = cv2.dilate(inside.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
        assert change[~near].max(initial=0) < 0.02 * change.max()
        assert change[inside].mean() > 10 * change[~inside].mean()
        assert scene.metrology == clean.metrology


@pytest.mark.parametrize("name", ["single_bridge", "gap", "multi_bridge_horizontal"])
def test_mask_is_where_the_material_changed_after_the_scan_strayed(name: str) -> None:
    """With a sharp beam and no bloom the pixels themselves tell which material they are."""
    chosen = settings(
        count=8,
        classes=name,
        distribution="uniform",
        optics={
            "beam_nm": (0, 0),
            "edge_bloom": (0, 0),
            "drift_px": (4, 4),
            "jitter_px": (0.6, 0.6),
            "vibration_px": (1, 1),
        },
    )
    for index in range(8):
        scene, clean = (render_scene(chosen, index, with_defects=w) for w in (True, False))
        low, high = np.percentile(clean.signal, (5, 95))
        middle = (low + high) / 2
        changed = (scene.signal > middle) != (clean.signal > middle)
        inside = dense(scene)
        if name == "multi_bridge_horizontal":
            # the lines between belong to the mask and did not change
            changed |= inside & (clean.signal > middle)
        overlap = np.count_nonzero(changed & inside) / np.count_nonzero(changed | inside)
        assert overlap > 0.9


def measure(scene: Scene) -> tuple[float, float, float]:
    """Width, pitch (nm) and edge roughness of a noise-free image by its half-level crossings."""
    signal = scene.signal.astype(float)
    if scene.metrology.orientation == "horizontal":
        signal = signal.T
    middle = (np.percentile(signal, 5) + np.percentile(signal, 95)) / 2
    crossings = []
    for row in signal - middle:
        at = np.flatnonzero(np.diff(np.signbit(row)))
        crossings.append([(i + 0.5 + row[i] / (row[i] - row[i + 1]), row[i] < 0) for i in at])
    # only lines that are in view from the first row to the last
    pitch_px = scene.metrology.pitch_nm / scene.nm_per_px
    widths, edges = [], []
    for begin in (x for x, rising in crossings[0] if rising):
        left, right, last = [], [], begin
        for row in crossings:
            rising = [x for x, up in row if up and abs(x - last) < pitch_px / 3]
            if not rising:
                break
            last = rising[0]
            falling = [x for x, up in row if not up and x > last]
            if not falling:
                break
            left.append(last)
            right.append(falling[0])
        if len(left) == len(signal):
            widths.append(np.subtract(right, left))
            edges += [np.array(left), np.array(right)]
    to_nm = np.cos(np.radians(scene.metrology.tilt_deg)) * scene.nm_per_px
    t = np.arange(len(signal))
    rest = [e - np.polyval(np.polyfit(t, e, 1), t) for e in edges]
    pitch = np.mean(np.diff(edges[::2], axis=0))
    return (
        float(np.mean(widths)) * to_nm,
        float(pitch) * to_nm,
        3 * float(np.sqrt(np.mean(np.square(rest)))) * to_nm,
    )


@pytest.mark.parametrize("horizontal", [0, 1])
def test_width_pitch_and_roughness_are_found_in_the_noise_free_image(horizontal: int) -> None:
    chosen = settings(
        count=6,
        clean_fraction=1,
        split="test",
        pattern={"horizontal": horizontal, "pitch_walk_nm": (0, 0)},
        optics={**STILL, "beam_nm": (0.5, 0.8)},
    )
    for index in range(6):
        scene = render_scene(chosen, index)
        width, pitch, roughness = measure(scene)
        assert width == pytest.approx(scene.metrology.cd_nm, abs=0.2)
        assert pitch == pytest.approx(scene.metrology.pitch_nm, abs=0.3)
        assert roughness == pytest.approx(scene.metrology.ler_3sigma_nm, rel=0.06)


def test_horizontal_bridges_run_across_lines_that_run_either_way() -> None:
    for horizontal in (0, 1):
        chosen = settings(
            count=6,
            classes="multi_bridge_horizontal",
            distribution="uniform",
            pattern={"horizontal": horizontal, "tilt_deg": (0, 0)},
        )
        for index in range(6):
            mask = (render_scene(chosen, index).annotations.shapes or ())[0]
            assert isinstance(mask, Mask)
            along, across = mask.bits.shape[::-1] if horizontal else mask.bits.shape
            pitch = render_scene(chosen, index).metrology
            assert across > pitch.pitch_nm / pitch.nm_per_px
            assert across > 0.8 * along


def test_several_defects_do_not_overlap() -> None:
    chosen = every_defect(12, defects=4)
    numbers = []
    for index in range(12):
        scene = render_scene(chosen, index)
        numbers.append(len(scene.annotations))
        areas = sum(m.area for m in scene.annotations.shapes or () if isinstance(m, Mask))
        assert areas == np.count_nonzero(dense(scene))
    assert max(numbers) > 1


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_same_seed_same_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    small = {"count": 36, "width": 128, "height": 128, "pattern": {"pitch_nm": (12.0, 16.0)}}
    told: list[tuple[int, int]] = []
    write_scenes(settings(**small, workers=1), tmp_path / "one", lambda *now: told.append(now))
    write_scenes(settings(**small, workers=3), tmp_path / "three")
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "three")
    assert told == [(n, 36) for n in range(1, 37)]
    assert {"classes.txt", "scenes.csv", "train/annotations.json", "val/annotations.json"} < set(
        one
    )


def test_files_hold_the_scene(tmp_path: Path) -> None:
    chosen = settings(count=6, seed=9, workers=1, split="test")
    write_scenes(chosen, tmp_path / "new")
    labels = json.loads((tmp_path / "new/test/annotations.json").read_text())
    with (tmp_path / "new/scenes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [c["name"] for c in labels["categories"]] == list(chosen.class_names)
    assert (tmp_path / "new/classes.txt").read_text().split() == list(chosen.class_names)
    for index, (entry, row) in enumerate(zip(labels["images"], rows, strict=True)):
        scene = render_scene(chosen, index)
        image = read_image(tmp_path / "new/test/images" / entry["file_name"])
        assert image.pixels.dtype == np.uint16
        np.testing.assert_array_equal(image.pixels, scene.pixels)
        assert image.nm_per_px == pytest.approx(scene.nm_per_px, rel=1e-6)
        assert entry["metrology"]["cd_nm"] == scene.metrology.cd_nm
        assert float(row["ler_3sigma_nm"]) == pytest.approx(scene.metrology.ler_3sigma_nm, rel=1e-5)
        (found,) = [a for a in labels["annotations"] if a["image_id"] == entry["id"]]
        (truth,) = scene.annotations.shapes or ()
        assert isinstance(truth, Mask)
        mask = decode_rle(found["segmentation"])
        assert (mask.x, mask.y) == (truth.x, truth.y)
        np.testing.assert_array_equal(mask.bits, truth.bits)
        assert found["area"] == truth.area
        assert found["bbox"] == [truth.x, truth.y, *truth.bits.shape[::-1]]
        assert row["classes"] == chosen.class_names[found["category_id"] - 1]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SettingsError, match="new or empty folder.*choose another"):
        write_scenes(settings(count=1), tmp_path)
    with pytest.raises(SettingsError, match="found a file"):
        write_scenes(settings(count=1), tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count"),
        ({"classes": "thin_bridge,scratch"}, "scratch"),
        ({"classes": ""}, "no name"),
        ({"classes": "gap,gap", "distribution": "uniform"}, "repeated"),
        ({"classes": "gap"}, "use uniform"),
        ({"pattern": {"pitch_nm": (4, 5), "nm_per_px": (2, 2)}}, "at least 4 px"),
        ({"pattern": {"pitch_nm": (30, 400)}}, "room for 5 pitches"),
        ({"pattern": {"pitch_nm": (64, 30)}}, "lower and the upper end"),
        ({"pattern": {"duty": (0.4, 1.2)}}, "duty"),
        ({"pattern": {"roughness_nm": (-1, 2)}}, "0 or more"),
        ({"optics": {"electrons": (-20, 50)}}, "above 0"),
        ({"optics": {"electrons": (20, float("nan"))}}, "range"),
        ({"optics": {"bits": (24,)}}, "bits"),
        ({"clean_fraction": 1.5}, "clean_fraction"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(**values)


def test_an_index_outside_is_an_error() -> None:
    with pytest.raises(SettingsError, match="from 0 to 4"):
        render_scene(settings(count=5), 5)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 64, "height": 1500, "pattern": {"pitch_nm": (8, 10), "nm_per_px": (1, 1)}},
        {"pattern": {"tilt_deg": (-15, 15), "roughness_nm": (20, 20), "duty": (0.1, 0.9)}},
        {"optics": {"electrons": (0.5, 0.5), "drift_px": (20, 20), "jitter_px": (3, 3)}},
        {"optics": {"beam_nm": (0, 0), "edge_bloom": (0, 0), "bits": (1,), "streaks": (0.3, 0.3)}},
    ],
)
def test_extreme_settings_keep_the_truth_whole(values: dict[str, Any]) -> None:
    chosen = settings(count=6, split="test", **values)
    for index in range(6):
        scene = render_scene(chosen, index)
        (mask,) = scene.annotations.shapes or ()
        assert isinstance(mask, Mask) and mask.area > 0
        assert 0 < scene.metrology.cd_nm < scene.metrology.pitch_nm
        assert np.isfinite(scene.signal).all()
