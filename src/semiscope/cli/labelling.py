"""The verb label: initial masks for whole folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from semiscope.cli.show import AsJson, image_bar, print_failed, print_json, stderr, stdout
from semiscope.label.prelabel import PrelabelSettings, prelabel


def label(
    images: Annotated[list[str], Parameter(help="Files, folders and glob patterns.")],
    /,
    *,
    settings: Annotated[PrelabelSettings, Parameter(name="*")],
    out: Annotated[Path, Parameter(help="The data set's folder, new or empty.")],
    resume: Annotated[bool, Parameter(help="Go on where a run was killed.", negative="")] = False,
    as_json: AsJson = False,
) -> int:
    """Write initial masks for a person to correct, with copies of the images."""
    with image_bar("labelling") as progress:
        summary = prelabel(images, settings, out, resume=resume, progress=progress)
    for note in summary.notes:
        stderr.print(f"note: {note}", markup=False)
    print_failed(summary.failed)
    if as_json:
        print_json(summary.to_dict())
    else:
        stdout.print(f"written: {out} ({summary.masks} masks on {summary.images} images)")
    return 2 if summary.failed else 0
