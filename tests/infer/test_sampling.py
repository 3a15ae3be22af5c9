import numpy as np
import pytest
from pydantic import ValidationError

from semiscope.infer.sampling import Dial, Sampling, alpha_bar, noise, schedule


def test_the_cosine_schedule_has_the_published_levels():
    level = alpha_bar()
    assert level.shape == (1000,) and (np.diff(level) < 0).all()
    np.testing.assert_allclose(level[[0, 249, 499, 749]], [0.99996, 0.847, 0.494, 0.144], atol=5e-4)
    assert level[999] == pytest.approx(2.4e-9, rel=0.02)


@pytest.mark.parametrize(
    ("steps", "times"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249])]
)
def test_steps_start_from_pure_noise_in_equal_strides(steps, times):
    rows = schedule(steps)
    assert rows.shape == (steps, 6) and rows.dtype == np.float32
    assert rows[:, 0].tolist() == times


def test_signal_direction_and_new_noise_have_the_variance_of_the_next_time():
    # Song et al. 2021: b + c^2 + sigma^2 = 1, so that the next boxes are as noisy as in training
    rows = schedule(5).astype(float)
    b, c, sigma = rows[:-1, 3] ** 2, rows[:-1, 4], rows[1:, 5]
    np.testing.assert_allclose(b + c**2 + sigma**2, 1, atol=1e-6)
    assert rows[0, 5] == 0 and (sigma > 0).all()
    # the last step ends at the boxes themselves
    np.testing.assert_allclose(rows[-1, 3:5], [1, 0], atol=1e-6)


def test_a_direction_of_the_noise_that_was_added_is_found_again():
    clean, eps = 0.7, -1.3
    for row, level in zip(schedule(3), alpha_bar()[[999, 666, 332]], strict=True):
        signal = np.sqrt(level) * clean + np.sqrt(1 - level) * eps
        assert (signal * row[1] - clean) * row[2] == pytest.approx(eps, rel=1e-2)  # float32


def test_random_numbers_follow_the_seed_and_fewer_begin_more():
    many, few = noise(Sampling(boxes=50, steps=3)), noise(Sampling(boxes=20, steps=2))
    assert many.shape == (3, 2, 50, 4) and many.dtype == np.float32
    np.testing.assert_array_equal(many[:2, :, :20], few)
    assert not np.array_equal(noise(Sampling(boxes=20, steps=2, seed=1)), few)
    assert abs(noise(Sampling(boxes=2000)).std() - 1) < 0.02
    assert not np.array_equal(many[0, 0], many[0, 1])


@pytest.mark.parametrize("bad", [{"boxes": 0}, {"boxes": 100_000}, {"steps": 0}, {"seed": -1}])
def test_impossible_choices_are_refused(bad):
    for kind in (Sampling, Dial):
        with pytest.raises(ValidationError, match=next(iter(bad))):
            kind(**bad)
