from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from semiscope.cli import app
from semiscope.errors import SettingsError
from semiscope.geometry import dense
from semiscope.io import coco
from semiscope.io.image import read_image
from semiscope.simulate.ic_package import (
    CLASSES,
    IcPackageSettings,
    Unit,
    render_unit,
    write_units,
)
from semiscope.simulate.package_settings import draw_defects, split_of
from semiscope.types import Mask, Polygons

CALM = {
    "blur_px": (0, 0),
    "noise": (0, 0),
    "vignetting": (0, 0),
    "unevenness": (0, 0),
    "contrast": (1, 1),
}
KINDS = ("rotation", "crack", "scratch", "chipping", "missing")


def settings(**values: Any) -> IcPackageSettings:
    return IcPackageSettings.from_dict({"count": 100} | values, "test")


def small(**values: Any) -> IcPackageSettings:
    return settings(**({"width": 320, "height": 320, "products": 2} | values))


def only(kind: str, **values: Any) -> dict[str, Any]:
    """Every unit has this defect and no other."""
    return {"good": 0, "several": 0} | {k: float(k == kind) for k in KINDS} | values


def masks(unit: Unit) -> np.ndarray:
    out = np.zeros(unit.pixels.shape[:2], bool)
    for shape in unit.annotations.shapes or ():
        if isinstance(shape, Mask):
            out |= dense(shape, *out.shape)
    return out


def upright(unit: Unit, points: np.ndarray) -> np.ndarray:
    """Points in the frame of the package's own upright view, by OpenCV."""
    top, right, bottom, left = (
        np.linalg.norm(unit.package_corners[i] - unit.package_corners[(i + 1) % 4])
        for i in range(4)
    )
    w, h = (top + bottom) / 2, (left + right) / 2
    target = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    matrix = cv2.getPerspectiveTransform(unit.package_corners.astype(np.float32), target)
    return cv2.perspectiveTransform(points[None].astype(np.float64), matrix)[0]


def test_splits_of_3000_are_the_papers_and_never_change() -> None:
    counts = Counter(split_of(settings(), i) for i in range(3000))
    assert counts == {"train": 2430, "val": 270, "test": 300}
    # any number from the first unit on is in proportion
    found = np.array([split_of(settings(), i) for i in range(400)])
    for name, share in (("train", 0.81), ("val", 0.09), ("test", 0.1)):
        counted = np.cumsum(found == name)
        assert np.abs(counted - share * np.arange(1, 401)).max() < 1.6
    assert {split_of(settings(val_share=0, test_share=1), i) for i in range(50)} == {"test"}


def test_defects_come_in_the_shares_asked_for() -> None:
    chosen = settings().defects
    rng = np.random.default_rng(0)
    drawn = [draw_defects(rng, chosen) for _ in range(4000)]
    assert sum(not d for d in drawn) / 4000 == pytest.approx(chosen.good, abs=0.03)
    bad = [d for d in drawn if d]
    for kind, weight in chosen.weights.items():
        assert sum(d[0] == kind for d in bad) / len(bad) == pytest.approx(weight, abs=0.03)
    with_die = [d for d in bad if d[0] != "missing"]
    assert sum(len(d) == 2 for d in with_die) / len(with_die) == pytest.approx(0.2, abs=0.03)
    assert all(len(set(d)) == len(d) and (len(d) == 1 or "missing" not in d) for d in bad)


def test_a_unit_depends_on_seed_and_index_alone() -> None:
    few, many = small(count=5, seed=3), small(count=50, seed=3)
    np.testing.assert_array_equal(render_unit(few, 4).pixels, render_unit(many, 4).pixels)
    assert not np.array_equal(render_unit(small(seed=4), 4).pixels, render_unit(many, 4).pixels)


LIGHTS = ("bright_field", "dark_field_white", "dark_field_blue")


def test_lights_show_the_same_unit_and_obey_the_rule_of_mean_colours() -> None:
    for index in range(4):
        units = [render_unit(small(camera={"illumination": (light,)}), index) for light in LIGHTS]
        for unit, light in zip(units, LIGHTS, strict=True):
            red, green, blue = unit.pixels.mean(axis=(0, 1))
            if min(red, green, blue) > 15:
                found = "bright_field"
            else:
                found = "dark_field_white" if red > blue else "dark_field_blue"
            assert found == light == unit.illumination
            np.testing.assert_array_equal(unit.package_corners, units[0].package_corners)
            np.testing.assert_array_equal(masks(unit), masks(units[0]))


