import csv
import math

import numpy as np
import pytest

from semiscope.config import Settings
from semiscope.errors import SettingsError
from semiscope.io import masks
from semiscope.io.image import read_image
from semiscope.simulate.stack_canvas import Canvas, Shell
from semiscope.simulate.stack_layout import flat_trench, round_trench
from semiscope.simulate.stack_scene import DEVICES
from semiscope.simulate.stack_settings import (
    CLASSES,
    DEFECTS,
    LINER,
    MATERIALS,
    METAL,
    NITRIDE,
    OXIDE,
    SILICON,
    VOID,
    plan,
)
from semiscope.simulate.tem_stack import TemStackSettings, render_scene, write_sections

STILL = {"roughness_nm": (0, 0), "tilt_deg": (0, 0), "wedge": (0, 0), "curtains": (0, 0)}


def settings(**values):
    return TemStackSettings.from_dict({"width": 256, "height": 256, **values}, "test")


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_splits_have_their_shares_and_more_images_change_none():
    long = plan(settings(count=200))
    assert {s: long.count(s) for s in sorted(set(long))} == {
        "test": 40,
        "train": 60,
        "unlabelled": 80,
        "val": 20,
    }
    assert plan(settings(count=37)) == long[:37]
    assert set(plan(settings(val_share=0, test_share=1, unlabelled_share=0))) == {"test"}


def test_a_scene_depends_on_seed_device_and_index_alone():
    one, two = settings(count=50, seed=4), settings(count=9, seed=4)
    forward = [render_scene(one, i) for i in (3, 7)]
    backward = [render_scene(two, i) for i in (7, 3)]
    for a, b in zip(forward, reversed(backward), strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.classes, b.classes)
        assert a.thicknesses == b.thicknesses
    assert not np.array_equal(render_scene(settings(seed=5), 3).classes, forward[0].classes)
    other = render_scene(settings(device="B", seed=4), 3)
    assert not np.array_equal(other.classes, forward[0].classes)


@pytest.mark.parametrize("device", "AB")
def test_class_maps_hold_materials_and_small_defects(device):
    chosen = settings(device=device, seed=1, width=320, height=320)
    counts = np.zeros(len(CLASSES))
    for index in range(8):
        scene = render_scene(chosen, index)
        assert scene.pixels.dtype == np.uint16 and scene.pixels.shape == (320, 320)
        assert scene.classes.shape == (320, 320)
        assert scene.materials.max() < len(MATERIALS)
        same = scene.classes < len(MATERIALS)
        np.testing.assert_array_equal(scene.classes[same], scene.materials[same])
        counts += np.bincount(scene.classes.ravel(), minlength=len(CLASSES))
    share = counts / counts.sum()
    assert (share[: len(MATERIALS)] > 0.01).all()
    for name in DEFECTS:
        assert 1e-4 < share[CLASSES.index(name)] < 0.01


def test_without_defects_there_are_none():
    calm = settings(specimen={"voids": 0, "cracks": 0, "residues": 0})
    for index in range(3):
        scene = render_scene(calm, index)
        np.testing.assert_array_equal(scene.classes, scene.materials)


@pytest.mark.parametrize("device", "AB")
def test_thickness_is_what_a_person_counts_in_the_class_map(device):
    chosen = settings(device=device, seed=2, width=448, height=448)
    layers, errors = set(), []
    for index in range(3):
        scene = render_scene(chosen, index)
        for truth in scene.thicknesses:
            x0, y0, x1, y1 = (round(v) for v in truth.box)
            film = scene.materials[y0:y1, x0:x1] == truth.class_id
            counted = [
                np.count_nonzero(line) for line in (film if truth.direction == "x" else film.T)
            ]
            errors.append(np.mean(counted) - truth.nm / scene.nm_per_px)
            layers.add(truth.layer)
    assert len(errors) > 80
    assert len(layers) >= 10
    # a film of whole pixels over few rows: half a pixel at most, nothing on the average
    assert np.abs(errors).max() < 0.7
    assert abs(np.mean(errors)) < 0.05
    assert np.std(errors) < 0.25


