import time
from threading import Event

import cv2
import pytest

from semiscope.workers import plan_threads, worker_pool


@pytest.mark.parametrize(
    "jobs, threads, plan", [(100, 4, (4, 1)), (2, 8, (2, 4)), (1, 3, (1, 3)), (0, 2, (1, 2))]
)
def test_cores_are_shared_out(jobs, threads, plan):
    assert plan_threads(jobs, threads) == plan


def test_threads_of_opencv_come_back_and_what_waits_is_not_begun():
    before = cv2.getNumThreads()
    with pytest.raises(RuntimeError, match="stop"):
        with worker_pool(1, "test") as pool:
            assert pool.submit(cv2.getNumThreads).result() == 1
            begun = Event()
            running = pool.submit(lambda: (begun.set(), time.sleep(0.3)))
            waiting = pool.submit(time.sleep, 0)
            begun.wait()
            raise RuntimeError("stop")
    assert running.done() and not running.cancelled() and waiting.cancelled()
    assert cv2.getNumThreads() == before
