import numpy as np
import pytest

from semiscope.capture.upright import transform_points


def cover(corners, height, width, soft=1.0):
    """(H, W) share of each pixel inside a convex outline; its border changes over `soft` px."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    inside = np.full((height, width), np.inf)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = np.hypot(bx - ax, by - ay)
        inside = np.minimum(inside, ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length)
    return np.clip(0.5 + inside / soft, 0, 1)


def turned(centre, width, height, degrees):
    """Corners of a rectangle turned counter-clockwise on screen, in its own order."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    return half @ turn.T + centre


class Unit:
    """A drawn photograph: black package with a die and a mark at its top left, on a green board."""

    def __init__(
        self, degrees=0.0, size=(240, 240), centre=(120.5, 118.0), package=(110, 150), die_deg=0.0,
        tilt=0.0, noise=2.0, seed=0,
    ):  # fmt: skip
        height, width = size
        tilting = np.array([[1, 0, 0], [0, 1, 0], [tilt / width, tilt / height, 1.0]])
        self.corners = transform_points(turned(centre, *package, degrees), tilting)
        die = turned((0.5 * package[0], 0.55 * package[1]), 50, 60, die_deg)
        mark = np.array([[8, 8], [24, 8], [24, 24], [8, 24.0]])
        low, high = np.array([0, 0]), np.array(package)
        frame = np.array([low, [high[0], 0], high, [0, high[1]]])
        top_left, top_right, _, bottom_left = turned(centre, *package, degrees)
        across, down = (top_right - top_left) / package[0], (bottom_left - top_left) / package[1]

        def place(points):
            return transform_points(
                top_left + points[:, :1] * across + points[:, 1:] * down, tilting
            )

        assert np.allclose(place(frame), self.corners)
        self.die, self.mark = place(die), place(mark)
        pixels = np.ones((height, width, 1)) * np.array([40.0, 130, 60])
        for corners, colour, soft in (
            (self.corners, (20, 22, 21), 5.0),
            (self.die, (150, 140, 150), 1.0),
            (self.mark, (220, 190, 90), 1.0),
        ):
            share = cover(corners, height, width, soft)[..., None]
            pixels = pixels * (1 - share) + np.array(colour) * share
        pixels += np.random.default_rng(seed).normal(0, noise, pixels.shape)
        self.pixels = pixels.clip(0, 255).round().astype(np.uint8)


@pytest.fixture
def unit():
    return Unit
