from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from semiscope.io import voc

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>"
    "<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def put(root: Path, xml: str | bytes, images: str = "JPEGImages") -> Path:
    for folder in (images, "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / images / "a.jpg"), np.eye(48, 64, dtype=np.uint8))
    data = xml.encode() if isinstance(xml, str) else xml
    (root / "Annotations" / "a.xml").write_bytes(data)
    return root


def document(*objects: str) -> str:
    return f"<annotation><filename>a.jpg</filename>{''.join(objects)}</annotation>"


@pytest.mark.parametrize("images", ["JPEGImages", "images"])
def test_pixels_are_counted_from_one(tmp_path: Path, images: str):
    # the columns 0 to 9 and the rows 4 to 6
    xml = document(OBJECT.format(1, 5, 10, 7, name="gap"), OBJECT.format(2, 2, 9, 9, name="b"))
    dataset = voc.read(put(tmp_path, xml, images))
    assert dataset.classes == ("b", "gap")
    found = dataset.samples[0].annotations
    np.testing.assert_array_equal(found.xyxy, [[0, 4, 10, 7], [1, 1, 9, 9]])
    assert found.class_id.tolist() == [1, 0]
    assert dataset.notes == ()


def test_no_object_is_clean(tmp_path: Path):
    assert len(voc.read(put(tmp_path, document())).samples[0].annotations) == 0


@pytest.mark.parametrize(
    ("xml", "phrase"),
    [
        (document(OBJECT.format(1, "x", 3, 4, name="gap")), "object 1: label cannot be read"),
        (document("<object><name>gap</name></object>"), "object 1: label cannot be read"),
        (document(OBJECT.format(5, 1, 3, 4, name="gap")), "without area"),
        (document(OBJECT.format(1, 1, "nan", 4, name="gap")), "without area"),
        (document(OBJECT.format(1, 1, 3, 4, name="void")), "class id outside the list: 'void'"),
        ("<annotation>", "expected a VOC file (XML)"),
        ("", "expected a VOC file (XML)"),
        (b"\xff\xfe\x00", "expected a VOC file (XML)"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "expected a VOC file (XML)"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
    ],
)
def test_bad_labels_are_noted(tmp_path: Path, xml: str | bytes, phrase: str):
    (tmp_path / "classes.txt").write_text("gap\n")
    dataset = voc.read(put(tmp_path, xml))
    assert len(dataset.samples[0].annotations or ()) == 0
    (note,) = dataset.notes
    assert phrase in note
    assert "a.xml" in note


def test_missing_images_and_missing_labels(tmp_path: Path):
    put(tmp_path, document())
    (tmp_path / "Annotations" / "a.xml").rename(tmp_path / "Annotations" / "gone.xml")
    dataset = voc.read(tmp_path)
    assert dataset.samples[0].annotations is None
    without_label, without_image = dataset.notes
    assert "image without a label" in without_label
    assert "label without an image" in without_image
