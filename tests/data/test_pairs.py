"""Which images belong together, from lists that may be faulty."""

import pytest

from semiscope.data.pairs import Pair, arranged, partners, read_pairs
from semiscope.errors import DataError


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
