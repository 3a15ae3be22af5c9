"""Every format writes what every format reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semiscope.geometry import dense, rasterise
from semiscope.io.formats import FORMATS
from semiscope.types import Annotations, Dataset, Mask, Polygons, Sample, Shape

SPLITS = [("",), ("train", "val"), ("test", "train", "unlabelled")]
SIZE = (48, 64)


def bits(shape: Shape) -> np.ndarray:
    mask = shape if isinstance(shape, Mask) else rasterise(shape, *SIZE)
    return dense(mask, *SIZE)


def assert_same(a: Annotations | None, b: Annotations | None, *, shapes: bool) -> None:
    assert (a is None) == (b is None)
    if a is None or b is None:
        return
    np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-3)
    np.testing.assert_array_equal(a.class_id, b.class_id)
    if not shapes:
        assert b.shapes is None
        return
    assert (a.shapes is None) == (b.shapes is None)
    for mine, other in zip(a.shapes or (), b.shapes or (), strict=True):
        np.testing.assert_array_equal(bits(mine), bits(other))
        if isinstance(mine, Polygons) and len(mine.rings) == 1:
            np.testing.assert_allclose(mine.rings[0], other.rings[0], atol=1e-3)


def assert_same_dataset(a: Dataset, b: Dataset, *, shapes: bool = True) -> None:
    assert a.classes == b.classes
    for one, other in zip(a, b, strict=True):
        assert one.path.name == other.path.name
        assert one.path.read_bytes() == other.path.read_bytes()
        assert (one.split, one.size, one.label) == (other.split, other.size, other.label)
        assert_same(one.annotations, other.annotations, shapes=shapes)


@pytest.mark.parametrize("splits", SPLITS)
@pytest.mark.parametrize("kind", ["box", "polygon", "two rings", "mask"])
@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "labelstudio"])
def test_round_trip(tmp_path: Path, make_dataset, form: str, kind: str, splits: tuple[str, ...]):
    dataset = make_dataset(kind, splits)
    notes = FORMATS[form].write(dataset, tmp_path / "out")
    back = FORMATS[form].read(tmp_path / "out")
    assert_same_dataset(dataset, back, shapes=form != "voc")
    assert back.notes == ()
    # a second round changes nothing, not even a byte of a label
    FORMATS[form].write(back, tmp_path / "again")
    again = FORMATS[form].read(tmp_path / "again")
    assert_same_dataset(back, again)
    lossless = (
        form in ("coco", "labelstudio") or kind == "box" or (form == "yolo" and kind != "mask")
    )
    assert (notes == ()) == lossless


@pytest.mark.parametrize("form", list(FORMATS))
def test_each_format_knows_its_own_and_no_other(tmp_path: Path, make_dataset, form: str):
    dataset = make_dataset("polygon")
    labelled = tuple(Sample(s.path, s.size, s.annotations, None, 1, s.split) for s in dataset)
    FORMATS[form].write(Dataset(dataset.classes, labelled), tmp_path / "out")
    first = next(name for name, other in FORMATS.items() if other.matches(tmp_path / "out"))
    assert first == form
    assert not any(other.matches(tmp_path / "source" / "train") for other in FORMATS.values())


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "labelstudio"])
def test_sub_pixel_boxes_on_a_huge_image(tmp_path: Path, make_dataset, form: str, monkeypatch):
    # float32 itself resolves 1/256 px there; the file must not add to that
    dataset = make_dataset("box", ("",))
    sample = dataset.samples[0]
    box = np.float32([[59_000.5, 31_000.25, 59_999.75, 59_999.004]])
    huge = Sample(sample.path, (60_000, 60_000), Annotations(box, np.array([1])))
    FORMATS[form].write(Dataset(dataset.classes, (huge,)), tmp_path / "out")
    monkeypatch.setattr("semiscope.io.labels.read_size", lambda path: (60_000, 60_000))
    back = FORMATS[form].read(tmp_path / "out").samples[0].annotations
    np.testing.assert_allclose(back.xyxy.astype(np.float64), box.astype(np.float64), atol=1e-3)


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "labelstudio", "masks"])
def test_images_of_the_same_name_stay_apart(tmp_path: Path, make_dataset, form: str):
    dataset = make_dataset("polygon")
    merged = []
    for i, sample in enumerate(dataset):
        folder = sample.path.parent / f"lot {i}"
        folder.mkdir()
        merged.append(Sample(sample.path.rename(folder / "same.png"), sample.size,
                             sample.annotations))  # fmt: skip
    FORMATS[form].write(Dataset(dataset.classes, tuple(merged)), tmp_path / "out")
    back = FORMATS[form].read(tmp_path / "out")
    assert len(back) == len(merged) == len({s.path for s in back})
    assert back.notes == ()
    if form != "masks":
        counts = sorted(len(s.annotations) for s in back)
        assert counts == sorted(len(s.annotations) for s in merged)


@pytest.mark.parametrize("form", list(FORMATS))
def test_unreadable_images_are_left_out_with_a_note(tmp_path: Path, make_dataset, form: str):
    dataset = make_dataset("polygon", ("train",))
    labelled = tuple(Sample(s.path, s.size, s.annotations, None, 0, s.split) for s in dataset)
    FORMATS[form].write(Dataset(dataset.classes, labelled), tmp_path / "out")
    victim = sorted((tmp_path / "out").rglob("im 1*.png"))[0]
    victim.write_bytes(b"")
    back = FORMATS[form].read(tmp_path / "out")
    assert len(back) == 3
    (note,) = [n for n in back.notes if "image cannot be read" in n]
    assert victim.name in note
    assert "0 bytes" in note


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "labelstudio", "masks"])
def test_a_side_car_with_the_pixel_size_travels_along(tmp_path: Path, make_dataset, form: str):
    dataset = make_dataset("polygon", ("",))
    path = dataset.samples[0].path
    path.with_suffix(".txt").write_text("[SemImageFile]\nPixelSize=2.5\n")
    FORMATS[form].write(dataset, tmp_path / "out")
    (copy,) = (tmp_path / "out").rglob(f"{path.stem}.png") if form != "masks" else (
        tmp_path / "out/images" / path.name,
    )  # fmt: skip
    assert copy.with_suffix(".txt").read_text() == path.with_suffix(".txt").read_text()
