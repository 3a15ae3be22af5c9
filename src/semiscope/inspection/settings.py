"""How images are inspected."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from semiscope.capture.methods import Method, PackageSettings
from semiscope.infer.sampling import Dial
from semiscope.infer.tiled import OVERLAP


class InspectSettings(Dial):
    """How images are inspected."""

    model: str = Field(
        description="A model's name in the zoo, or an .onnx file; several joined by + are fused"
    )
    batch: int = Field(1, ge=1, description="Inputs an inference; more pays on a GPU only")
    threads: int | None = Field(None, ge=1, description="Cores to use; all when not given")
    nm_per_px: float | None = Field(
        None, gt=0, description="Width of a pixel in nm, in place of what the files say"
    )
    min_score: float | None = Field(
        None, ge=0, le=1, description="Lowest score to report, in place of the model's thresholds"
    )
    overlap: float = Field(
        OVERLAP, ge=0, lt=1, description="Part of a tile that neighbours share in a large image"
    )
    gallery: int = Field(300, ge=0, le=1000, description="Most defects shown in the report")
    capture: Method | None = Field(
        None, description="Units: how the package is found; what is inspected is the upright crop"
    )
    package: PackageSettings = Field(
        PackageSettings(), description="Units: the settings of that method"
    )
    rotation_tolerance: float = Field(
        1.0, gt=0, le=45, description="Units: largest rotation of a die that passes, degrees"
    )
    pairs: Path | None = Field(
        None,
        description="Classifier of two magnifications: CSV or KLARF file of the partners",
    )
