"""The ways of finding a package, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from semiscope.capture.contour import ContourSettings, contour_finder
from semiscope.capture.package import Finder, UprightSettings
from semiscope.capture.prompt import PromptSettings, prompt_finder
from semiscope.capture.segment import SegmentSettings, segment_finder


class PackageSettings(UprightSettings):
    """How packages are found and cut out, whatever the method."""

    contour: ContourSettings = Field(ContourSettings(), description="The method contour")
    segment: SegmentSettings = Field(SegmentSettings(), description="The method segment")
    prompt: PromptSettings = Field(PromptSettings(), description="The method prompt")
    reference: Path | None = Field(
        None, description="An upright crop that lies the right way up; the others are turned to it"
    )


Method = Literal["contour", "segment", "prompt"]

METHODS: dict[Method, Callable[[PackageSettings, int], Finder]] = {
    "contour": lambda settings, _: contour_finder(settings.contour),
    "segment": lambda settings, threads: segment_finder(settings.segment, threads),
    "prompt": lambda settings, threads: prompt_finder(settings.prompt, threads),
}
"""How each method's finder is made, given the cores for one photograph."""
