from __future__ import annotations

import numpy as np
import pytest

from semiscope.simulate.line_space import Roughness, draw_lines
from semiscope.simulate.roughness import edge_spectrum, rough_edges

ROWS = 512


def test_deviation_is_the_one_asked_for() -> None:
    edges = rough_edges(np.random.default_rng(1), 800, ROWS, 1.7, 12.0, 0.6)
    assert edges.shape == (800, ROWS)
    assert edges.dtype == np.float32
    assert edges.std() == pytest.approx(1.7, rel=0.02)
    assert abs(edges.mean()) < 0.05


@pytest.mark.parametrize(("xi", "alpha"), [(8.0, 0.5), (20.0, 0.8)])
def test_correlation_length_and_exponent_are_recovered(xi: float, alpha: float) -> None:
    """By maximum likelihood on the periodogram (Whittle)."""
    edges = rough_edges(np.random.default_rng(2), 600, 1024, 1.0, xi, alpha).astype(float)
    window = np.hanning(1024)
    power = np.mean(np.abs(np.fft.rfft(edges * window, axis=1)) ** 2, axis=0)[2:400]
    frequency = np.fft.rfftfreq(1024)[2:400]
    best = min(
        (np.sum(np.log(model * np.mean(power / model)) + 1), x, a)
        for x in np.linspace(0.6 * xi, 1.5 * xi, 46)
        for a in np.linspace(0.3, 1.0, 36)
        for model in [edge_spectrum(frequency, x, a)]
    )
    assert best[1] == pytest.approx(xi, rel=0.1)
    assert best[2] == pytest.approx(alpha, abs=0.06)


def test_autocorrelation_falls_to_1_over_e_at_xi_for_exponent_one_half() -> None:
    """For alpha 1/2 the spectrum is a Lorentzian, whose autocorrelation is exp(-x / xi)."""
    xi = 20
    edges = rough_edges(np.random.default_rng(3), 3000, ROWS, 1.0, xi, 0.5)
    correlation = np.mean(edges[:, :-xi] * edges[:, xi:])
    assert correlation == pytest.approx(np.exp(-1), abs=0.03)


@pytest.mark.parametrize("tie", [0.0, 0.5, 1.0])
def test_edges_of_a_line_correlate_as_asked(tie: float) -> None:
    lines = draw_lines(
        np.random.default_rng(4), 400, 4000, 20, 10, 0.0, 0.0, Roughness(1.0, 5.0, 0.5, tie)
    )
    left = lines.left - lines.left.mean(axis=1, keepdims=True)
    right = lines.right - lines.right.mean(axis=1, keepdims=True)
    assert np.mean(left * right) / (left.std() * right.std()) == pytest.approx(tie, abs=0.03)


def test_tilted_lines_keep_their_perpendicular_width_and_pitch() -> None:
    lines = draw_lines(
        np.random.default_rng(5), 100, 100, 20, 8, 10.0, 0.0, Roughness(0.0, 5.0, 0.5, 0.0)
    )
    cos = np.cos(np.radians(10))
    np.testing.assert_allclose((lines.right - lines.left) * cos, 8, atol=1e-4)
    np.testing.assert_allclose(np.diff(lines.left, axis=0) * cos, 20, atol=1e-4)
    np.testing.assert_allclose(np.diff(lines.left, axis=1), np.tan(np.radians(10)), atol=1e-4)
