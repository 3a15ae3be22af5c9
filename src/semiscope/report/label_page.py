"""The report of a classifier: what it is sure of, what not, what it never saw; one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiscope.report.embedding import COLOURS, Dot, embedding_map
from semiscope.report.figures import histogram, pareto
from semiscope.report.page import asset, facts, failures, filled, hashed, table, tile_row


@dataclass(frozen=True, slots=True)
class LabelPicture:
    """An image that is shown.

    Attributes:
        file: The image as the user named it.
        label: What it is called.
        score: In [0, 1].
        disposition: "accept", "review" or "unknown".
        jpeg: The image in base64.
        second: The next likeliest class and its score, where there is one.
        truth: What it is, where that is known.
        nearest: Labels and names of the known examples that it is like.
    """

    file: str
    label: str
    score: float
    disposition: str
    jpeg: str
    second: tuple[str, float] | None = None
    truth: str | None = None
    nearest: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class LabelGallery:
    """Some images of one kind.

    Attributes:
        title: Heading.
        note: What they are and in which order.
        pictures: Those shown.
        total: How many there are.
    """

    title: str
    note: str
    pictures: Sequence[LabelPicture]
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class LabelReport:
    """What the page tells.

    Attributes:
        title: Heading.
        facts: Small figures below the heading: name -> text.
        classes: All class names of the model, in its order.
        images: Images labelled.
        dispositions: How many are accepted, for review and unknown.
        counts: Class -> accepted and for-review images.
        scores: (n,) of all labels.
        review: (n,) bool, whether they are not accepted.
        pairs: Classes that are taken for each other and how often, most often first.
        pairs_title: Heading of these.
        pairs_note: What counts as one.
        galleries: In their order.
        places: (n, 2) of the images on the map.
        dots: n.
        failed: File and reason.
        model: What the model's card says, plain values.
        settings: The settings of the run, plain values.
    """

    title: str
    facts: Mapping[str, str]
    classes: Sequence[str]
    images: int
    dispositions: Mapping[str, int]
    counts: Mapping[str, tuple[int, int]]
    scores: NDArray[np.float64]
    review: NDArray[np.bool_]
    pairs: Sequence[tuple[str, str, int]]
    pairs_title: str
    pairs_note: str
    galleries: Sequence[LabelGallery]
    places: NDArray[np.float64]
    dots: Sequence[Dot]
    failed: Sequence[tuple[str, str]]
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def label_page(report: LabelReport) -> str:
    """The report as HTML text; it loads nothing and runs nothing."""
    style = asset("page.css")
    became = report.dispositions
    tiles = (
        (report.images, "images labelled", ""),
        (became["accept"], "accepted", ""),
        (became["review"], "for review", "warn" if became["review"] else ""),
        (became["unknown"], "unknown", "warn" if became["unknown"] else ""),
        (len(report.failed), "files failed", "bad" if report.failed else ""),
    )
    place = {name: k for k, name in enumerate(report.classes)}
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src {hashed(style)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "title": escape(report.title),
        "facts": facts(report.facts),
        "tiles": tile_row(tiles),
        "pareto": pareto(report.counts),
        "scores": histogram(report.scores, report.review, "score", limits=(0, 1)),
        "pairs_title": escape(report.pairs_title),
        "pairs_note": escape(report.pairs_note),
        "pairs": _pairs(report.pairs),
        "galleries": "".join(_gallery(g, place) for g in report.galleries if g.total),
        "map": embedding_map(report.places, report.dots)
        if report.dots
        else '<p class="empty">No image was labelled.</p>',
        "legend": "".join(
            f'<span class="key label c{k % COLOURS}">{escape(name)}</span>'
            for name, k in place.items()
        ),
        "failed": failures(report.failed),
        "model": table(report.model),
        "settings": table(report.settings),
    }
    return filled("labels.html", parts)


def _pairs(pairs: Sequence[tuple[str, str, int]]) -> str:
    if not pairs:
        return '<p class="empty">None.</p>'
    rows = "".join(
        f'<tr><td>{escape(a)}</td><td>{escape(b)}</td><td class="n">{count}</td></tr>'
        for a, b, count in pairs
    )
    return f'<table class="pairs-of-classes"><tbody>{rows}</tbody></table>'


def _gallery(gallery: LabelGallery, place: Mapping[str, int]) -> str:
    shown = len(gallery.pictures)
    count = f"{gallery.total:,} images" if shown < gallery.total else f"All {gallery.total:,}"
    some = f", {shown:,} shown" if shown < gallery.total else ""
    figures = "".join(_figure(p, place) for p in gallery.pictures)
    return (
        f"<section><h2>{escape(gallery.title)}</h2>"
        f'<p class="note">{count}{some}: {escape(gallery.note)}</p>'
        f'<div class="labelled">{figures}</div></section>'
    )


def _figure(picture: LabelPicture, place: Mapping[str, int]) -> str:
    lines = []
    if picture.truth is not None:
        lines.append(f"labelled {escape(picture.truth)}")
    if picture.second is not None:
        lines.append(f"or {escape(picture.second[0])} {picture.second[1]:.2f}")
    if picture.nearest:
        like = "; ".join(f"{escape(label)}: {escape(file)}" for label, file in picture.nearest)
        lines.append(f'<span title="{like}">like {escape(picture.nearest[0][1])}</span>')
    file, short = escape(picture.file), escape("/".join(Path(picture.file).parts[-2:]))
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{picture.jpeg}">'
        f'<figcaption class="c{place[picture.label] % COLOURS}"><span class="label">'
        f"{escape(picture.label)} {picture.score:.2f}</span>"
        + "".join(f"<small>{line}</small>" for line in lines)
        + f'<small title="{file}">{short}</small></figcaption></figure>'
    )
