"""The verb novelty: the unknown images of an inspection in groups."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from semiscope.cli.show import AsJson, image_bar, print_failed, print_json, stderr, stdout
from semiscope.inspection.novelty import GROUPS, NoveltySettings, find_novelties


def novelty(
    run: Annotated[Path, Parameter(help="The folder of an inspection by a classifier.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="A new or empty folder.")],
    settings: Annotated[NoveltySettings, Parameter(name="*")] = NoveltySettings(),  # noqa: B008
    as_json: AsJson = False,
) -> int:
    """Group the unknown images into candidates for new classes, for a person to name."""
    with image_bar("groups") as progress:
        found = find_novelties(run, out, settings, progress)
    print_failed(found.failed)
    if found.left_out:
        stderr.print(f"not grouped: {len(found.left_out)} less strange images", markup=False)
    if as_json:
        print_json(found.to_dict())
    else:
        table = Table("group", "images", "nearest known classes")
        for group in found.groups:
            like = ", ".join(f"{label} {count}" for label, count in group.like[:3])
            table.add_row(group.name, str(len(group.files)), like)
        stdout.print(table)
        stdout.print(f"alone: {len(found.alone)} images", markup=False)
        stdout.print(f"written: {out / GROUPS} and a montage a group", markup=False)
    return 2 if found.failed else 0
