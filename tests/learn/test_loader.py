import numpy as np
import pytest

from semiscope.errors import DataError, ImageError
from semiscope.learn.loader import Batches, Loader


class Numbers:
    def __init__(self, count, weights=None):
        self.count, self.chances = count, weights

    def __len__(self):
        return self.count

    def weights(self):
        return np.array(self.chances, np.float64)

    def example(self, index, rng):
        return index, float(rng.random())

    def collate(self, views):
        return views


def epoch(batches, number, start=0):
    batches.epoch, batches.start = number, start
    return list(batches)


def test_an_epoch_meets_every_example_once_in_another_order_each_time():
    batches = Batches(Numbers(12), 4, 0, balanced=False)
    first, second = epoch(batches, 0), epoch(batches, 1)
    assert len(batches) == len(first) == 3
    for steps in (first, second):
        assert sorted(d.sample for s in steps for d in s) == list(range(12))
    assert first != second and first == epoch(batches, 0)


def test_a_start_in_the_middle_gives_the_rest():
    batches = Batches(Numbers(12), 4, 0, balanced=False)
    assert epoch(batches, 3, start=1) == epoch(batches, 3)[1:]


def test_processes_share_an_epoch_without_overlap():
    parts = [Batches(Numbers(12), 3, 0, False, process, 2) for process in (0, 1)]
    seen = [d.sample for b in parts for step in epoch(b, 0) for d in step]
    assert sorted(seen) == list(range(12))
    assert len({d.position for b in parts for step in epoch(b, 0) for d in step}) == 12


def test_fewer_examples_than_a_batch_still_make_one():
    (step,) = epoch(Batches(Numbers(3), 8, 0, balanced=False), 0)
    assert len(step) == 8 and {d.sample for d in step} == {0, 1, 2}


def test_balanced_sampling_follows_the_weights():
    numbers = Numbers(2000, [1.0] * 1000 + [3.0] * 1000)
    drawn = [d.sample for e in range(3) for s in epoch(Batches(numbers, 50, e, True), e) for d in s]
    assert np.mean(np.array(drawn) >= 1000) == pytest.approx(0.75, abs=0.02)


def test_views_depend_on_seed_epoch_and_position_alone():
    def views(seed, start=0):
        batches = Batches(Numbers(8), 2, seed, balanced=False)
        batches.start = start
        return list(Loader(Numbers(8), batches, seed, 0))

    assert views(1)[2:] == views(1, start=2)
    assert views(1) != views(2)


class Refused(Numbers):
    def example(self, index, rng):
        raise ImageError("a.png", "is no image") if index else DataError("expected b")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "count, error, text", [(2, ImageError, "a.png: is no"), (1, DataError, "expected b")]
)
def test_what_is_raised_on_purpose_arrives_as_it_was(workers, count, error, text):
    examples = Refused(count)
    loader = Loader(examples, Batches(examples, 1, 3, balanced=False), 3, workers)
    with pytest.raises(error, match=f"^{text}") as found:
        list(loader)
    assert "Traceback" not in str(found.value)