def test_films_of_a_trench_are_even_and_of_their_thickness():
    """Hand-worked: films of 4 and 6 nm in a trench 40 nm wide and 60 nm deep with a flat bottom."""
    canvas = Canvas(500, 400, 5.0, SILICON)
    canvas.trench(
        flat_trench(40, 20, 80, 20, 20),
        20,
        [Shell(OXIDE, 4, 20), Shell(LINER, 6, 50)],
        Shell(METAL, 0, 50),
        NITRIDE,
    )
    # a filled outline may be a canvas pixel, 0.2 nm, wider; a film has its thickness
    row = canvas.classes[300]
    assert np.count_nonzero(row == OXIDE) / 5 == 8
    assert np.count_nonzero(row == LINER) / 5 == 12
    assert np.count_nonzero(row == METAL) / 5 == pytest.approx(20, abs=0.21)
    above = canvas.classes[200]
    assert np.count_nonzero(above == OXIDE) / 5 == 8
    assert np.count_nonzero(above == NITRIDE) / 5 == pytest.approx(32, abs=0.21)
    column = canvas.classes[:, 200]
    assert np.count_nonzero(column == OXIDE) / 5 == 4
    assert np.count_nonzero(column == LINER) / 5 == 6
    assert np.count_nonzero(column == METAL) / 5 == pytest.approx(20, abs=0.21)
    assert (canvas.classes[:100] == SILICON).all()


def test_a_round_bottom_is_lined_by_half_a_ring():
    canvas = Canvas(700, 500, 6.0, SILICON)
    radius, film = 18.0, 5.0
    canvas.trench(
        round_trench(40, 20, 90, radius, radius),
        20,
        [Shell(LINER, film, 20)],
        Shell(METAL, 0, 20),
        OXIDE,
    )
    bottom = canvas.classes[int((90 - radius) * 6) :]
    area = np.count_nonzero(bottom == LINER) / 36
    assert area == pytest.approx(math.pi * (radius**2 - (radius - film) ** 2) / 2, rel=0.02)


def test_what_lies_off_the_canvas_is_not_drawn():
    canvas = Canvas(60, 60, 1.0, SILICON)
    for x, top in ((-80, 20), (200, 20), (30, 400), (30, -300)):
        canvas.trench(flat_trench(x, top, top + 30, 5, 5), top, [], Shell(METAL, 0, top), OXIDE)
    assert (canvas.classes == SILICON).all()
    canvas.trench(flat_trench(0, 20, 80, 8, 8), 20, [Shell(LINER, 3, 20)], Shell(METAL, 0, 20), 0)
    assert canvas.classes[40, :10].tolist() == [METAL] * 6 + [LINER] * 3 + [SILICON]


@pytest.mark.parametrize("device", "AB")
def test_more_optical_depth_is_darker(device):
    """Without blur, noise, texture and slope of the lamella, grey values follow the depths."""
    chosen = settings(
        device=device,
        specimen={**STILL, "voids": 4, "contamination": 0},
        microscope={"blur_nm": (0, 0), "electrons": (1e6, 1e6), "vignetting": (0, 0)},
    )
    scenes = [render_scene(chosen, i) for i in range(3)]
    depth = DEVICES[device].contrast.depth
    for scene in scenes:
        found = {c: scene.pixels[scene.classes == c].mean() for c in np.unique(scene.classes)}
        # lined metal is dark whichever of the two is darker; a thin film is blurred by its edges
        order = [c for c in (OXIDE, NITRIDE, SILICON, METAL) if c in found]
        assert sorted(order, key=lambda c: -found[c]) == sorted(order, key=lambda c: depth[c])
        if VOID in found:
            assert found[VOID] == max(found.values())


