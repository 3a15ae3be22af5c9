"""What a scanning electron microscope adds to a specimen: edge bloom, blur, distortion, noise.

The order is the instrument's: secondary electrons leave the specimen (more of them at edges), the
beam has a size, the scan goes astray, the specimen charges along the scan, electrons are counted,
and the detector's signal is digitised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from semiscope.config import Settings
from semiscope.simulate.line_space import FloatArray


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not (np.isfinite(value).all() and value[0] <= value[1]):
        raise ValueError(f"expected the lower and the upper end of a range, found {value}")
    return value


def _not_negative(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] < 0:
        raise ValueError(f"expected a range from 0 or more, found {value}")
    return value


def _above_zero(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] <= 0:
        raise ValueError(f"expected a range above 0, found {value}")
    return value


Span = Annotated[tuple[float, float], AfterValidator(_rising)]
Range = Annotated[Span, AfterValidator(_not_negative)]
AboveZero = Annotated[Span, AfterValidator(_above_zero)]

LUT_STEP = 1 / 16
EXACT_POISSON_BELOW = 40.0
DISTORTION_LIMIT_PX = 7.0
NO_BLUR_PX = 0.1


class OpticsSettings(Settings):
    """What the instrument does; a range is drawn from evenly, once an image."""

    beam_nm: Range = Field((1.2, 4.0), description="Beam blur, standard deviation, nm.")
    astigmatism: AboveZero = Field(
        (0.8, 1.25), description="Blur along the scan over blur across it."
    )
    electrons: AboveZero = Field(
        (30.0, 1500.0),
        description="Mean electrons counted a pixel (drawn evenly in its logarithm).",
    )
    detector_blur_px: Range = Field(
        (0.0, 1.0), description="Blur of the noise along the scan by the detector's bandwidth, px."
    )
    bloom_inner_nm: AboveZero = Field(
        (2.0, 6.0), description="Width of the bright edge on the line, nm."
    )
    bloom_outer_nm: AboveZero = Field(
        (1.0, 2.5), description="Width of the bright edge outside it, nm."
    )
    drift_px: Range = Field((0.0, 2.0), description="Drift over the image in each direction, px.")
    jitter_px: Range = Field((0.0, 0.3), description="Row to row scan jitter, deviation, px.")
    vibration_px: Range = Field((0.0, 0.6), description="Amplitude of a sine along the rows, px.")
    charging: Range = Field((0.0, 0.12), description="Strength of dark tails along the scan.")
    streaks: Range = Field((0.0, 0.02), description="Brightness of whole rows, deviation.")
    vignetting: Range = Field((0.0, 0.15), description="Fall of brightness towards the corners.")
    unevenness: Range = Field(
        (0.0, 0.03), description="Slow changes of brightness by charge, deviation."
    )
    brightness: AboveZero = Field((0.32, 0.55), description="Mean grey level, 0 to 1.")
    contrast: AboveZero = Field(
        (0.08, 0.3), description="Standard deviation of the noise-free grey."
    )
    edge_bloom: Range = Field(
        (0.2, 0.6), description="Height of a resist edge over line and space; etched, half of it."
    )
    bits: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        (8, 8, 10, 12, 16),
        description="Detector bit depths to choose from; files are 16 bit.",
        min_length=1,
    )


@dataclass(frozen=True, slots=True)
class Material:
    """Signal of a line and a space, and of the edge between; any unit.

    Attributes:
        line: Level on top of a line.
        space: Level at the bottom of a space.
        bloom: Height of the bright edge above both.
        inner_px: Decay of the edge on the line.
        outer_px: Decay of the edge outside.
        shadow: Depth of the dark foot beside the edge.
    """

    line: float
    space: float
    bloom: float
    inner_px: float
    outer_px: float
    shadow: float

    def signal(self, distance: FloatArray) -> FloatArray:
        """The signal at each signed distance from an edge in pixels, positive inside a line."""
        reach = float(np.ceil(12 * max(self.inner_px, self.outer_px)))
        taps = round(1 / LUT_STEP)
        entries = round(2 * reach / LUT_STEP) + 1
        # a pixel sees the mean over its own width: each entry is the mean of a pixel's worth of
        # points about it, none of which falls on the edge itself
        grid = (np.arange(entries + taps - 1) - (taps - 1) / 2) * LUT_STEP - reach
        inside = self.line + self.bloom * np.exp(-np.maximum(grid, 0) / self.inner_px)
        below = np.minimum(grid, 0)
        outside = (
            self.space
            + self.bloom * np.exp(below / self.outer_px)
            - self.shadow * (np.exp(below / (3 * self.outer_px)) - np.exp(below / self.outer_px))
        )
        table = np.convolve(np.where(grid > 0, inside, outside), np.full(taps, 1 / taps), "valid")
        place = (distance + np.float32(reach)) * np.float32(1 / LUT_STEP) + np.float32(0.5)
        np.clip(place, 0, entries - 1, out=place)
        return np.asarray(table.astype(np.float32)[place.astype(np.int32)])


@dataclass(frozen=True, slots=True)
class Optics:
    """One image's draw from OpticsSettings; lengths in pixels."""

    beam: float
    astigmatism: float
    electrons: float
    detector_blur: float
    drift: tuple[float, float]
    jitter: float
    vibration: float
    charging: float
    streaks: float
    vignetting: float
    unevenness: float
    brightness: float
    contrast: float
    bits: int


