import subprocess
import sys
import time

import pytest

from semiscope.evaluate.speed import Speed, peak_memory_mb, rates, steady_rates


def test_rates_of_works_done_in_turn():
    order = []

    def work(name, images, seconds):
        def once():
            order.append(name)
            time.sleep(seconds)
            return images

        return once

    fast, slow = rates([work("fast", 10, 0.02), work("slow", 10, 0.08)], 2)
    assert order == ["fast", "slow", "fast", "slow"]
    # sleeping takes at least its time, more on a busy machine
    assert all(f <= 500 for f in fast) and all(s <= 125 for s in slow)


def test_steady_rates_are_warm_and_wait_for_the_device():
    done, queue = [], []

    def give(name, images):
        def once():
            queue.append(name)  # returns at once; the device works later
            return images

        return once

    def synchronise():
        time.sleep(0.01 * len(queue))
        done.extend(queue)
        queue.clear()

    one, four = steady_rates(
        [give("one", 1), give("four", 4)],
        warm_up=2,
        iterations=3,
        turns=2,
        synchronise=synchronise,
    )
    assert done == ["one"] * 2 + ["four"] * 2 + (["one"] * 3 + ["four"] * 3) * 2
    assert queue == []
    # three iterations of the device take 30 ms at least
    assert len(one) == len(four) == 2
    assert all(rate <= 100 for rate in one) and all(rate <= 400 for rate in four)
    assert all(rate > 0 for rate in one + four)


def test_ratio_pairs_the_repetitions():
    speed = Speed(10, 10, 1, 2, (10.0, 100.0, 50.0), (8.0, 80.0, 20.0), 300.0)
    assert speed.ratio == pytest.approx(0.8)
    told = speed.to_dict()
    assert told["engine_images_per_second"] == 50 and told["end_to_end_images_per_second"] == 20
    assert told["ratio"] == pytest.approx(0.8) and told["peak_memory_mb"] == 300


def test_peak_memory_remembers_what_was_freed():
    if peak_memory_mb() is None:
        pytest.skip("the system does not tell the peak")
    # in a process of its own, for what other tests took is remembered as well
    code = (
        "from semiscope.evaluate.speed import peak_memory_mb\n"
        "before = peak_memory_mb()\n"
        "block = bytearray(b'x') * 150_000_000\n"
        "del block\n"
        "print(peak_memory_mb() - before)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) >= 50
