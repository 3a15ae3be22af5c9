"""Line-space patterns: where the edges of the lines lie, and how far each pixel is from them.

Everything here is in the pattern's own frame: lines run down the rows, x goes across them. A
positive distance is inside a line's material, a negative one in a space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiscope.simulate.roughness import rough_edges

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LineSpace:
    """A field of parallel lines.

    Attributes:
        left: (n, rows) float32, x of each line's left edge at the centre of each row.
        right: (n, rows) float32, x of the right edge.
        pitch: Pixels from line to line along x.
        cd: Line width in pixels along x, as designed.
        cos_tilt: Turns a length along x into one perpendicular to the lines.
        columns: Width of the field in pixels.
    """

    left: FloatArray
    right: FloatArray
    pitch: float
    cd: float
    cos_tilt: float
    columns: int

    @property
    def rows(self) -> int:
        """Height of the field in pixels."""
        return int(self.left.shape[1])

    @property
    def space(self) -> float:
        """Distance in pixels from a line to the next along x, as designed."""
        return self.pitch - self.cd

    def centre(self, line: int) -> FloatArray:
        """(rows,) x of the middle of a line."""
        return np.asarray((self.left[line] + self.right[line]) * np.float32(0.5))


@dataclass(frozen=True, slots=True)
class Roughness:
    """Edge roughness in pixels: what rough_edges takes, and how a line's two edges correlate."""

    sigma: float
    correlation_length: float
    exponent: float
    edge_correlation: float


def draw_lines(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    pitch: float,
    cd: float,
    tilt_deg: float,
    pitch_walk: float,
    roughness: Roughness,
) -> LineSpace:
    """A field of lines that covers rows x columns and a little more on both sides.

    Args:
        rng: Source of chance: the phase of the pattern and the roughness.
        rows: Height in pixels.
        columns: Width in pixels.
        pitch: Perpendicular distance from line to line, pixels.
        cd: Perpendicular line width, pixels.
        tilt_deg: Angle of the lines to the columns.
        pitch_walk: Shift of every other line in pixels, as double patterning leaves it.
        roughness: Of each edge.
    """
    cos_tilt, tan_tilt = np.cos(np.radians(tilt_deg)), np.tan(np.radians(tilt_deg))
    step, width = pitch / cos_tilt, cd / cos_tilt
    reach = abs(tan_tilt) * rows / 2 + 2 * step
    count = int(np.ceil((columns + 2 * reach) / step)) + 1
    first = -reach + rng.uniform(0, step)
    line = np.arange(count)
    centre = first + step * line + pitch_walk * (line % 2)
    lean = tan_tilt * (np.arange(rows) + 0.5 - rows / 2)
    middle = (centre[:, None] + lean).astype(np.float32)
    noise = rough_edges(
        rng,
        2 * count,
        rows,
        roughness.sigma / cos_tilt,
        roughness.correlation_length,
        roughness.exponent,
    )
    tie = roughness.edge_correlation
    left_noise = noise[:count]
    right_noise = np.float32(tie) * left_noise + np.float32(np.sqrt(1 - tie**2)) * noise[count:]
    half = np.float32(width / 2)
    return LineSpace(
        middle - half + left_noise,
        middle + half + right_noise,
        float(step),
        float(width),
        float(cos_tilt),
        columns,
    )


def line_distance(
    left: FloatArray, right: FloatArray, first_column: int, columns: int
) -> FloatArray:
    """Signed distance along x to the edges of one line.

    Args:
        left: (rows,) x of the left edge.
        right: (rows,) x of the right edge.
        first_column: Where the window begins.
        columns: How wide it is.

    Returns:
        (rows, columns) float32, positive inside.
    """
    x = np.arange(first_column, first_column + columns, dtype=np.float32) + np.float32(0.5)
    return np.asarray(np.minimum(x - left[:, None], right[:, None] - x))


def edge_distance(lines: LineSpace) -> FloatArray:
    """Signed distance to the nearest edge, perpendicular to the lines.

    Returns:
        (rows, columns) float32 in pixels, positive inside a line; nowhere below minus the pitch.
    """
    distance = np.full((lines.rows, lines.columns), -lines.pitch, np.float32)
    reach = lines.space
    for left, right in zip(lines.left, lines.right, strict=True):
        start = max(0, int(left.min() - reach))
        stop = min(lines.columns, int(np.ceil(right.max() + reach)))
        if start < stop:
            window = distance[:, start:stop]
            np.maximum(window, line_distance(left, right, start, stop - start), out=window)
    distance *= np.float32(lines.cos_tilt)
    return distance