def draw_optics(rng: np.random.Generator, settings: OpticsSettings, nm_per_px: float) -> Optics:
    """One image's instrument."""
    low, high = np.log(settings.electrons)
    return Optics(
        beam=rng.uniform(*settings.beam_nm) / nm_per_px,
        astigmatism=rng.uniform(*settings.astigmatism),
        electrons=float(np.exp(rng.uniform(low, high))),
        detector_blur=rng.uniform(*settings.detector_blur_px),
        drift=(
            rng.uniform(*settings.drift_px) * rng.choice((-1, 1)),
            rng.uniform(*settings.drift_px) * rng.choice((-1, 1)),
        ),
        jitter=rng.uniform(*settings.jitter_px),
        vibration=rng.uniform(*settings.vibration_px),
        charging=rng.uniform(*settings.charging),
        streaks=rng.uniform(*settings.streaks),
        vignetting=rng.uniform(*settings.vignetting),
        unevenness=rng.uniform(*settings.unevenness),
        brightness=rng.uniform(*settings.brightness),
        contrast=rng.uniform(*settings.contrast),
        bits=int(rng.choice(settings.bits)),
    )


def draw_material(
    rng: np.random.Generator, settings: OpticsSettings, nm_per_px: float, etched: bool
) -> Material:
    """Etched lines are bright on dark; resist is grey on grey and shows mostly its edges."""
    bloom = rng.uniform(*settings.edge_bloom)
    space = rng.uniform(0.08, 0.25) if etched else rng.uniform(0.2, 0.35)
    line = rng.uniform(0.55, 0.8) if etched else space + rng.uniform(0.1, 0.3)
    return Material(
        line,
        space,
        bloom / 2 if etched else bloom,
        rng.uniform(*settings.bloom_inner_nm) / nm_per_px,
        rng.uniform(*settings.bloom_outer_nm) / nm_per_px,
        rng.uniform(0.0, 0.2) * space,
    )


def scan_shifts(
    rng: np.random.Generator, optics: Optics, rows: int
) -> tuple[FloatArray, FloatArray]:
    """How far each row's scan lands from where it should.

    Returns:
        x and y shifts, each (rows,) float32 pixels, at most DISTORTION_LIMIT_PX.
    """
    time = np.linspace(-0.5, 0.5, rows)
    period, phase = rng.uniform(6, 80), rng.uniform(0, 2 * np.pi)
    curve = rng.uniform(-0.5, 0.5)
    x = optics.drift[0] * (time + curve * (4 * time**2 - 1))
    x = x + optics.vibration * np.sin(2 * np.pi * np.arange(rows) / period + phase)
    x = x + optics.jitter * rng.standard_normal(rows)
    y = optics.drift[1] * time
    limit = DISTORTION_LIMIT_PX
    return np.clip(x, -limit, limit).astype(np.float32), np.clip(y, -limit, limit).astype(
        np.float32
    )


