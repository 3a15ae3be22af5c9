"""What line-space scenes are simulated: settings, classes, and the share of each class.

The classes, the counts and the splits of SEMI-DiffusionInst (Table I) are the defaults.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from semiscope.config import Settings
from semiscope.simulate.line_defects import DEFECTS
from semiscope.simulate.optics import AboveZero, OpticsSettings, Range, Span

CLASS_SETS: dict[str, tuple[str, ...]] = {
    "semi-diffusion": (
        "thin_bridge",
        "single_bridge",
        "multi_bridge_non_horizontal",
        "multi_bridge_horizontal",
        "line_collapse",
    ),
    "dehaerne": ("microbridge", "gap", "bridge", "line_collapse", "probable_gap"),
}

# training and validation, in the order of CLASS_SETS: images a class in SEMI-DiffusionInst's
# Table I; instances a class in Dehaerne et al. 2023, whose 1053 + 117 images hold several each
TABLES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "semi-diffusion": ((240, 240, 80, 160, 200), (30, 30, 10, 20, 30)),
    "dehaerne": ((380, 1046, 238, 550, 315), (47, 156, 19, 66, 49)),
}
TRAIN_SHARE = 920 / 1040

LEAST_PITCH_PX = 4
LEAST_PITCHES = 5


class PatternSettings(Settings):
    """The printed pattern; a range is drawn from evenly, once an image."""

    nm_per_px: AboveZero = Field((0.7, 1.4), description="Width of a pixel, nm.")
    pitch_nm: AboveZero = Field((30.0, 64.0), description="Distance from line to line, nm.")
    duty: AboveZero = Field((0.4, 0.62), description="Line width over pitch, 0.1 to 0.9.")
    pitch_walk_nm: Range = Field((0.0, 1.5), description="Shift of every other line, nm.")
    roughness_nm: Range = Field(
        (0.5, 1.6),
        description="Edge roughness, one sigma, nm; at most 11 % of line and space is used.",
    )
    correlation_length_nm: AboveZero = Field((8.0, 40.0), description="Of the roughness, nm.")
    roughness_exponent: AboveZero = Field((0.4, 0.8), description="Of the roughness spectrum.")
    edge_correlation: Range = Field((0.0, 0.6), description="Of a line's two edges, 0 to 1.")
    tilt_deg: Span = Field((-2.5, 2.5), description="Of the lines, -15 to 15 degrees.")
    horizontal: float = Field(
        0.25, ge=0, le=1, description="Share of images whose lines run from left to right."
    )
    etched: float = Field(
        0.5, ge=0, le=1, description="Share of images with etched contrast; the others are resist."
    )

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        for name, low, high in (
            ("duty", 0.1, 0.9),
            ("edge_correlation", 0, 1),
            ("tilt_deg", -15, 15),
        ):
            found = getattr(self, name)
            if not low <= found[0] <= found[1] <= high:
                raise ValueError(f"{name}: expected values from {low} to {high}, found {found}")
        return self


class SemLinesSettings(Settings):
    """What to simulate."""

    count: int = Field(1040, ge=1, description="Number of images.")
    seed: int = Field(0, ge=0, description="The same seed gives the same bytes.")
    split: Literal["train-val", "test"] = Field(
        "train-val", description="train-val in the paper's proportion, or one test set."
    )
    classes: str = Field(
        "semi-diffusion",
        description="semi-diffusion, dehaerne, or names of defects separated by commas.",
    )
    distribution: Literal["table1", "uniform"] = Field(
        "table1", description="Images a class: as in the paper of the class set, or all the same."
    )
    clean_fraction: float = Field(0.0, ge=0, le=1, description="Share of images with no defect.")
    defects: int = Field(1, ge=1, le=8, description="Most defects an image.")
    width: int = Field(480, ge=64, le=8192, description="Pixels.")
    height: int = Field(480, ge=64, le=8192, description="Pixels.")
    workers: int = Field(0, ge=0, description="Processes; 0 is one a core.")
    pattern: PatternSettings = Field(PatternSettings(), description="The printed pattern.")
    optics: OpticsSettings = Field(OpticsSettings(), description="The instrument.")

    @field_validator("classes")
    @classmethod
    def _known(cls, value: str) -> str:
        names = _names(value)
        wrong = [name for name in names if name not in DEFECTS or names.count(name) > 1]
        if wrong or not names:
            raise ValueError(
                f"unknown or repeated: {', '.join(wrong) or 'no name'}; expected "
                f"{' or '.join(CLASS_SETS)}, or some of {', '.join(DEFECTS)}"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        pattern = self.pattern
        smallest = pattern.pitch_nm[0] / pattern.nm_per_px[1]
        if smallest < LEAST_PITCH_PX:
            raise ValueError(
                f"expected a pitch of at least {LEAST_PITCH_PX} px, found {smallest:.2f} px: raise "
                "pattern.pitch_nm or lower pattern.nm_per_px"
            )
        largest = pattern.pitch_nm[1] / pattern.nm_per_px[0]
        if LEAST_PITCHES * largest > min(self.width, self.height):
            raise ValueError(
                f"expected room for {LEAST_PITCHES} pitches of {largest:.0f} px, found "
                f"{self.width} x {self.height} px: lower pattern.pitch_nm or raise width and height"
            )
        if self.distribution == "table1" and self.classes not in TABLES:
            raise ValueError(
                f"distribution table1 is for {' or '.join(TABLES)}, found a list of names: "
                "use uniform"
            )
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by index."""
        return _names(self.classes)


def _names(classes: str) -> tuple[str, ...]:
    return CLASS_SETS.get(classes) or tuple(n.strip() for n in classes.split(",") if n.strip())


@lru_cache(maxsize=8)
def plan(settings: SemLinesSettings) -> tuple[tuple[str, int | None], ...]:
    """Split and class index of every scene, training before validation; None for a clean one."""
    if settings.split == "test":
        parts = [("test", settings.count)]
    else:
        train = round(settings.count * TRAIN_SHARE)
        parts = [("train", train), ("val", settings.count - train)]
    scenes: list[tuple[str, int | None]] = []
    for number, (split, count) in enumerate(parts):
        clean = round(count * settings.clean_fraction)
        classes: list[int | None] = [None] * clean
        for class_id, images in enumerate(shares(_weights(settings, split), count - clean)):
            classes += [class_id] * images
        order = np.random.default_rng((settings.seed, number)).permutation(count)
        scenes += [(split, classes[i]) for i in order]
    return tuple(scenes)


def _weights(settings: SemLinesSettings, split: str) -> tuple[int, ...]:
    if settings.distribution == "uniform":
        return (1,) * len(settings.class_names)
    train, val = TABLES[settings.classes]
    both = tuple(t + v for t, v in zip(train, val, strict=True))
    return {"train": train, "val": val, "test": both}[split]


def shares(weights: tuple[int, ...], count: int) -> list[int]:
    """Whole numbers in proportion to the weights that add up to count (largest remainder)."""
    total = sum(weights)
    whole = [count * w // total for w in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(count * weights[i] % total), i))
    for i in by_remainder[: count - sum(whole)]:
        whole[i] += 1
    return whole
