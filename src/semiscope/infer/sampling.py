"""Boxes from noise: the schedule of DiffusionInst and the random numbers of its sampling.

Cosine schedule: Nichol and Dhariwal 2021, eq. 17. Sampling: Song, Meng and Ermon 2021 (DDIM),
eq. 12 and 16, at the times of DiffusionDet (Chen et al. 2023): T - 1 down to -1 in equal strides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings

TIMES = 1000
"""Diffusion times T."""
MOST_BOXES = 2000
MOST_STEPS = 100


class Sampling(Settings):
    """How many boxes are drawn and how often they are refined."""

    boxes: int = Field(100, ge=1, le=MOST_BOXES, description="Random boxes an image")
    steps: int = Field(1, ge=1, le=MOST_STEPS, description="Passes from noise to boxes")
    seed: int = Field(0, ge=0, description="Decides the random boxes; same seed, same answer")


class Dial(Settings):
    """A choice of ``Sampling`` at inference; what is None stays as the model file says."""

    boxes: int | None = Field(
        None, ge=1, le=MOST_BOXES, description="Random boxes an image (diffusion models)"
    )
    steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="Passes from noise to boxes (diffusion models)"
    )
    seed: int | None = Field(None, ge=0, description="Of the random boxes (diffusion models)")

    def chosen(self) -> dict[str, int]:
        """What is not None."""
        return self.model_dump(include=set(Dial.model_fields), exclude_none=True)


def alpha_bar() -> NDArray[np.float64]:
    """(T,) share of the signal's variance that is left at each time, falling from 1 to 0."""
    grid = np.arange(TIMES + 1) / TIMES
    level = np.cos((grid + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], 0.999))


def schedule(steps: int) -> NDArray[np.float32]:
    """The numbers of each sampling step, with DDIM's eta = 1.

    With a the ``alpha_bar`` of the step's time and b that of the next, the boxes x0 that the
    network says give eps = (x / sqrt(a) - x0) / sqrt(1 / a - 1), and the next boxes are
    sqrt(b) x0 + c eps + sigma z with c^2 = 1 - b - sigma^2.

    Args:
        steps: At least 1.

    Returns:
        (steps, 6): time, 1 / sqrt(a), 1 / sqrt(1 / a - 1), sqrt(b), c, and the sigma with which the
        step *before* ended (0 for the first).
    """
    times = np.linspace(-1, TIMES - 1, steps + 1)[::-1].astype(int)
    level = alpha_bar()
    now = level[times[:-1]]
    after = np.append(level[times[1:-1]], 1.0)
    sigma = np.sqrt((1 - now / after) * (1 - after) / (1 - now))
    c = np.sqrt(np.maximum(1 - after - sigma**2, 0))
    before = np.append(0.0, sigma[:-1])
    rows = [times[:-1], 1 / np.sqrt(now), 1 / np.sqrt(1 / now - 1), np.sqrt(after), c, before]
    return np.stack(rows, 1).astype(np.float32)


def noise(sampling: Sampling) -> NDArray[np.float32]:
    """(steps, 2, boxes, 4) standard normal numbers, the same for every image.

    Of a step, the first row is for boxes that start anew and the second for those that go on. An
    image's answer depends so on the seed alone, not on its neighbours in the batch. More boxes, or
    more steps, begin with the numbers of fewer.
    """
    rows = [
        np.random.default_rng((sampling.seed, step, row)).standard_normal((sampling.boxes, 4))
        for step in range(sampling.steps)
        for row in range(2)
    ]
    return np.stack(rows).reshape(sampling.steps, 2, sampling.boxes, 4).astype(np.float32)