def blur(signal: FloatArray, optics: Optics) -> FloatArray:
    """The signal as the beam's size leaves it; x is the scan's direction."""
    if optics.beam < NO_BLUR_PX:
        return signal
    stretch = np.sqrt(optics.astigmatism)
    return np.asarray(
        cv2.GaussianBlur(
            signal,
            (0, 0),
            sigmaX=optics.beam * stretch,
            sigmaY=optics.beam / stretch,
            borderType=cv2.BORDER_REPLICATE,
        )
    )


def scan(
    field: FloatArray, shifts: tuple[FloatArray, FloatArray], margin: int, width: int, smooth: bool
) -> FloatArray:
    """The field where the scan really went.

    Args:
        field: (rows + 2 margin, width + 2 margin) float32.
        shifts: From scan_shifts.
        margin: Pixels of the field beyond each side of the image.
        width: Of the image.
        smooth: Cubic instead of linear interpolation: for signals, not for fields with creases.

    Returns:
        (rows, width) float32.
    """
    rows = len(shifts[0])
    x = np.arange(width, dtype=np.float32)[None] + (shifts[0] + np.float32(margin))[:, None]
    y = (np.arange(rows, dtype=np.float32) + shifts[1] + np.float32(margin))[:, None]
    method = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    return np.asarray(
        cv2.remap(field, x, np.broadcast_to(y, x.shape).copy(), method, None, cv2.BORDER_REPLICATE)
    )


def detect(rng: np.random.Generator, signal: FloatArray, optics: Optics) -> NDArray[np.uint16]:
    """The digital image of a noise-free signal.

    Args:
        rng: Source of chance.
        signal: (H, W) float32, any unit.
        optics: The instrument.

    Returns:
        (H, W) uint16; the detector's levels are spread over the 16 bits.
    """
    height, width = signal.shape
    mean, deviation = float(signal.mean()), float(signal.std())
    grey = (signal - np.float32(mean)) * np.float32(optics.contrast / max(deviation, 1e-6))
    if optics.charging > 0:
        # what was bright charges the specimen and darkens what is scanned right after it
        length = max(9, width // 8)
        tail = cv2.boxFilter(
            grey, -1, (length, 1), anchor=(length - 1, 0), borderType=cv2.BORDER_REFLECT
        )
        tail = cv2.blur(tail, (1, 5))
        grey -= tail * np.float32(optics.charging * 3)
    grey += np.float32(optics.brightness)
    gain = _gain(rng, optics, height, width)
    grey *= gain
    np.maximum(grey, np.float32(0.01), out=grey)
    noise_free = grey * np.float32(optics.electrons / optics.brightness)
    if optics.electrons < EXACT_POISSON_BELOW:
        counted = rng.poisson(noise_free).astype(np.float32)
        noise = counted - noise_free
    else:
        noise = rng.standard_normal(grey.shape, dtype=np.float32) * np.sqrt(noise_free)
    if optics.detector_blur > 0.2:
        noise = cv2.GaussianBlur(noise, (5, 1), sigmaX=optics.detector_blur, sigmaY=1)
    grey += noise * np.float32(optics.brightness / optics.electrons)
    levels = 2**optics.bits - 1
    np.clip(grey, 0, 1, out=grey)
    counts = np.rint(grey * np.float32(levels))
    return np.asarray(np.rint(counts * np.float32(65535 / levels)).astype(np.uint16))


def _gain(rng: np.random.Generator, optics: Optics, height: int, width: int) -> FloatArray:
    """Vignetting about a centre of its own, slow changes, and rows of changing brightness."""
    cy, cx = rng.uniform(0.3, 0.7, 2)
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height - np.float32(cy))[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width - np.float32(cx))[None]
    rows = 1 + optics.streaks * rng.standard_normal((height, 1))
    clouds = rng.standard_normal((5, 5), dtype=np.float32) * np.float32(optics.unevenness)
    slow = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    gain = slow + 1 - np.float32(2 * optics.vignetting) * (x * x + y * y)
    gain = gain * rows.astype(np.float32)
    return np.asarray(gain)
