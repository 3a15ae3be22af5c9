import math

import numpy as np
import pytest

from semiscope.data.perturbation import chained, displaced, follow, source_index
from semiscope.data.tem_noise import FAMILIES, INSTRUMENT, POST, SAMPLE, perturb
from semiscope.data.tem_noise_instrument import DarkCurrent, Defocus, Drift, Gain, ShotNoise
from semiscope.data.tem_noise_sample import Bending, Contamination, Curtaining, ThicknessGradient
from semiscope.errors import SettingsError

MEMBERS = {**SAMPLE, **INSTRUMENT, **POST}


def scene(height=96, width=128):
    """Layers and discs of several grey values, neither black nor white."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = 0.3 + 0.4 * (y // 24 % 2) + 0.1 * np.sin(x / 9)
    pixels[np.hypot(x % 40 - 20, y % 30 - 15) < 6] = 0.15
    return pixels.astype(np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_issue_names_these():
    assert {"contamination", "curtaining", "thickness_gradient", "bending"} <= set(SAMPLE)
    assert {"dark_current", "gain", "shot_noise", "drift", "defocus"} <= set(INSTRUMENT)
    assert {"overlay", "contrast_stretch", "jpeg"} <= set(POST)
    assert list(FAMILIES) == ["sample", "instrument", "post"]


@pytest.mark.parametrize("name", MEMBERS)
def test_strength_goes_from_nothing_to_much(name):
    pixels = scene()
    before = pixels.copy()
    change = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        off = []
        for seed in range(8):
            seen, displacement = MEMBERS[name](pixels, rng(seed), strength)
            assert seen.dtype == np.float32 and seen.shape == pixels.shape
            assert seen.min() >= 0 and seen.max() <= 1
            assert seen is not pixels
            off.append(np.sqrt(np.mean((seen - pixels) ** 2)))
            assert (displacement is not None) == (name in ("bending", "drift"))
            if displacement is not None:
                assert displacement.dtype == np.float32 and displacement.shape == (2, 96, 128)
        change.append(np.mean(off))
    np.testing.assert_array_equal(pixels, before)
    assert change[0] < 1e-6
    assert change[0] < change[1] < change[2] < change[3]
    assert change[3] > 0.01


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize(
    "pixels",
    [np.zeros((40, 30), np.float32), np.ones((30, 40), np.float32), scene(1, 1), scene(5, 200)],
    ids=["black", "white", "one pixel", "a strip"],
)
def test_odd_images_stay_images(name, pixels):
    for seed in range(4):
        seen, _ = MEMBERS[name](pixels, rng(seed), 1.0)
        assert seen.shape == pixels.shape
        assert np.isfinite(seen).all() and seen.min() >= 0 and seen.max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_generator_gives_the_same_view(family):
    first, moved = perturb(scene(), family, rng(3), 0.8)
    again, moved_again = perturb(scene(), family, rng(3), 0.8)
    np.testing.assert_array_equal(first, again)
    assert (moved is None) == (moved_again is None)
    assert not np.array_equal(first, perturb(scene(), family, rng(4), 0.8)[0])


def test_a_family_nearly_always_changes_something_and_never_at_strength_0():
    for family in FAMILIES:
        for seed in range(20):
            assert np.abs(perturb(scene(), family, rng(seed), 1.0)[0] - scene()).max() > 0.01
            still = perturb(scene(), family, rng(seed), 0.0)[0]
            np.testing.assert_allclose(still, scene(), atol=1e-6)


@pytest.mark.parametrize(("family", "strength"), [("noise", 1), ("post", 1.2), ("post", -0.1)])
def test_unknown_family_or_strength(family, strength):
    with pytest.raises(SettingsError, match="sample, instrument, post"):
        perturb(scene(), family, rng(), strength)


@pytest.mark.parametrize("member", [Bending(depth=0, shift_px=9), Drift(blur_px=0.01, shift_px=30)])
def test_a_class_map_follows_its_pixels(member):
    """Grey values are the classes themselves: pixels and map must show the same afterwards."""
    classes = (np.add.outer(np.arange(96) // 17, np.arange(128) // 23) % 4).astype(np.int64)
    for seed in range(5):
        pixels, displacement = member(classes.astype(np.float32) / 4, rng(seed), 1.0)
        moved = follow(classes, displacement)
        assert np.abs(displacement).max() > 1
        assert moved.dtype == np.int64
        # linear interpolation mixes greys at the borders between classes
        assert np.mean(np.rint(pixels * 4) == moved) > 0.93
        assert np.mean(np.rint(pixels * 4) == classes) < 0.85


def test_follow_takes_the_named_pixel_and_mirrors_at_the_border():
    plane = np.arange(12).reshape(3, 4)
    right = np.zeros((2, 3, 4), np.float32)
    right[0] = 1
    assert follow(plane, right).tolist() == [[1, 2, 3, 2], [5, 6, 7, 6], [9, 10, 11, 10]]
    up = np.zeros((2, 3, 4), np.float32)
    up[1] = -2
    assert follow(plane, up)[:, 0].tolist() == [8, 4, 0]
    np.testing.assert_array_equal(
        displaced(plane.astype(np.float32), right + up), follow(plane, right + up)
    )
    assert source_index(10 * right).min() >= 0 and source_index(-10 * right).max() < 12
    assert follow(plane, None) is plane


def test_movements_are_chained_in_their_order():
    """Slowly changing displacements: moving twice is moving once by the chain."""
    y, x = np.mgrid[0:60, 0:80].astype(np.float32)
    pixels = np.sin(x / 15) * np.cos(y / 12)
    first = np.stack([3 * np.sin(y / 20), 2 * np.cos(x / 25)])
    second = np.stack([-2 * np.cos(y / 30), 4 * np.sin(x / 30)])
    twice = displaced(displaced(pixels, first), second)
    once = displaced(pixels, chained(first, second))
    inner = (slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(once[inner], twice[inner], atol=0.01)
    assert np.abs(displaced(pixels, first + second) - twice)[inner].max() > 0.01


@pytest.mark.parametrize(("electrons", "strength"), [(20, 1.0), (100, 1.0), (20, 0.5)])
def test_shot_noise_has_the_variance_of_counted_electrons(electrons, strength):
    """n counted electrons deviate by sqrt(n): at grey g the variance is g / electrons."""
    member = ShotNoise(electrons=electrons, spread_px=0)
    for grey in (0.3, 0.5):
        seen, _ = member(np.full((200, 200), grey, np.float32), rng(), strength)
        # few lie beyond black and white, where they are clipped
        assert seen.var() == pytest.approx(strength**2 * grey / electrons, rel=0.06)
        assert seen.mean() == pytest.approx(grey, abs=0.01)


def test_thickness_darkens_by_beer_and_lambert():
    """Where a lamella is t times as thick, exp(-depth) becomes exp(-t depth)."""
    bright, dark = (
        ThicknessGradient()(np.full((64, 64), grey, np.float32), rng(1), 1.0)[0]
        for grey in (0.5, 0.25)
    )
    thickness = np.log2(bright / dark)
    assert thickness.max() - thickness.min() > 0.3
    # white has an optical depth of 0.5
    expected = np.exp(0.5 - thickness * (0.5 + math.log(2)))
    np.testing.assert_allclose(bright, expected, rtol=1e-4)


def test_curtains_run_down_the_image():
    pixels = np.full((200, 200), 0.5, np.float32)
    seen, _ = Curtaining(tilt_deg=0)(pixels, rng(2), 1.0)
    lower = seen[150:]
    assert lower.std(axis=1).mean() > 20 * lower.std(axis=0).mean()


def test_contamination_only_darkens_and_leaves_most_alone():
    pixels = scene(300, 300)
    share = []
    for seed in range(10):
        seen, _ = Contamination()(pixels, rng(seed), 1.0)
        assert (seen <= pixels + 1e-6).all()
        share.append(np.mean(seen < 0.98 * pixels))
    assert 0.005 < np.mean(share) < 0.3


def test_a_crop_is_as_contaminated_as_an_image():
    share = {}
    for side in (128, 512, 1024):
        grey = np.full((side, side), 0.5, np.float32)
        seen = [Contamination()(grey, rng(seed), 1.0)[0] for seed in range(1024 // side * 4)]
        share[side] = np.mean([np.mean(s < 0.49) for s in seen])
    assert share[1024] == pytest.approx(share[512], rel=0.5)
    assert share[128] < 3 * share[512]  # there is one blot at least


def test_defocus_blurs_an_edge_and_puts_fringes_beside_it():
    edge = np.full((40, 60), 0.3, np.float32)
    edge[:, 30:] = 0.6
    overshoot = []
    for seed in range(20):
        seen, _ = Defocus()(edge, rng(seed), 1.0)
        assert np.abs(np.diff(seen[20])).max() < 0.25
        overshoot.append(seen[20].max() - 0.6)
    assert min(overshoot) < 0.001 and max(overshoot) > 0.01


def test_gain_multiplies_and_dark_current_adds():
    black = np.zeros((64, 64), np.float32)
    assert Gain()(black, rng(), 1.0)[0].max() == 0
    seen, _ = DarkCurrent(hot=0.01, pattern=0)(black, rng(), 1.0)
    assert 0.03 <= np.median(seen) <= 0.15
    assert np.mean(seen == 1) == pytest.approx(0.01, abs=0.005)


def test_overlay_burns_in_a_bar_and_leaves_the_rest():
    pixels = scene(256, 256)
    for seed in range(10):
        seen, _ = POST["overlay"](pixels, rng(seed), 1.0)
        assert 0.003 < np.mean(seen != pixels) < 0.25
        # the longest run of pure ink in a row: 0.12 to 0.4 of the width, and a box around it
        ink = np.pad(np.isin(seen, (0, 1)), ((0, 0), (1, 1)))
        ends = np.flatnonzero(np.diff(ink.astype(int).reshape(-1)))
        assert 30 <= np.diff(ends)[::2].max() <= 160
