"""Images of one defect at a high and at a low magnification: which belong together.

A CSV file with the columns ``high`` and ``low``, a row a defect, paths relative to the file; a cell
is empty where there is no such image. Or a KLARF file, whose defects list their images: of these a
defect's high magnification is the one whose label or file name says so ("high" and "low"), else the
one with the smaller pixels, else the last one, as review tools go from low to high.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from semiscope.errors import DataError, ImageError
from semiscope.io.image import read_image
from semiscope.io.klarf import KlarfImage, read_klarf
from semiscope.io.labels import ESCAPES, inside

COLUMNS = ("high", "low")


class Pair(NamedTuple):
    """The images of one defect; one of them may be missing."""

    high: Path | None
    low: Path | None


class PairList(NamedTuple):
    """What a file says.

    Attributes:
        pairs: A defect each, with at least one image.
        notes: What was left out, one sentence each, naming the file.
    """

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def read_pairs(path: Path) -> PairList:
    """The pairs that a CSV or a KLARF file names; all but .csv is taken for KLARF.

    An image that is not there, that lies outside the file's folder, or that an earlier row has
    taken is left out with a note; what is left of its row stands alone.

    Raises:
        DataError: The file cannot be read, has no columns ``high`` and ``low``, or is no KLARF.
    """
    if path.suffix.lower() != ".csv":
        return _of_klarf(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found = tuple(reader.fieldnames or ())
            if not set(COLUMNS) <= set(found):
                raise DataError(
                    f"{path}: expected a CSV file with the columns {' and '.join(COLUMNS)}, found "
                    f"{', '.join(found) or 'nothing'}"
                )
            rows = [tuple((row[name] or "").strip() for name in COLUMNS) for row in reader]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8: {error}") from None
    return _checked(path, rows)


def _of_klarf(path: Path) -> PairList:
    notes: list[str] = []
    shown: dict[tuple[str, str], list[KlarfImage]] = {}
    for defect in read_klarf(path).defects:
        for image in defect.images:
            if image.page > 1 and image.file.lower().endswith((".tif", ".tiff")):
                notes.append(
                    f"{path}: defect {defect.name}: page {image.page} of {image.file} left out: "
                    "only the first page of a file is read. Split it into files"
                )
            else:
                # some tools list a defect again for each of its files
                shown.setdefault((defect.wafer, defect.name), []).append(image)
    rows = []
    for (_, name), images in shown.items():
        if len(images) > 2:
            notes.append(f"{path}: defect {name} has {len(images)} images; the ends are paired")
        high, low = _ends(path, images) if len(images) > 1 else (images[0], None)
        rows.append((high.file, low.file if low else ""))
    found = _checked(path, rows)
    return PairList(found.pairs, (*notes, *found.notes))


def _ends(path: Path, images: Sequence[KlarfImage]) -> tuple[KlarfImage, KlarfImage]:
    """The images of the highest and of the lowest magnification."""
    said = [f"{Path(i.file.replace(chr(92), '/')).name} {i.label}".lower() for i in images]
    high = [i for i, text in zip(images, said, strict=True) if "high" in text]
    low = [i for i, text in zip(images, said, strict=True) if "low" in text]
    if high and low:
        return high[-1], low[0]
    sizes = [_nm_per_px(path, image) for image in images]
    if None not in sizes and len(set(sizes)) > 1:
        ordered = sorted(range(len(images)), key=lambda i: sizes[i] or 0.0)
        return images[ordered[0]], images[ordered[-1]]
    return images[-1], images[0]


def _nm_per_px(path: Path, image: KlarfImage) -> float | None:
    place = inside(path.parent, path.parent, image.file)
    try:
        return read_image(place).nm_per_px if place else None
    except ImageError:
        return None


def _checked(source: Path, rows: Iterable[Sequence[str]]) -> PairList:
    """Pairs from the names of their files, (high, low), relative to the file that names them."""
    notes: list[str] = []
    pairs: list[Pair] = []
    taken: set[Path] = set()

    def file_of(name: str) -> Path | None:
        if not name:
            return None
        place = inside(source.parent, source.parent, name)
        if place is None:
            notes.append(f"{source}: {ESCAPES}: {name}")
        elif not place.is_file():
            notes.append(f"{source}: there is no file {name}")
        elif place in taken:
            notes.append(f"{source}: {name} is there twice; the first row counts")
        else:
            taken.add(place)
            return place
        return None

    for high, low in rows:
        pair = Pair(file_of(high), file_of(low))
        if pair != (None, None):
            pairs.append(pair)
    return PairList(tuple(pairs), tuple(notes))


def arranged(images: Sequence[Path], pairs: Sequence[Pair]) -> list[Pair]:
    """Images as pairs where they are some, and alone where not.

    Args:
        images: All that may be used; what a pair names besides is left out.
        pairs: Which of them belong together.

    Returns:
        The pairs in their order, then the other images, each as a high magnification without a low
        one.
    """
    wanted = {path.resolve(): path for path in images}
    chosen = []
    for pair in pairs:
        known = Pair(*(wanted.pop(p.resolve(), None) if p else None for p in pair))
        if known != (None, None):
            chosen.append(known)
    return chosen + [Pair(path, None) for path in wanted.values()]


def partners(pairs: Iterable[Pair]) -> dict[Path, Path]:
    """The low magnification of each high one that has it."""
    return {p.high: p.low for p in pairs if p.high is not None and p.low is not None}
