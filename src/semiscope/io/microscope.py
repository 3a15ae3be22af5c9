"""Pixel size and more from what microscopes write into TIFF tags and beside their images.

FEI / Thermo (tag 34682 or 34680), Zeiss (tag 34118), JEOL and Hitachi (a text file of the same
stem), ImageJ (the description), and the TIFF resolution tags. Where two of them contradict each
other, or the image has not the size that they were written for, the pixel size stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tifffile

_NM = {
    "pm": 1e-3,
    "nm": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "\\u00b5m": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "mm": 1e6,
    "cm": 1e7,
    "m": 1e9,
    "inch": 2.54e7,
    "in": 2.54e7,
}
_CM, _INCH = 1e7, 2.54e7
# relative difference between two honest sources; a scale bar is known to a pixel of its length
_TOLERANCE = 5e-3
# resolutions of scanners, screens and printers end here, those of microscopes begin
_PLAUSIBLE_NM = (1e-3, 2e4)
_FEI_TAGS, _ZEISS_TAG = (34682, 34680), 34118
# JEOL's magnification is that of a picture 120 mm wide
_JEOL_PICTURE_NM = 120e6
_SIDECAR_BYTES = 1 << 20


class Scale(NamedTuple):
    """A pixel size that one source states.

    Attributes:
        source: Who says so.
        x: nm per px along a row.
        y: nm per px along a column.
        width: Image width in px that it was written for, or None.
        tolerance: Relative.
    """

    source: str
    x: float
    y: float
    width: int | None = None
    tolerance: float = _TOLERANCE


@dataclass
class Facts:
    """What is known of an image besides its pixels.

    Attributes:
        scales: Statements of the pixel size, the most exact first.
        modality: "sem" where an electron microscope's own tags were found.
        rows: Rows of specimen, the info bar not counted, where the tags tell.
    """

    scales: list[Scale] = field(default_factory=list)
    modality: str | None = None
    rows: int | None = None


def tiff_facts(file: tifffile.TiffFile, page: tifffile.TiffPage) -> Facts:
    """What a TIFF file's tags tell; tags that cannot be understood tell nothing."""
    facts = Facts()
    for tag in _FEI_TAGS:
        if tag in page.tags:
            _fei(_sections(page.tags[tag].value), facts)
    if _ZEISS_TAG in page.tags and isinstance(page.tags[_ZEISS_TAG].value, dict):
        _zeiss(page.tags[_ZEISS_TAG].value, facts)
    x, y = _per_unit(page, "XResolution"), _per_unit(page, "YResolution")
    if not x or not y:
        return facts
    described = (file.imagej_metadata or {}) if file.is_imagej else {}
    unit = _NM.get(str(described.get("unit", "")).strip().lower())
    printing = {2: _INCH, 3: _CM}.get(int(getattr(page, "resolutionunit", None) or 1))
    if unit is not None and unit < _CM:
        facts.scales.append(Scale("ImageJ", unit / x, unit / y))
    elif printing is not None and _is_microscopic(printing / x, x):
        facts.scales.append(Scale("the resolution tags", printing / x, printing / y))
    return facts


def sidecar(image: Path) -> Path | None:
    """The microscope's text file of the same stem, or None when there is none."""
    path = image.with_suffix(".txt")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    return path if b"$CM_" in head or b"[SemImageFile]" in head else None


def sidecar_facts(image: Path) -> Facts:
    """What the text file tells that JEOL and Hitachi microscopes write beside an image."""
    facts = Facts()
    path = sidecar(image)
    if path is None:
        return facts
    with path.open("rb") as file:
        text = file.read(_SIDECAR_BYTES).decode("cp1252", errors="replace")
    facts.modality = "sem"
    if "[SemImageFile]" in text:
        _hitachi(_sections(text).get("SemImageFile", {}), facts)
    else:
        pairs = (line.split(maxsplit=1) for line in text.splitlines())
        _jeol({p[0]: p[1].strip() for p in pairs if len(p) == 2}, facts)
    return facts


def settle(scales: Sequence[Scale], width: int) -> tuple[float | None, tuple[str, ...]]:
    """The one pixel size that all sources agree on.

    Args:
        scales: What the sources say.
        width: Columns of the image.

    Returns:
        nm per px, the first source's, or None where nobody says or they contradict each other; and
        notes for a person.
    """
    if not scales:
        return None, ()
    for scale in scales:
        if abs(scale.x - scale.y) > _TOLERANCE * scale.x:
            return None, (
                f"the pixel size is unknown: {scale.source} gives {scale.x:.6g} nm along x and "
                f"{scale.y:.6g} nm along y",
            )
        if scale.width is not None and scale.width != width:
            return None, (
                f"the pixel size is unknown: {scale.source} was written for an image {scale.width} "
                f"px wide, this one has {width}",
            )
    first = scales[0]
    for other in scales[1:]:
        if abs(first.x - other.x) > max(first.tolerance, other.tolerance) * first.x:
            return None, (
                f"the pixel size contradicts itself: {first.source} says {first.x:.6g} nm, "
                f"{other.source} says {other.x:.6g} nm; taken as unknown",
            )
    return first.x, ()