@pytest.mark.parametrize("tilt", [0.0, 2.5])
def test_corners_and_angle_belong_together(tilt: float) -> None:
    chosen = small(
        defects=only("rotation"), pose={"angle_deg": (-180, 180), "tilt_deg": (tilt, tilt)}
    )
    for index in range(8):
        unit = render_unit(chosen, index)
        assert unit.die_corners is not None and unit.die_angle_deg is not None
        assert 0.3 <= abs(unit.die_angle_deg) <= 15
        x, y = (upright(unit, unit.die_corners)[[1, 2]] - upright(unit, unit.die_corners)[[0, 3]]).T
        angles = np.degrees(np.arctan2(-y, x))
        assert angles.mean() == pytest.approx(unit.die_angle_deg, abs=0.01 if tilt == 0 else 0.12)
        if tilt == 0:
            x, y = unit.package_corners[1] - unit.package_corners[0]
            turn = np.degrees(np.arctan2(-y, x)) - unit.package_angle_deg
            assert (turn + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


def edge_offsets(unit: Unit, corners: np.ndarray, reach: int) -> list[tuple[float, float]]:
    """For each side, how far outside of it the steepest change lies in each half, px."""
    grey = cv2.cvtColor(unit.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across = np.arange(-reach, reach + 0.01, 0.1)
    found = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        outwards = np.array([(b - a)[1], -(b - a)[0]]) / np.linalg.norm(b - a)
        halves = []
        for span in ((0.12, 0.5), (0.5, 0.88)):
            along = a + np.linspace(*span, 150)[:, None] * (b - a)
            place = (along[:, None] + across[None, :, None] * outwards - 0.5).astype(np.float32)
            values = cv2.remap(grey, place[..., 0], place[..., 1], cv2.INTER_LINEAR)
            profile = cv2.GaussianBlur(np.median(values, axis=0)[None], (0, 0), 5)[0]
            halves.append(float(across[np.argmax(np.abs(np.gradient(profile.ravel())))]))
        found.append((halves[0], halves[1]))
    return found


def test_edges_of_the_die_are_where_its_corners_say() -> None:
    chosen = settings(
        defects=only("rotation", rotation_deg=(2, 15)),
        camera=CALM | {"blur_px": (0.4, 0.4)},
        clutter={"dust": (0, 0), "fibres": 0, "edge_scratches": 0, "led_cracks": 0},
        products=1,
    )
    offsets = []
    for index in range(5):
        unit = render_unit(chosen, index)
        assert unit.die_corners is not None
        offsets += edge_offsets(unit, unit.die_corners, 4)
    found = np.array(offsets)
    assert np.abs(np.median(found, axis=0)).max() < 0.4
    assert np.median(np.abs(found)) < 0.4


def test_the_package_turns_from_black_to_green_at_its_edges() -> None:
    chosen = settings(
        defects={"good": 1},
        camera=CALM,
        clutter={"dust": (0, 0), "fibres": 0, "edge_scratches": 0, "border": (0.015, 0.015)},
        products=2,
    )
    offsets = [
        edge_offsets(u, u.package_corners, 9) for u in (render_unit(chosen, i) for i in (0, 1))
    ]
    assert np.median(np.abs(offsets)) < 0.7
    assert np.abs(offsets).max() < 2


def test_without_its_cracks_a_photograph_differs_only_at_the_masks() -> None:
    for kind in ("crack", "scratch", "chipping"):
        chosen = small(defects=only(kind, visibility=(0.9, 0.9)), camera=CALM, products=1)
        for index in range(3):
            unit, clean = (render_unit(chosen, index, with_cracks=w) for w in (True, False))
            assert set(unit.kinds) == {None, kind} and set(clean.kinds) == {None}
            difference = cv2.absdiff(unit.pixels, clean.pixels).max(axis=2)
            inside = masks(unit)
            near = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
            assert difference[~near].max() <= 2
            assert difference[inside].mean() > 12
            np.testing.assert_array_equal(unit.die_corners, clean.die_corners)


def test_masks_lie_on_the_die_and_boxes_are_their_extent() -> None:
    chosen = small(defects=only("crack", crack=1.0, scratch=1.0, chipping=1.0, most=3))
    for index in range(10):
        unit = render_unit(chosen, index)
        assert unit.die_corners is not None
        die = np.zeros(unit.pixels.shape[:2], np.uint8)
        cv2.fillPoly(die, [np.rint((unit.die_corners - 0.5) * 16).astype(np.int32)], 1, shift=4)
        assert not (masks(unit) & (die == 0)).any()
        for box, shape, class_id in zip(
            unit.annotations.xyxy,
            unit.annotations.shapes or (),
            unit.annotations.class_id,
            strict=True,
        ):
            if isinstance(shape, Mask):
                assert CLASSES[class_id] == "crack" and shape.area >= 10
                h, w = shape.bits.shape
                np.testing.assert_array_equal(box, [shape.x, shape.y, shape.x + w, shape.y + h])


@pytest.mark.parametrize(
    ("defects", "reasons"),
    [
        ({"good": 1}, ()),
        (only("missing"), ("missing_die",)),
        (only("rotation", rotation_deg=(1.01, 15)), ("die_rotation",)),
        (only("rotation", rotation_deg=(0.3, 0.99)), ()),
        (only("rotation", rotation_deg=(3, 4), tolerance_deg=5), ()),
        (only("crack"), ("die_crack",)),
        (only("scratch", chipping=1.0, several=1), ("die_crack",)),
        (
            only("rotation", chipping=1.0, several=1, rotation_deg=(2, 3)),
            ("die_rotation", "die_crack"),
        ),
    ],
)
def test_verdicts(defects: dict[str, Any], reasons: tuple[str, ...]) -> None:
    chosen = small(defects=defects)
    for index in range(4):
        unit = render_unit(chosen, index)
        assert unit.reasons == reasons
        assert unit.verdict == ("fail" if reasons else "pass")
        assert (unit.die_corners is None) == (reasons == ("missing_die",))
        names = [CLASSES[c] for c in unit.annotations.class_id]
        assert names[:1] == ["package"] and ("die" in names) == (unit.die_corners is not None)


@pytest.mark.parametrize(
    "values",
    [
        {"pose": {"angle_deg": (-360, 360), "shift": 1.0, "tilt_deg": (20, 20)}},
        {"pose": {"size": (1, 1), "angle_deg": (30, 60)}},
        {"pose": {"size": (0.1, 0.1)}, "width": 160, "height": 161},
        {"width": 160, "height": 900, "pose": {"angle_deg": (90, 90)}},
        {"clutter": {"border": (0.1, 0.1), "dust": (200, 200), "fibres": 1, "edge_scratches": 1}},
        {"camera": {"noise": (60, 60), "blur_px": (5, 5), "contrast": (0.05, 0.05)}},
        {"defects": {"good": 0, "several": 1, "most": 8, "length": (1, 1)}},
    ],
)
def test_extreme_settings_keep_the_package_in_view(values: dict[str, Any]) -> None:
    chosen = small(**values)
    for index in range(3):
        unit = render_unit(chosen, index)
        height, width = unit.pixels.shape[:2]
        assert (height, width) == (chosen.height, chosen.width)
        corners = unit.package_corners
        assert corners.min() > 0 and (corners < (width, height)).all()
        (x, y), (u, v) = corners[1] - corners[0], corners[2] - corners[1]
        assert x * v - y * u > 0


@pytest.mark.parametrize("angle", [0, 90, 180, -90])
def test_pin_1_tells_which_way_up_a_package_lies(angle: float) -> None:
    chosen = settings(pose={"angle_deg": (angle, angle)}, camera=CALM, products=4)
    for index in range(4):
        unit = render_unit(chosen, index)
        target = np.array([(0, 0), (300, 0), (300, 500), (0, 500)], np.float32)
        matrix = cv2.getPerspectiveTransform(unit.package_corners.astype(np.float32), target)
        crop = cv2.warpPerspective(unit.pixels, matrix, (300, 500)).astype(int)
        gold = crop[..., 0] - crop[..., 2]
        found = [
            gold[rows, columns].mean()
            for rows in (slice(25, 65), slice(435, 475))
            for columns in (slice(25, 65), slice(235, 275))
        ]
        assert np.argmax(found) == 0
        assert found[0] > 2 * abs(found[1]) and found[0] > 2 * abs(found[2])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_same_seed_same_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    tiny = {"count": 18, "width": 160, "height": 160, "products": 1}
    told: list[tuple[int, int]] = []
    write_units(settings(**tiny, workers=1), tmp_path / "one", lambda *now: told.append(now))
    write_units(settings(**tiny, workers=2), tmp_path / "two")
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert told == [(n, 18) for n in range(1, 19)]
    assert {"classes.txt", "train/annotations.json", "val/annotations.json"} < set(one)
    with pytest.raises(SettingsError, match="new or empty folder"):
        write_units(settings(**tiny), tmp_path / "one")


def test_files_hold_the_units_and_are_read_back(tmp_path: Path) -> None:
    chosen = small(
        count=6, seed=2, test_share=1, val_share=0, defects={"good": 0, "several": 0.5, "most": 2}
    )
    write_units(chosen, tmp_path)
    labels = json.loads((tmp_path / "test/annotations.json").read_text())
    data = coco.read(tmp_path)
    assert data.classes == CLASSES and data.notes == () and len(data) == 6
    for index, (entry, sample) in enumerate(zip(labels["images"], data, strict=True)):
        unit = render_unit(chosen, index)
        np.testing.assert_array_equal(read_image(sample.path).pixels, unit.pixels)
        assert (entry["verdict"], tuple(entry["reasons"])) == (unit.verdict, unit.reasons)
        assert entry["illumination"] == "bright_field"
        assert entry["package_angle_deg"] == pytest.approx(unit.package_angle_deg, abs=1e-4)
        found, truth = sample.annotations, unit.annotations
        assert found is not None and found.shapes is not None and truth.shapes is not None
        np.testing.assert_array_equal(found.class_id, truth.class_id)
        np.testing.assert_allclose(found.xyxy, truth.xyxy, atol=1e-3)
        if unit.die_angle_deg is not None:
            assert found.angle_deg is not None
            np.testing.assert_allclose(found.angle_deg, truth.angle_deg, atol=1e-4)
        records = [a for a in labels["annotations"] if a["image_id"] == entry["id"]]
        for record, kind, mine, his in zip(
            records, unit.kinds, truth.shapes, found.shapes, strict=True
        ):
            assert record.get("kind") == kind
            if isinstance(mine, Polygons):
                assert isinstance(his, Polygons)
                np.testing.assert_allclose(his.rings[0], mine.rings[0], atol=1e-4)
                np.testing.assert_allclose(record["corners"], mine.rings[0], atol=1e-4)
            else:
                assert isinstance(mine, Mask) and isinstance(his, Mask)
                np.testing.assert_array_equal(mine.bits, his.bits)
                assert (mine.x, mine.y) == (his.x, his.y)


def test_the_command_writes_what_it_is_asked_for(tmp_path: Path) -> None:
    options = "--count 1 --seed 7 --width 200 --height 180 --camera.illumination dark_field_blue"
    with pytest.raises(SystemExit) as done:
        app(["simulate", "ic-package", *options.split(), "--out", str(tmp_path / "new")])
    assert done.value.code == 0
    chosen = settings(
        count=1, seed=7, width=200, height=180, camera={"illumination": ("dark_field_blue",)}
    )
    (path,) = (tmp_path / "new/train/images").iterdir()
    np.testing.assert_array_equal(read_image(path).pixels, render_unit(chosen, 0).pixels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count"),
        ({"val_share": 0.6, "test_share": 0.5}, "at most 1 together"),
        ({"defects": {"good": 0.5} | dict.fromkeys(KINDS, 0.0)}, "weight above 0"),
        ({"defects": {"natural_deg": 2}}, "good units would fail"),
        ({"defects": {"rotation_deg": (1, 60)}}, "at most 45"),
        ({"defects": {"length": (0.5, 2)}}, "at most 1"),
        ({"pose": {"size": (0.5, 1.5)}}, "size"),
        ({"pose": {"tilt_deg": (0, 45)}}, "tilt_deg"),
        ({"pose": {"angle_deg": (3, -3)}}, "lower and the upper end"),
        ({"clutter": {"dust": (5, 2)}}, "fewest and most"),
        ({"clutter": {"border": (0.1, 0.4)}}, "border"),
        ({"camera": {"illumination": ()}}, "illumination"),
        ({"camera": {"illumination": ("ultraviolet",)}}, "illumination"),
        ({"camera": {"contrast": (0.5, 1.5)}}, "contrast"),
        ({"camera": {"brightness": (10, 50)}}, "brightness"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(**values)


def test_an_index_outside_is_an_error() -> None:
    with pytest.raises(SettingsError, match="from 0 to 4"):
        render_unit(settings(count=5), 5)
