"""Cores, shared out among images that are worked on side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
from threadpoolctl import threadpool_limits


def plan_threads(jobs: int, threads: int | None) -> tuple[int, int]:
    """How many jobs run at once, and how many cores each uses.

    One core a job wastes none on waiting for the others; only a run of few jobs shares several
    cores a job.

    Args:
        jobs: Images or batches in the whole run.
        threads: Cores to use, or None for all that this process may use.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = threads or usable or 1
    workers = max(1, min(cores, jobs))
    return workers, cores // workers


@contextmanager
def worker_pool(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; what is still waiting when it is left is not begun.

    While it is open neither OpenCV nor numpy starts threads of its own: they would only fight for
    the cores that the workers fill.

    Args:
        workers: Threads.
        name: Of each, before its number.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1, "blas"):
            pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        cv2.setNumThreads(before)