def _fei(sections: dict[str, dict[str, Any]], facts: Facts) -> None:
    facts.modality = "sem" if {"EBeam", "EScan", "Beam"} & sections.keys() else facts.modality
    image = sections.get("Image", {})
    width, rows = _number(image.get("ResolutionX")), _number(image.get("ResolutionY"))
    facts.rows = int(rows) if rows else None
    for name in ("Scan", "EScan", "IScan"):
        x = _number(sections.get(name, {}).get("PixelWidth"))
        y = _number(sections.get(name, {}).get("PixelHeight"))
        if x:
            scale = Scale("the FEI tag", x * 1e9, (y or x) * 1e9, int(width) if width else None)
            facts.scales.append(scale)
            return


def _zeiss(tag: dict[str, Any], facts: Facts) -> None:
    facts.modality = "sem"
    stored = re.match(r"\s*(\d+)\s*\*\s*(\d+)", str(_zeiss_value(tag, "dp_image_store")[0]))
    # the first is that of the stored image, the second that of the screen
    for name in ("ap_image_pixel_size", "ap_pixel_size"):
        value, unit = _zeiss_value(tag, name)
        size, factor = _number(value), _NM.get(str(unit).strip().lower())
        if size and factor:
            width = int(stored[1]) if stored else None
            facts.scales.append(Scale("the Zeiss tag", size * factor, size * factor, width))
            return


def _zeiss_value(tag: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Value and unit of an entry, which is (label, value) or (label, value, unit)."""
    entry = tag.get(name, ())
    value = entry[1] if isinstance(entry, tuple) and len(entry) > 1 else None
    return value, entry[2] if isinstance(entry, tuple) and len(entry) > 2 else ""


def _jeol(entries: dict[str, str], facts: Facts) -> None:
    size = entries.get("$CM_FULL_SIZE", "").split()
    width = _number(size[0]) if size else None
    bar = _number(entries.get("$$SM_MICRON_BAR"))
    marker = re.match(r"([\d.]+)\s*(\S+)", entries.get("$$SM_MICRON_MARKER", ""))
    unit = _NM.get(marker[2].lower()) if marker else None
    length = _number(marker[1]) if marker else None
    columns = int(width) if width else None
    if bar and length and unit:
        nm = length * unit / bar
        facts.scales.append(Scale("the JEOL text file", nm, nm, columns, 1 / bar))
        return
    magnification = _number(entries.get("$CM_MAG"))
    if magnification and columns:
        nm = _JEOL_PICTURE_NM / magnification / columns
        facts.scales.append(Scale("the JEOL magnification", nm, nm, columns, 0.05))


def _hitachi(entries: dict[str, Any], facts: Facts) -> None:
    nm = _number(entries.get("PixelSize"))
    stored = re.match(r"\s*(\d+)\s*x\s*(\d+)", str(entries.get("DataSize", "")))
    if nm:
        width = int(stored[1]) if stored else None
        facts.scales.append(Scale("the Hitachi text file", nm, nm, width))


def _is_microscopic(nm: float, per_unit: float) -> bool:
    """Whether a resolution is that of a microscope, not a printer's default such as 300 dpi."""
    printer = per_unit <= 9600 and (per_unit % 12 == 0 or per_unit % 25 == 0)
    return _PLAUSIBLE_NM[0] <= nm <= _PLAUSIBLE_NM[1] and not printer


def _per_unit(page: tifffile.TiffPage, name: str) -> float | None:
    tag = page.tags.get(name)
    value = tag.value if tag is not None else None
    if not isinstance(value, tuple) or len(value) != 2 or not value[1]:
        return None
    return float(value[0] / value[1])


def _sections(value: Any) -> dict[str, dict[str, Any]]:
    """The sections of an INI-like text; a tag that is parsed already stays as it is."""
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if isinstance(v, dict)}
    text = value.decode("cp1252", errors="replace") if isinstance(value, bytes) else str(value)
    sections: dict[str, dict[str, Any]] = {}
    entries: dict[str, Any] = {}
    for line in text.splitlines():
        if line.strip().startswith("["):
            entries = sections.setdefault(line.strip().strip("[]"), {})
        elif "=" in line:
            key, content = line.split("=", 1)
            entries[key.strip()] = content.strip()
    return sections


def _number(value: Any) -> float | None:
    """A positive number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None
