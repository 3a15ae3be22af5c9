"""Three families of TEM noise, with which an image is disturbed as real images are.

They are the strong perturbations of the third paper (S. Yu et al., "Semiconductor image analysis
using data-efficient machine learning", section 2.2): noise of the sample, of the microscope, of
post-processing. The paper names contamination, deformation, dark current, gain noise, shot noise
and scale bars; the others of each family are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from semiscope.data.perturbation import FloatArray, Perturbation, Perturbed, chained, follow
from semiscope.data.tem_noise_instrument import INSTRUMENT
from semiscope.data.tem_noise_post import POST
from semiscope.data.tem_noise_sample import SAMPLE
from semiscope.errors import SettingsError

__all__ = ["FAMILIES", "INSTRUMENT", "POST", "SAMPLE", "follow", "perturb"]

FAMILIES: dict[str, Mapping[str, Perturbation]] = {
    "sample": SAMPLE,
    "instrument": INSTRUMENT,
    "post": POST,
}


def perturb(
    pixels: FloatArray, family: str, rng: np.random.Generator, strength: float = 1.0
) -> Perturbed:
    """The image disturbed by a family: some of its members, at least one, in their order.

    Each member takes part in half of the cases, with a strength of its own between half the given
    one and all of it.

    Args:
        pixels: (H, W) float32 in [0, 1]; left as they are.
        family: A name of FAMILIES.
        rng: Decides everything.
        strength: 0 (nothing changes) to 1.

    Returns:
        (H, W) float32 in [0, 1], and the displacement when pixels have moved: ``follow`` moves a
        class map likewise.

    Raises:
        SettingsError: There is no such family, or the strength is outside 0 to 1.
    """
    if family not in FAMILIES or not 0 <= strength <= 1:
        raise SettingsError(
            f"noise: expected a family of {', '.join(FAMILIES)} and a strength from 0 to 1, found "
            f"{family!r} and {strength}"
        )
    members = list(FAMILIES[family].values())
    taken = rng.random(len(members)) < 0.5
    taken[rng.integers(len(members))] = True
    displacement: FloatArray | None = None
    for member, takes_part in zip(members, taken, strict=True):
        own = strength * rng.uniform(0.5, 1)
        if not takes_part:
            continue
        pixels, moved = member(pixels, rng, own)
        if moved is not None:
            displacement = moved if displacement is None else chained(displacement, moved)
    return pixels, displacement
