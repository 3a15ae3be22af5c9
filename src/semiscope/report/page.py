"""The report of an inspection: one HTML file that needs nothing else, neither network nor server.

The page forbids itself everything that it does not carry (a content security policy with the
hashes of its own script and style), so that no name in the data can load or run anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.report.figures import histogram, pareto

_MOST_FAILURES = 500


@dataclass(frozen=True, slots=True)
class Picture:
    """A defect that is shown with its picture.

    Attributes:
        file: The image as the user named it.
        label: Class name.
        score: In [0, 1].
        disposition: "accept" or "review".
        box: x, y, width, height, px of the image.
        view: Left, top, width, height of what the picture shows, px of the image.
        image_size: Width and height of the image, px.
        nm_per_px: Width of a pixel in nm, or None.
        area: px².
        jpeg: The picture in base64, without any drawing.
        rings: The outline where there is one: lists of x, y, x, y … in px of the image.
        others: The boxes of further defects in the view: x, y, width, height and class name.
    """

    file: str
    label: str
    score: float
    disposition: str
    box: Sequence[float]
    view: Sequence[int]
    image_size: tuple[int, int]
    nm_per_px: float | None
    area: float
    jpeg: str
    rings: Sequence[Sequence[float]] = ()
    others: Sequence[tuple[float, float, float, float, str]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the page tells.

    Attributes:
        title: Heading.
        facts: Small figures below the heading: name -> text.
        classes: All class names of the model, in its order.
        images: Images inspected, the failed ones left out.
        images_with_defects: Those with at least one reported defect.
        counts: Class -> accepted and for-review defects.
        lengths: (n,) longer side of every reported defect, in ``length_unit``.
        length_unit: "nm" or "px".
        scores: (n,) scores of the same defects.
        review: (n,) bool, whether they are for review.
        pictures: The defects to show.
        failed: File and reason.
        csv: Name of the table beside the report.
        maps: The section about class maps as HTML (see ``overlay.maps_section``).
        model: What the model's card says, plain values.
        settings: The settings of the run, plain values.
    """

    title: str
    facts: Mapping[str, str]
    classes: Sequence[str]
    images: int
    images_with_defects: int
    counts: Mapping[str, tuple[int, int]]
    lengths: NDArray[np.float64]
    length_unit: str
    scores: NDArray[np.float64]
    review: NDArray[np.bool_]
    pictures: Sequence[Picture]
    failed: Sequence[tuple[str, str]]
    csv: str
    maps: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def page(report: Report) -> str:
    """The report as HTML text."""
    style, script = asset("page.css"), asset("page.js")
    found = len(report.scores)
    doubtful = int(np.count_nonzero(report.review))
    tiles = (
        (report.images, "images inspected", ""),
        (report.images_with_defects, "images with defects", ""),
        (found, "defects", ""),
        (doubtful, "for review", "warn" if doubtful else ""),
        (len(report.failed), "files failed", "bad" if report.failed else ""),
    )
    lengths, unit = report.lengths, report.length_unit
    if unit == "nm" and found and lengths.max() >= 10_000:
        lengths, unit = lengths / 1000, "µm"
    size = "longer side" if report.length_unit == "nm" else "longer side; pixel size not known"
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src {hashed(style)}; "
        f"script-src {hashed(script)}; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "title": escape(report.title),
        "facts": facts(report.facts),
        "tiles": tile_row(tiles),
        "pareto": pareto(report.counts),
        "sizes": histogram(lengths, report.review, unit),
        "size_title": size,
        "scores": histogram(report.scores, report.review, "score", limits=(0, 1)),
        "failed": failures(report.failed),
        "csv": escape(report.csv),
        "maps": report.maps,
        "shown": _shown(len(report.pictures), found),
        "model": table(report.model),
        "settings": table(report.settings),
        "data": _data(report),
    }
    return filled("page.html", parts)


def facts(pairs: Mapping[str, str]) -> str:
    """What tells the run at the top of a page."""
    return "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items())


def tile_row(tiles: Iterable[tuple[int, str, str]]) -> str:
    """Counts in large figures: each a number, what it counts, and "", "warn" or "bad"."""
    return "".join(
        f'<div class="tile {kind}"><b>{value:,}</b><span>{name}</span></div>'
        for value, name, kind in tiles
    )


def filled(template: str, parts: Mapping[str, str]) -> str:
    """An HTML file of this folder with each ``{{name}}`` replaced by the part of that name."""
    # one pass, so that nothing in the data is taken for a place to fill
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], asset(template))


def _data(report: Report) -> str:
    place = {name: i for i, name in enumerate(report.classes)}
    items = [
        {
            "file": p.file,
            "c": place[p.label],
            "score": p.score,
            "d": p.disposition,
            "box": list(p.box),
            "view": list(p.view),
            "image": list(p.image_size),
            "nm": p.nm_per_px,
            "area": p.area,
            "rings": [list(r) for r in p.rings],
            "others": [[*o[:4], place[o[4]]] for o in p.others],
            "jpeg": p.jpeg,
        }
        for p in report.pictures
    ]
    text = json.dumps({"classes": list(report.classes), "items": items}, separators=(",", ":"))
    # inside a script element only "<" could end it or open a comment
    return text.replace("<", "\\u003c")


def _shown(shown: int, found: int) -> str:
    if not found:
        return "No defects were reported."
    if shown == found:
        return f"All {found:,} defects."
    return (
        f"{shown:,} of {found:,} defects: those for review first, then by falling score. "
        "The table beside this page has all."
    )


def failures(failed: Sequence[tuple[str, str]]) -> str:
    """A table of the files that could not be read, as HTML."""
    if not failed:
        return '<p class="empty">Every file could be read.</p>'
    rows = "".join(
        f"<tr><td>{escape(file)}</td><td>{escape(reason)}</td></tr>"
        for file, reason in failed[:_MOST_FAILURES]
    )
    more = ""
    if len(failed) > _MOST_FAILURES:
        more = f"<p>And {len(failed) - _MOST_FAILURES:,} more, listed in results.json.</p>"
    return (
        '<div class="scroll"><table><thead><tr><th>File</th><th>Why</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )


def table(values: Mapping[str, Any]) -> str:
    """Names and plain values, those without content left out, as HTML."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name).replace("_", " "))}</th>'
        f"<td>{_value(value)}</td></tr>"
        for name, value in values.items()
        if value not in (None, "", [], {}, ())
    )
    return f'<table class="pairs"><tbody>{rows}</tbody></table>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return table(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))


def asset(name: str) -> str:
    """The text of a file that stands beside this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def hashed(text: str) -> str:
    """How a content security policy names a style or script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
