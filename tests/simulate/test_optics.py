from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from semiscope.simulate import optics as sem

PLAIN = sem.Optics(
    beam=0.0,
    astigmatism=1.0,
    electrons=100.0,
    detector_blur=0.0,
    drift=(0.0, 0.0),
    jitter=0.0,
    vibration=0.0,
    charging=0.0,
    streaks=0.0,
    vignetting=0.0,
    unevenness=0.0,
    brightness=0.5,
    contrast=0.1,
    bits=16,
)


def halves(size: int = 200) -> np.ndarray:
    """Dark on the left, bright on the right: mean 0.5, deviation 0.1 after scaling."""
    signal = np.zeros((size, size), np.float32)
    signal[:, size // 2 :] = 1
    return signal


@pytest.mark.parametrize("electrons", [10.0, 30.0, 100.0, 400.0])
def test_noise_has_the_variance_of_counted_electrons(electrons: float) -> None:
    """Both the exact counts and the normal approximation: variance = mean, in electrons."""
    optics = dataclasses.replace(PLAIN, electrons=electrons)
    pixels = sem.detect(np.random.default_rng(1), halves(), optics)
    counts = pixels / 65535 / 0.5 * electrons
    for part, level in ((counts[:, :90], 0.4), (counts[:, 110:], 0.6)):
        if level * (1 + 3 / np.sqrt(electrons)) < 1:
            assert part.mean() == pytest.approx(level / 0.5 * electrons, rel=0.02)
            assert part.var() == pytest.approx(level / 0.5 * electrons, rel=0.05)


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 16])
def test_levels_are_those_of_the_detector_spread_over_16_bits(bits: int) -> None:
    pixels = sem.detect(np.random.default_rng(1), halves(), dataclasses.replace(PLAIN, bits=bits))
    step = 65535 / (2**bits - 1)
    assert pixels.dtype == np.uint16
    np.testing.assert_allclose(pixels / step, np.rint(pixels / step), atol=0.5 / step)
    assert len(np.unique(pixels)) <= 2**bits


def test_blur_is_the_beam_and_is_stretched_along_the_scan() -> None:
    point = np.zeros((101, 101), np.float32)
    point[50, 50] = 1
    seen = sem.blur(point, dataclasses.replace(PLAIN, beam=3.0, astigmatism=1.44))
    offset = np.arange(101) - 50
    assert seen.sum() == pytest.approx(1, abs=1e-3)
    assert np.sqrt((seen.sum(axis=0) * offset**2).sum()) == pytest.approx(3 * 1.2, rel=0.02)
    assert np.sqrt((seen.sum(axis=1) * offset**2).sum()) == pytest.approx(3 / 1.2, rel=0.02)


def test_scan_moves_each_row_by_its_shift() -> None:
    x, y = (g.astype(np.float32) for g in np.meshgrid(np.arange(120), np.arange(70)))
    optics = dataclasses.replace(PLAIN, drift=(2.0, -1.5), jitter=0.3, vibration=0.5)
    shifts = sem.scan_shifts(np.random.default_rng(2), optics, 50)
    # OpenCV interpolates at 1/32 of a pixel
    seen = sem.scan(x, shifts, 10, 100, smooth=False)
    assert np.abs(seen - (np.arange(100) + 10 + shifts[0][:, None])).max() <= 1 / 32
    seen = sem.scan(y, shifts, 10, 100, smooth=False)
    assert np.abs(seen - (np.arange(50) + 10 + shifts[1])[:, None]).max() <= 1 / 32
    assert shifts[1][-1] - shifts[1][0] == pytest.approx(-1.5, abs=0.01)
    assert np.abs(shifts[0]).max() <= sem.DISTORTION_LIMIT_PX


def test_material_has_its_levels_and_a_bright_edge() -> None:
    material = sem.Material(0.6, 0.2, 0.5, 3.0, 1.5, 0.05)
    d = np.linspace(-60, 60, 2401, dtype=np.float32)
    signal = material.signal(d)
    assert signal[0] == pytest.approx(0.2, abs=1e-3)
    assert signal[-1] == pytest.approx(0.6, abs=1e-3)
    assert abs(d[np.argmax(signal)]) < 1.0
    assert 0.9 < signal.max() < 1.1


def test_area_under_an_edge_is_exact() -> None:
    """A pixel's signal is the mean over its width, so lines of any sub-pixel place sum alike."""
    material = sem.Material(1.0, 0.0, 0.0, 1.0, 1.0, 0.0)
    x = np.arange(100, dtype=np.float32) + 0.5
    for left in np.linspace(40, 41, 9):
        line = material.signal(np.minimum(x - left, left + 17.3 - x).astype(np.float32))
        assert line.sum() == pytest.approx(17.3, abs=0.05)


def test_charging_darkens_what_follows_bright_structure() -> None:
    signal = np.zeros((64, 256), np.float32)
    signal[:, 100:120] = 1
    optics = dataclasses.replace(PLAIN, electrons=1e7, charging=0.1)
    row = sem.detect(np.random.default_rng(3), signal, optics).astype(float).mean(axis=0)
    assert row[122:135].mean() < row[80:95].mean() - 100


def test_vignetting_darkens_the_corners() -> None:
    flat = np.ones((128, 128), np.float32)
    optics = dataclasses.replace(PLAIN, electrons=1e7, vignetting=0.3)
    seen = sem.detect(np.random.default_rng(4), flat, optics).astype(float)
    corners = [seen[0, 0], seen[0, -1], seen[-1, 0], seen[-1, -1]]
    assert max(corners) < seen.max()
    assert min(corners) < 0.9 * seen.max()