def test_noise_has_the_variance_of_counted_electrons():
    """Sixteen times the electrons: a sixteenth of the variance."""
    images = []
    for electrons in (50, 800, 1e9):
        dose = {"electrons": (electrons, electrons)}
        scene = render_scene(settings(width=192, height=192, microscope=dose), 0)
        images.append(scene.pixels.astype(float))
    few, many = (np.var(i - images[2]) for i in images[:2])
    assert few == pytest.approx(16 * many, rel=0.1)


def test_files_hold_the_scenes(tmp_path):
    chosen = settings(count=10, seed=9, workers=1, width=160, height=128)
    write_sections(chosen, tmp_path / "new")
    data = masks.read(tmp_path / "new")
    assert data.classes == CLASSES and not data.notes
    by_name = {s.path.name: s for s in data}
    assert len(by_name) == 10
    with (tmp_path / "new/scenes.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "new/thickness.csv").open() as file:
        films = list(csv.DictReader(file))
    for index, row in enumerate(rows):
        scene = render_scene(chosen, index)
        sample = by_name[row["file_name"]]
        assert sample.split == row["split"] == scene.split
        image = read_image(sample.path)
        np.testing.assert_array_equal(image.pixels, scene.pixels)
        assert image.nm_per_px == pytest.approx(scene.nm_per_px, rel=1e-6)
        own = [f for f in films if f["file_name"] == row["file_name"]]
        if scene.split == "unlabelled":
            assert sample.class_map is None and not own and row["void"] == ""
            continue
        np.testing.assert_array_equal(masks.read_class_map(sample.class_map), scene.classes)
        assert bool(int(row["void"])) == bool((scene.classes == VOID).any())
        assert [f["layer"] for f in own] == [t.layer for t in scene.thicknesses]
        for film, truth in zip(own, scene.thicknesses, strict=True):
            assert float(film["thickness_nm"]) == pytest.approx(truth.nm, rel=1e-5)
            assert film["class"] == CLASSES[truth.class_id]
    assert {s.split for s in data} == {"train", "val", "test", "unlabelled"}


def test_same_seed_same_bytes_whatever_the_number_of_processes(tmp_path):
    small = {"count": 17, "width": 128, "height": 128}
    write_sections(settings(**small, workers=1), tmp_path / "one")
    write_sections(settings(**small, workers=2), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "C"}, "device"),
        ({"count": 0}, "count"),
        ({"width": 64}, "width"),
        ({"val_share": 0.5, "test_share": 0.4}, "at most 1 together, found 1.3"),
        ({"specimen": {"tilt_deg": (-9, 0)}}, "from -5 to 5"),
        ({"specimen": {"roughness_nm": (1, 5)}}, "at most 2"),
        ({"specimen": {"voids": -1}}, "voids"),
        ({"microscope": {"electrons": (0, 5)}}, "above 0"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(SettingsError, match=message):
        settings(**values)


def test_an_index_outside_is_an_error():
    with pytest.raises(SettingsError, match="from 0 to 4"):
        render_scene(settings(count=5), 5)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 128, "height": 600},
        {"width": 600, "height": 128},
        {"specimen": {"tilt_deg": (5, 5), "roughness_nm": (2, 2), "voids": 20, "cracks": 20}},
        {"microscope": {"electrons": (0.5, 0.5), "blur_nm": (3, 3), "fringe": (2, 2)}},
    ],
)
@pytest.mark.parametrize("device", "AB")
def test_extreme_settings_keep_the_truth_whole(values, device):
    scene = render_scene(settings(device=device, **values), 1)
    assert scene.pixels.shape == scene.classes.shape
    assert scene.classes.max() < len(CLASSES)
    assert all(0 < t.nm < 100 for t in scene.thicknesses)


def test_settings_describe_every_field():
    for model in (TemStackSettings, *(type(v) for _, v in settings() if isinstance(v, Settings))):
        assert all(f.description for f in model.model_fields.values())
