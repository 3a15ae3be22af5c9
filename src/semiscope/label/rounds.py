"""What is known of each round of a labelling cycle, and the report: a curve and a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from pydantic import Field

from semiscope.config import Settings
from semiscope.errors import DataError, SettingsError
from semiscope.evaluate.plots import write_figure
from semiscope.io.files import write_atomic
from semiscope.label.cost import CostSettings

RECORD, CURVE, REPORT = "round.json", "curve.png", "report.html"

_NOISE = 0.001  # a fall of the mean IoU below that is none

_STYLE = (
    "body{font:16px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #bbb;padding:.3rem .6rem;"
    "text-align:right}th:first-child,td:first-child{text-align:left}.worse{background:#fdd}"
    "img{max-width:100%}"
)


class Round(Settings):
    """One round: what was proposed, what was corrected, and what was learned from it.

    Round 0 is the base before anything is learned.
    """

    number: int = Field(ge=0, description="Of the round")
    images: tuple[str, ...] = Field((), description="Those corrected")
    regions: int = Field(0, description="Regions in them after correction")
    changed: int = Field(0, description="Regions whose proposal was not left as it was")
    missed: int = Field(0, description="Regions without a proposal")
    before_iou: float | None = Field(None, description="Mean IoU of the proposals, by region")
    after_iou: float | None = Field(None, description="The same regions by the new model's boxes")
    manual_s: float = Field(0.0, description="Labelling by hand, under the cost model")
    assisted_s: float = Field(0.0, description="Labelling with the proposals, likewise")
    learning_s: float = Field(0.0, description="Computing: training and export")
    devices: dict[str, float | None] = Field({}, description="Mean IoU of held-out data sets")
    worse: tuple[str, ...] = Field((), description="Devices below what the base reaches")
    fell: tuple[str, ...] = Field((), description="Devices below what the round before reached")


def read_rounds(cycle: Path) -> list[Round]:
    """The finished rounds of a cycle, from the first on.

    Raises:
        DataError: A record cannot be read.
    """
    rounds: list[Round] = []
    while (path := round_folder(cycle, len(rounds)) / RECORD).is_file():
        try:
            rounds.append(Round.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: expected the record of a round, found: {error}") from None
    return rounds


def round_folder(cycle: Path, number: int) -> Path:
    """Where a round's files are."""
    return cycle / f"round-{number}"


def next_folder(cycle: Path) -> Path:
    """Where the round after the last finished one has its files.

    Raises:
        DataError: A record cannot be read.
    """
    return round_folder(cycle, max(1, len(read_rounds(cycle))))


def write_round(cycle: Path, done: Round) -> None:
    """Writes a round's record.

    Raises:
        SemiscopeError: The folder cannot be written.
    """
    text = done.model_dump_json(indent=1)
    write_atomic(round_folder(cycle, done.number) / RECORD, text + "\n")


def below(now: dict[str, float | None], then: dict[str, float | None]) -> tuple[str, ...]:
    """The devices whose mean IoU fell."""
    return tuple(
        name
        for name, value in now.items()
        if value is not None and (old := then.get(name)) is not None and value < old - _NOISE
    )


def write_report(cycle: Path, cost: CostSettings) -> Path:
    """Draws the curve and writes the page, which needs nothing else.

    Returns:
        The page.

    Raises:
        DataError: A record cannot be read.
        SettingsError: No round is finished.
        SemiscopeError: The folder cannot be written.
    """
    rounds = read_rounds(cycle)
    if not rounds:
        raise SettingsError(f"{cycle}: expected a cycle with a finished round, found none")
    _draw(rounds, cycle / CURVE)
    write_atomic(cycle / REPORT, _page(rounds, cost, (cycle / CURVE).read_bytes()))
    return cycle / REPORT


def saved(rounds: Sequence[Round]) -> float:
    """Seconds of labelling that the proposals saved, all rounds together."""
    return sum(r.manual_s - r.assisted_s for r in rounds)


def _draw(rounds: Sequence[Round], path: Path) -> None:
    # see evaluate.plots on the import
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [r.number for r in rounds]
    for name in dict.fromkeys(n for r in rounds for n in r.devices):
        heights = [r.devices.get(name) for r in rounds]
        known = [(n, h) for n, h in zip(numbers, heights, strict=True) if h is not None]
        # a dollar sign would begin a formula
        left.plot(*zip(*known, strict=True), marker="o", label=name.replace("$", r"\$"))
    proposed = [(r.number, r.before_iou) for r in rounds if r.before_iou is not None]
    if proposed:
        left.plot(*zip(*proposed, strict=True), "k--", marker=".", label="proposals")
    left.set(xlabel="round", ylabel="mean IoU", title="held-out devices, and the proposals")
    for seconds, label, style in (
        ([r.manual_s for r in rounds], "by hand", "C7-"),
        ([r.assisted_s for r in rounds], "with proposals", "C2-"),
    ):
        minutes = [sum(seconds[: i + 1]) / 60 for i in range(len(seconds))]
        right.plot(numbers, minutes, style, marker="o", label=label)
    right.set(xlabel="round", ylabel="minutes", title="labelling so far, under the cost model")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    write_figure(figure, path)


def _page(rounds: Sequence[Round], cost: CostSettings, picture: bytes) -> str:
    devices = list(dict.fromkeys(n for r in rounds for n in r.devices))
    head = ("round", "images", "regions", "changed", "missed", "IoU proposed", "IoU learned",
            "by hand, s", "with proposals, s", "computing, s")  # fmt: skip
    rows = [
        _row(
            [
                *(str(v) for v in (r.number, len(r.images), r.regions, r.changed, r.missed)),
                *(_number(v) for v in (r.before_iou, r.after_iou)),
                *(f"{v:.0f}" for v in (r.manual_s, r.assisted_s, r.learning_s)),
            ]
        )
        for r in rounds
    ]
    cells = [
        "".join(
            f'<td class="{"worse" if d in r.worse else ""}">{_number(r.devices.get(d))}</td>'
            for r in rounds
        )
        for d in devices
    ]
    worse = rounds[-1].worse
    flagged = (
        f"Worse than the base on {len(worse)} of {len(devices)} devices: "
        f"{escape(', '.join(worse))}. Look at their proposals before they are used."
        if worse
        else f"None of {len(devices)} devices is worse than the base."
    )
    model = ", ".join(f"{k} {v:g}" for k, v in cost.model_dump().items())
    image = base64.b64encode(picture).decode()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Labelling cycle</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><style>{_STYLE}</style></head><body>"
        f"<h1>Labelling cycle</h1><p>{saved(rounds):.0f} s of labelling saved in "
        f"{rounds[-1].number} round{'s' * (len(rounds) != 2)}, under the cost model: {model}. "
        f"{flagged}</p>"
        f'<img alt="Mean IoU and labelling time by round" src="data:image/png;base64,{image}">'
        f"<h2>Rounds</h2><table>{_row(head, 'th')}{''.join(rows)}</table>"
        f"<h2>Mean IoU by device</h2><table>{_row(['device', *(r.number for r in rounds)], 'th')}"
        + "".join(f"<tr><td>{escape(d)}</td>{c}</tr>" for d, c in zip(devices, cells, strict=True))
        + "</table></body></html>\n"
    )


def _row(values: Sequence[Any], cell: str = "td") -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(str(v))}</{cell}>" for v in values) + "</tr>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
