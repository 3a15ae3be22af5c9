"""How much of the bare engine's speed a whole program keeps, and how much memory it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

Work = Callable[[], int]
"""Does its work once and returns how many images that was."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured, in one run.

    Attributes:
        images: In the data.
        inputs: Of the network that these images make; more than images where large ones are tiled.
        batch: Inputs an inference.
        threads: Cores used.
        engine: Images per second of the engine alone on tensors in memory, one entry a repetition.
        end_to_end: Images per second from files to report, likewise.
        peak_memory_mb: Largest resident memory of a process that does the same once, MB (10^6
            bytes); None where the system does not tell.
    """

    images: int
    inputs: int
    batch: int
    threads: int
    engine: tuple[float, ...]
    end_to_end: tuple[float, ...]
    peak_memory_mb: float | None

    @property
    def ratio(self) -> float:
        """End to end over engine: the median of the repetitions' own ratios.

        The two are measured one right after the other, so what else the machine does cancels.
        """
        return median(e / b for e, b in zip(self.end_to_end, self.engine, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, for ``--json``."""
        return {
            **asdict(self),
            "engine_images_per_second": median(self.engine),
            "end_to_end_images_per_second": median(self.end_to_end),
            "ratio": self.ratio,
        }


def rates(works: Sequence[Work], repetitions: int) -> list[list[float]]:
    """Images per second of several works done in turn, again and again.

    Args:
        works: What to time.
        repetitions: How often each is done.

    Returns:
        For each work, a rate a repetition.
    """
    measured: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions):
        for work, results in zip(works, measured, strict=True):
            started = time.perf_counter()
            images = work()
            results.append(images / (time.perf_counter() - started))
    return measured


def steady_rates(
    works: Sequence[Work],
    *,
    warm_up: int,
    iterations: int,
    turns: int,
    synchronise: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Images per second of works that are warm, and whose device has really ended them.

    The protocol of Wong 2023, 3.3.2.2.5 (there 1000 iterations to warm up and 1000 that count, the
    time taken from before the first until the device has ended the last), done in turns, so that
    what else the machine does falls on all works alike.

    Args:
        works: What to time.
        warm_up: Iterations of each work that do not count.
        iterations: Iterations of each work in a turn.
        turns: How often each work has its turn.
        synchronise: Returns when the device has ended its work, which on a GPU goes on after the
            call that gave it.

    Returns:
        For each work, a rate a turn.
    """

    def block(work: Work, times: int) -> Work:
        def run() -> int:
            images = sum(work() for _ in range(times))
            synchronise()
            return images

        return run

    for work in works:
        block(work, warm_up)()
    return rates([block(work, iterations) for work in works], turns)


def peak_memory_mb() -> float | None:
    """The largest resident memory that this process ever had, MB; None where there is no /proc.

    ``getrusage`` would also count the process that started this one.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    line = next((s for s in status.splitlines() if s.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024 / 1e6
