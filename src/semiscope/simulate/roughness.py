"""Rough line edges from a power spectrum.

G. Palasantzas, "Roughness spectrum and surface width of self-affine fractal surfaces via the
K-correlation model", Phys. Rev. B 48, 14472 (1993), in its form for one dimension.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def edge_spectrum(
    frequency: NDArray[np.floating], correlation_length: float, exponent: float
) -> NDArray[np.float64]:
    """Shape of the power spectral density, 1 at frequency 0.

    PSD(f) ~ 1 / (1 + (2 pi f xi)^2)^(alpha + 1/2)

    Args:
        frequency: In cycles a pixel.
        correlation_length: xi in pixels.
        exponent: Roughness exponent alpha, 0 to 1.

    Returns:
        The same shape as the frequencies.
    """
    knee = (2 * np.pi * frequency * correlation_length) ** 2
    return np.asarray((1.0 + knee) ** -(exponent + 0.5))


def rough_edges(
    rng: np.random.Generator,
    count: int,
    length: int,
    sigma: float,
    correlation_length: float,
    exponent: float,
) -> NDArray[np.float32]:
    """Independent edges that wander about zero.

    They are drawn in the frequency domain on twice the length, so that the two ends of what is
    returned do not know of each other. sigma is the deviation of an edge of endless length, sampled
    once a pixel; a short edge deviates less about its own mean.

    Args:
        rng: Source of chance.
        count: Number of edges.
        length: Samples an edge, one a pixel.
        sigma: Standard deviation in pixels.
        correlation_length: xi in pixels.
        exponent: Roughness exponent alpha.

    Returns:
        (count, length) float32, displacement in pixels.
    """
    n = 1 << int(np.ceil(np.log2(2 * length)))
    power = edge_spectrum(np.fft.rfftfreq(n), correlation_length, exponent)
    both_sides = (2 * power.sum() - power[0] - power[-1]) / n
    amplitude = (sigma * np.sqrt(n * power / both_sides)).astype(np.float32)
    part = rng.standard_normal((2, count, n // 2 + 1), dtype=np.float32)
    spectrum = (part[0] + 1j * part[1]) * (amplitude * np.float32(np.sqrt(0.5)))
    for end in (0, -1):
        # the terms at zero and at the Nyquist frequency have no mirror image: they are real
        spectrum[:, end] = part[0][:, end] * amplitude[end]
    return np.fft.irfft(spectrum, n, axis=1)[:, :length].astype(np.float32)
