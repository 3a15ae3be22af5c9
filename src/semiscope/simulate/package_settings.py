"""What photographs of IC packages are simulated: settings, splits, and the defects of each unit.

The numbers of the three splits, and of units with each defect, follow the thesis on YOLOv7-tiny for
IC packages (sections 3.3.3 and 3.3.4): 3,000 units become 2,430 for training, 270 and 300.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from semiscope.config import Settings
from semiscope.simulate.optics import AboveZero, Range, Span

CLASSES = ("package", "die", "crack")
CRACK_KINDS = ("crack", "scratch", "chipping")

Illumination = Literal["bright_field", "dark_field_white", "dark_field_blue"]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PoseSettings(Settings):
    """How the package lies in the photograph; a range is drawn from evenly, once a unit."""

    angle_deg: Span = Field(
        (-3.0, 3.0),
        description="Turn of the package, counter-clockwise, degrees; -180 180 is any.",
    )
    size: AboveZero = Field(
        (0.74, 0.84),
        description="Length of the package over that of the largest upright one that the image "
        "holds; one that is turned is made to fit.",
    )
    shift: float = Field(
        0.04, ge=0, le=1, description="Farthest from the middle, share of the image's smaller side."
    )
    tilt_deg: Range = Field((0.0, 2.5), description="Of the camera to the board, 0 to 20 degrees.")

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        for name, low, high in (("angle_deg", -360, 360), ("size", 0.1, 1), ("tilt_deg", 0, 20)):
            found = getattr(self, name)
            if not low <= found[0] <= found[1] <= high:
                raise ValueError(f"{name}: expected values from {low} to {high}, found {found}")
        return self


class DefectSettings(Settings):
    """The defects that make a unit fail, and the turn of a die that does not."""

    good: Share = Field(1 / 3, description="Share of the units without a defect.")
    rotation: Weight = Field(0.4, description="Of the other units: weight of a rotated die.")
    crack: Weight = Field(0.2, description="Likewise of a die with cracks.")
    scratch: Weight = Field(0.15, description="Likewise of a scratched die.")
    chipping: Weight = Field(0.15, description="Likewise of a die with chipped edges or corners.")
    missing: Weight = Field(0.1, description="Likewise of a die that is not there.")
    several: Share = Field(
        0.2, description="Share of the faulty units with a die that have a second kind of defect."
    )
    most: int = Field(2, ge=1, le=8, description="Most cracks, scratches or chips of a kind.")
    rotation_deg: AboveZero = Field(
        (0.3, 15.0), description="Of a rotated die to its package, either way, at most 45 degrees."
    )
    natural_deg: float = Field(
        0.3, ge=0, le=45, description="Largest rotation of a die that is not rotated, degrees."
    )
    tolerance_deg: float = Field(
        1.0, gt=0, le=45, description="A die that is rotated further fails, degrees."
    )
    length: AboveZero = Field(
        (0.08, 0.5),
        description="Of cracks and scratches, share of the die's smaller side; drawn evenly in its "
        "logarithm.",
    )
    visibility: Range = Field((0.55, 0.95), description="Contrast of cracks and scratches, 0 to 1.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rotation_deg[1] > 45:
            raise ValueError(f"rotation_deg: expected at most 45, found {self.rotation_deg}")
        if self.length[1] > 1 or self.visibility[1] > 1:
            raise ValueError("length and visibility: expected at most 1")
        if self.natural_deg >= self.tolerance_deg:
            raise ValueError(
                f"natural_deg: expected less than tolerance_deg, {self.tolerance_deg}, found "
                f"{self.natural_deg}: good units would fail"
            )
        if self.good < 1 and not sum(self.weights.values()):
            raise ValueError(
                "expected a weight above 0 for some defect, found none: give one, or good 1"
            )
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each kind of defect."""
        return {kind: getattr(self, kind) for kind in ("rotation", *CRACK_KINDS, "missing")}


