"""Verbs that make or look at labelled data: check, convert, simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from semiscope.cli.show import AsJson, image_bar, print_json, stderr, stdout
from semiscope.data.check import CheckSettings, check_dataset
from semiscope.data.check_report import render
from semiscope.data.convert import convert as convert_dataset
from semiscope.simulate.ic_package import IcPackageSettings, write_units
from semiscope.simulate.line_settings import SemLinesSettings
from semiscope.simulate.sem_lines import write_scenes
from semiscope.simulate.sem_pairs import SemPairsSettings, write_pairs
from semiscope.simulate.stack_settings import TemStackSettings
from semiscope.simulate.tem_stack import write_sections


def check(
    data: Annotated[Path, Parameter(help="The data set's folder.")],
    /,
    *,
    settings: Annotated[CheckSettings, Parameter(name="*")] = CheckSettings(),  # noqa: B008
    as_json: AsJson = False,
) -> int:
    """Tell whether a data set is fit for training; exit status 2 when it is not."""
    report = check_dataset(data, settings)
    if as_json:
        print_json(report.to_dict())
    else:
        stdout.print(render(report), markup=False)
    return 2 if report.verdict == "unfit" else 0


def convert(
    source: Annotated[Path, Parameter(help="The data set's folder.")],
    destination: Annotated[Path, Parameter(help="A new or empty folder.")],
    /,
    *,
    to: Annotated[str, Parameter(help="coco, yolo, voc, labelstudio, folders or masks.")],
) -> None:
    """Write a data set in another format, its images included."""
    for note in convert_dataset(source, destination, to):
        stderr.print(f"note: {note}", markup=False)
    stdout.print(f"written: {destination}", markup=False)


def simulate_sem_lines(
    *,
    out: Annotated[Path, Parameter(help="A new or empty folder.")],
    settings: Annotated[SemLinesSettings, Parameter(name="*")] = SemLinesSettings(),  # noqa: B008
) -> None:
    """Line-space SEM scenes with defects, as 16-bit TIFF with COCO labels and CD truth."""
    with image_bar("rendering") as progress:
        write_scenes(settings, out, progress)
    stdout.print(f"written: {out}", markup=False)


def simulate_sem_pairs(
    *,
    out: Annotated[Path, Parameter(help="A new or empty folder.")],
    settings: Annotated[SemPairsSettings, Parameter(name="*")] = SemPairsSettings(),  # noqa: B008
) -> None:
    """Defects at two magnifications, as 16-bit TIFF in folders of their classes, with pairs.csv."""
    with image_bar("rendering") as progress:
        write_pairs(settings, out, progress)
    stdout.print(f"written: {out}", markup=False)


def simulate_ic_package(
    *,
    out: Annotated[Path, Parameter(help="A new or empty folder.")],
    settings: Annotated[IcPackageSettings, Parameter(name="*")] = IcPackageSettings(),  # noqa: B008
) -> None:
    """Photographs of IC packages with die defects, as PNG with COCO labels, corners and angles."""
    with image_bar("rendering") as progress:
        write_units(settings, out, progress)
    stdout.print(f"written: {out}", markup=False)


def simulate_tem_stack(
    *,
    out: Annotated[Path, Parameter(help="A new or empty folder.")],
    settings: Annotated[TemStackSettings, Parameter(name="*")] = TemStackSettings(),  # noqa: B008
) -> None:
    """TEM cross-sections of a device, as 16-bit TIFF with class maps and thickness truth."""
    with image_bar("rendering") as progress:
        write_sections(settings, out, progress)
    stdout.print(f"written: {out}", markup=False)
