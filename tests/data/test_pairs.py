"""Which images belong together, from lists that may be faulty."""

import numpy as np
import pytest

from semiscope.data.pairs import Pair, arranged, partners, read_pairs
from semiscope.errors import DataError
from semiscope.io.image import write_tiff


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in ("a_high.png", "a_low.png", "b.png", "c.png", "d #1.png", "e.png"):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(b"x")
    (tmp_path / "outside.png").write_bytes(b"x")
    return root


def listed(folder, *rows, header="high,low"):
    path = folder / "pairs.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def test_pairs_and_what_stands_alone(folder):
    path = listed(
        folder,
        "images/a_high.png,images/a_low.png,BRIDGE",
        "images/b.png,,OPEN",
        ",images/c.png",
        "images/d #1.png,images/missing.png",
        ",",
        header="high,low,class",
    )
    found = read_pairs(path)
    images = (folder / "images").resolve()
    assert found.pairs == (
        Pair(images / "a_high.png", images / "a_low.png"),
        Pair(images / "b.png", None),
        Pair(None, images / "c.png"),
        Pair(images / "d #1.png", None),
    )
    assert found.notes == (f"{path}: there is no file images/missing.png",)
    assert partners(found.pairs) == {images / "a_high.png": images / "a_low.png"}


def test_a_file_outside_and_a_file_twice_are_left_out(folder):
    path = listed(
        folder,
        "images/b.png,../outside.png",
        "images/c.png,images/b.png",
        "images/e.png,images/e.png",
    )
    found = read_pairs(path)
    names = [tuple(p and p.name for p in pair) for pair in found.pairs]
    assert names == [("b.png", None), ("c.png", None), ("e.png", None)]
    assert "leads out" in found.notes[0] and "../outside.png" in found.notes[0]
    assert [n.split("csv: ")[1] for n in found.notes[1:]] == [
        "images/b.png is there twice; the first row counts",
        "images/e.png is there twice; the first row counts",
    ]


@pytest.mark.parametrize("header", ["a,b", "", "high"])
def test_other_columns_are_refused(folder, header):
    with pytest.raises(DataError, match="columns high and low"):
        read_pairs(listed(folder, "x,y", header=header))


def test_a_list_that_cannot_be_read_is_refused(folder):
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(folder / "none.csv")
    path = listed(folder)
    path.write_bytes(b"high,low\n\xff\xfe,\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_pairs(path)


def test_only_images_that_may_be_used_are(folder):
    images = [folder / "images" / n for n in ("e.png", "a_low.png", "b.png")]
    path = listed(
        folder, "images/a_high.png,images/a_low.png", "images/e.png,images/b.png", "images/c.png,"
    )
    names = [tuple(p and p.name for p in pair) for pair in arranged(images, read_pairs(path).pairs)]
    assert names == [(None, "a_low.png"), ("e.png", "b.png")]
    assert arranged(images[:1], ()) == [Pair(images[0], None)]


def klarf(folder, *defects):
    """A list with the images of each defect: (file, page, label), ..."""
    rows = ""
    for number, images in enumerate(defects):
        listed = ", ".join(f'"{f}" "TIF" {p} "{label}"' for f, p, label in images)
        rows += f"{number} {f'Images {len(images)} {{ {listed} }}' if images else 'N'};\n"
    path = folder / "list.001"
    path.write_text(
        'Record FileRecord "1.8" { Record WaferRecord "W" { List DefectList { '
        f"Columns 2 {{ int32 DEFECTID, ImageList IMAGEINFO }} Data {len(defects)} {{ {rows}"
        " } } } }"
    )
    return path


def sized(folder, **nm_per_px):
    for name, size in nm_per_px.items():
        write_tiff(folder / f"{name}.tif", np.zeros((8, 8), np.uint8), size)


def names_of(found):
    return [tuple(p and p.name for p in pair) for pair in found.pairs]


def test_a_defect_s_images_are_a_pair(tmp_path):
    sized(tmp_path, a=2.0, b=8.0, c=None, d=None, e=2.0, f=2.0, g=1.0, h=3.0, i=9.0)
    found = read_pairs(
        klarf(
            tmp_path,
            (("a.tif", 1, ""), ("b.tif", 1, "")),  # the smaller pixel is the higher magnification
            (("c.tif", 1, "High mag"), ("d.tif", 1, "LOW")),
            (),
            (("e.tif", 1, ""), ("f.tif", 1, "")),  # one size: the last one is the high one
            (("h.tif", 1, ""), ("g.tif", 1, ""), ("i.tif", 1, "")),
        )
    )
    assert names_of(found) == [
        ("a.tif", "b.tif"),
        ("c.tif", "d.tif"),
        ("f.tif", "e.tif"),
        ("g.tif", "i.tif"),
    ]
    assert [n.split(": ", 1)[1] for n in found.notes] == [
        "defect 4 has 3 images; the ends are paired"
    ]


def test_a_list_leads_nowhere_else_and_names_what_it_cannot_use(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    sized(root, a=2.0, b=2.0)
    sized(tmp_path, outside=8.0)
    found = read_pairs(
        klarf(
            root,
            (("a.tif", 1, "high"), ("../outside.tif", 1, "low")),
            (("b.tif", 1, ""), ("b.tif", 2, "")),
            (("missing.tif", 1, ""), ("gone.tif", 1, "")),
        )
    )
    assert names_of(found) == [("a.tif", None), ("b.tif", None)]
    text = " ".join(found.notes)
    assert "page 2 of b.tif left out" in text and "leads out" in text and "no file gone.tif" in text


def test_in_1_2_a_defect_may_be_listed_for_each_of_its_files(tmp_path):
    sized(tmp_path, low=None, high=None)
    path = tmp_path / "list.000"
    path.write_text(
        "FileVersion 1 2;\nDefectRecordSpec 3 DEFECTID IMAGECOUNT IMAGELIST ;\n"
        "TiffFileName low.tif;\nDefectList\n 4 1 1 1 0;\n"
        "TiffFileName high.tif;\nDefectList\n 4 1 1 1 0;\nEndOfFile;\n"
    )
    assert names_of(read_pairs(path)) == [("high.tif", "low.tif")]