class ClutterSettings(Settings):
    """What an inspection must not be led astray by; none of it is annotated."""

    border: AboveZero = Field(
        (0.015, 0.045),
        description="Width of the change from black to green, share of the package's length.",
    )
    led_cracks: Share = Field(0.5, description="Share of the units with a cracked LED.")
    edge_scratches: Share = Field(
        0.35, description="Share of the units with scratches that cross the package's edge."
    )
    dust: tuple[Annotated[int, Field(ge=0, le=500)], Annotated[int, Field(ge=0, le=500)]] = Field(
        (0, 14), description="Fewest and most grains of dust."
    )
    fibres: Share = Field(0.15, description="Share of the units with a fibre beside the die.")

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        if self.dust[0] > self.dust[1]:
            raise ValueError(f"dust: expected fewest and most, found {self.dust}")
        if self.border[1] > 0.1:
            raise ValueError(f"border: expected at most 0.1, found {self.border}")
        return self


class CameraSettings(Settings):
    """Light and camera: how difficult the photographs are."""

    illumination: tuple[Illumination, ...] = Field(
        ("bright_field",),
        description="Lights to choose from: bright_field, dark_field_white, dark_field_blue.",
        min_length=1,
    )
    brightness: AboveZero = Field(
        (55.0, 95.0), description="Mean grey level of a bright field, of 255."
    )
    contrast: AboveZero = Field((0.75, 1.0), description="1 is the full contrast; at most 1.")
    blur_px: Range = Field((0.4, 1.2), description="Standard deviation of the blur, px.")
    noise: Range = Field(
        (1.5, 4.0), description="Standard deviation of the noise at half the range, of 255 levels."
    )
    vignetting: Range = Field((0.0, 0.3), description="Fall of brightness towards the corners.")
    unevenness: Range = Field((0.02, 0.12), description="Slow changes of brightness, deviation.")

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        for name, high in (("brightness", 200), ("contrast", 1), ("vignetting", 1)):
            found = getattr(self, name)
            if found[1] > high:
                raise ValueError(f"{name}: expected at most {high}, found {found}")
        if self.brightness[0] < 40:
            raise ValueError(f"brightness: expected at least 40, found {self.brightness}")
        return self


class IcPackageSettings(Settings):
    """What to simulate."""

    count: int = Field(3000, ge=1, description="Number of units, a photograph each.")
    seed: int = Field(0, ge=0, description="The same seed gives the same bytes.")
    val_share: Share = Field(0.09, description="Share of the units for validation.")
    test_share: Share = Field(0.10, description="Share of the units for the test.")
    width: int = Field(640, ge=160, le=4096, description="Pixels.")
    height: int = Field(640, ge=160, le=4096, description="Pixels.")
    products: int = Field(4, ge=1, le=16, description="Number of designs of package and die.")
    workers: int = Field(0, ge=0, description="Processes; 0 is one a core.")
    pose: PoseSettings = Field(PoseSettings(), description="How the package lies.")
    defects: DefectSettings = Field(DefectSettings(), description="What makes units fail.")
    clutter: ClutterSettings = Field(ClutterSettings(), description="What must be ignored.")
    camera: CameraSettings = Field(CameraSettings(), description="Light and camera.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.val_share + self.test_share > 1 + 1e-9:
            raise ValueError(
                "val_share and test_share: expected at most 1 together, found "
                f"{self.val_share + self.test_share:g}"
            )
        return self


def split_of(settings: IcPackageSettings, index: int) -> str:
    """The split of a unit, which does not change with the number of units.

    Of the first n units round(n * test_share) are for the test, for every n; of the rest as many as
    validation's share of them.
    """
    before, after = (_share(n, settings.test_share) for n in (index, index + 1))
    if after > before:
        return "test"
    rest = settings.val_share / (1 - settings.test_share)
    number = index - before
    return "val" if _share(number + 1, rest) > _share(number, rest) else "train"


def _share(count: int, share: float) -> int:
    return math.floor(count * share + 0.5)


def draw_defects(rng: np.random.Generator, settings: DefectSettings) -> tuple[str, ...]:
    """The kinds of defects of one unit: names of DefectSettings.weights; none for a good one."""
    if rng.random() < settings.good:
        return ()
    weights = settings.weights
    first = _draw(rng, weights)
    others = {k: w for k, w in weights.items() if k not in (first, "missing")}
    if first == "missing" or rng.random() >= settings.several or not sum(others.values()):
        return (first,)
    return first, _draw(rng, others)


def _draw(rng: np.random.Generator, weights: dict[str, float]) -> str:
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))
