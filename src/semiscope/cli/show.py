"""What the verbs print: figures on standard output, all else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = Annotated[
    bool, Parameter(name="--json", help="Print one JSON object on standard output.", negative="")
]


@contextmanager
def image_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with images a second; told how many are done and how many there are."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(what, total=None, speed="")

        def tell(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            text = f"{speed:.1f} images/s" if speed else ""
            bar.update(task, completed=done, total=total, speed=text)

        yield tell


@contextmanager
def training_bar() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A progress bar with the losses and the time left; a line an epoch where none can be drawn."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("training", total=None, figures="")

        def tell(done: int, total: int, figures: dict[str, float]) -> None:
            text = " ".join(f"{name} {value:.3g}" for name, value in figures.items())
            bar.update(task, completed=done, total=total, figures=text)
            if not stderr.is_terminal and figures and done % max(1, total // 100) == 0:
                stderr.print(f"step {done}/{total} {text}", markup=False)

        yield tell


def print_failed(failed: Iterable[tuple[str, str]]) -> None:
    """A line for each file that could not be read."""
    for file, reason in failed:
        stderr.print(f"failed: {file}: {reason}", markup=False)


def can_plot() -> bool:
    """Whether plots can be drawn; when not, it says what to install."""
    found = find_spec("matplotlib") is not None
    if not found:
        stderr.print("warning: no plot is drawn: pip install 'semiscope[plots]'", markup=False)
    return found


def print_kept(model: Path, kept: bool, plot: Path | None) -> None:
    """Whether a model file was changed, and where the plot is, if it was drawn."""
    where = f"written into {model}" if kept else f"not written: {model.stem} is shipped"
    stdout.print(where + (f"; plot: {plot}" if plot else ""), markup=False)


def print_json(figures: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(figures, ensure_ascii=False) + "\n")


def print_figures(figures: dict[str, Any]) -> None:
    """A line for each name and value."""
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, dict | list | tuple):
            value = json.dumps(value, ensure_ascii=False)
        stdout.print(f"{name:>{width}}  {value}", markup=False)


def figure(value: float | None) -> str:
    """Three decimals, or a dash for what is not defined."""
    return "-" if value is None else f"{value:.3f}"
