"""What TEM cross-sections are simulated: settings, classes and splits."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from semiscope.config import Settings
from semiscope.simulate.optics import AboveZero, Range, Span

MATERIALS = ("oxide", "silicon", "nitride", "metal", "liner")
DEFECTS = ("void", "crack", "residue")
CLASSES = MATERIALS + DEFECTS
OXIDE, SILICON, NITRIDE, METAL, LINER, VOID, CRACK, RESIDUE = range(len(CLASSES))

Share = Annotated[float, Field(ge=0, le=1)]
Mean = Annotated[float, Field(ge=0, le=20)]


class SpecimenSettings(Settings):
    """The specimen; a range is drawn from evenly, once an image."""

    roughness_nm: Range = Field((0.4, 1.0), description="Of interfaces, one sigma, nm.")
    correlation_length_nm: AboveZero = Field((12.0, 30.0), description="Of the roughness, nm.")
    tilt_deg: Span = Field((-1.5, 1.5), description="Of the layers to the rows, -5 to 5 degrees.")
    voids: Mean = Field(1.2, description="Mean number of voids an image.")
    cracks: Mean = Field(0.9, description="Mean number of cracks an image.")
    residues: Mean = Field(1.0, description="Mean number of residues an image.")
    wedge: Range = Field(
        (0.0, 0.25), description="Relative change of the lamella's thickness over the image."
    )
    curtains: Range = Field((0.0, 0.06), description="Relative change of thickness by the beam.")
    contamination: Share = Field(
        0.3, description="Share of images with dark blots, which are not in the class map."
    )

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        if not -5 <= self.tilt_deg[0] <= self.tilt_deg[1] <= 5:
            raise ValueError(f"tilt_deg: expected values from -5 to 5, found {self.tilt_deg}")
        if self.roughness_nm[1] > 2:
            raise ValueError(f"roughness_nm: expected at most 2, found {self.roughness_nm}")
        return self


class MicroscopeSettings(Settings):
    """What the microscope does; a range is drawn from evenly, once an image."""

    blur_nm: Range = Field((0.25, 0.6), description="Standard deviation of the blur, nm.")
    fringe: Range = Field((0.0, 0.5), description="Height of Fresnel fringes at edges.")
    electrons: AboveZero = Field(
        (60.0, 800.0),
        description="Mean electrons counted a pixel (drawn evenly in its logarithm).",
    )
    vignetting: Range = Field((0.0, 0.12), description="Fall of brightness towards the corners.")
    brightness: AboveZero = Field((0.42, 0.55), description="Mean grey level, 0 to 1.")
    contrast: AboveZero = Field(
        (0.15, 0.21), description="Standard deviation of the noise-free grey."
    )


class TemStackSettings(Settings):
    """What to simulate."""

    device: Literal["A", "B"] = Field(
        "A", description="A: gates and contacts on silicon. B: word lines in it, bit lines above."
    )
    count: int = Field(200, ge=1, description="Number of images.")
    seed: int = Field(0, ge=0, description="The same seed gives the same bytes.")
    val_share: Share = Field(0.1, description="Share of the images for validation.")
    test_share: Share = Field(0.2, description="Share of the images for the test.")
    unlabelled_share: Share = Field(0.4, description="Share of the images without a class map.")
    width: int = Field(512, ge=128, le=2048, description="Pixels.")
    height: int = Field(512, ge=128, le=2048, description="Pixels.")
    workers: int = Field(0, ge=0, description="Processes; 0 is one a core.")
    specimen: SpecimenSettings = Field(SpecimenSettings(), description="The specimen.")
    microscope: MicroscopeSettings = Field(MicroscopeSettings(), description="The microscope.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        held = self.val_share + self.test_share + self.unlabelled_share
        if held > 1 + 1e-9:
            raise ValueError(
                f"val_share, test_share and unlabelled_share: expected at most 1 together, found "
                f"{held:g}"
            )
        return self


@lru_cache(maxsize=8)
def plan(settings: TemStackSettings) -> tuple[str, ...]:
    """The split of every image, which does not change with the number of images.

    Of the first n images each split has its share of n, but for less than one image.
    """
    shares = {
        "val": settings.val_share,
        "test": settings.test_share,
        "unlabelled": settings.unlabelled_share,
    }
    shares["train"] = max(0.0, 1 - sum(shares.values()))
    have = dict.fromkeys(shares, 0)
    splits = []
    for number in range(1, settings.count + 1):
        # the split that lacks most
        split = max(shares, key=lambda s: round(shares[s] * number - have[s], 9))
        have[split] += 1
        splits.append(split)
    return tuple(splits)
