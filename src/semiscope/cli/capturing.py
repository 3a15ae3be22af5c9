"""The verb that finds packages in photographs and makes them upright."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from semiscope.capture.run import CaptureSettings, capture_images
from semiscope.cli.show import AsJson, image_bar, print_failed, print_json, stderr, stdout


def capture(
    images: Annotated[list[str], Parameter(help="Files, folders and glob patterns.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="A new or empty folder.")],
    settings: Annotated[CaptureSettings, Parameter(name="*")] = CaptureSettings(),  # noqa: B008
    resume: Annotated[bool, Parameter(help="Go on where a run was killed.", negative="")] = False,
    as_json: AsJson = False,
) -> int:
    """Find the package in each photograph and write it upright, with captures.json."""
    with image_bar("capturing") as progress:
        summary = capture_images(images, settings, out, resume=resume, progress=progress)
    for note in summary.notes:
        stderr.print(f"note: {note}", markup=False)
    print_failed(summary.failed)
    if as_json:
        print_json(summary.to_dict())
    else:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
        stdout.print(
            f"{summary.images} images, {summary.captured} captured{', ' * bool(reasons)}{reasons}, "
            f"{len(summary.failed)} files failed, {summary.images_per_second:.1f} images/s\n"
            f"results: {summary.results}",
            markup=False,
        )
    return summary.exit_status
