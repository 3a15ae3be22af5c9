"""The progress bar of an inspection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from semiscope.inspection.pipeline import Progress as Report


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


@contextmanager
def progress_bar(shown: bool | None = None) -> Iterator[Report]:
    """A bar on standard error with images per second and the time left.

    Args:
        shown: Whether it is drawn; by default when standard error is a terminal.

    Yields:
        What ``inspect`` takes as ``progress``.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("inspecting"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    hidden = not (console.is_terminal if shown is None else shown)
    with Progress(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update
