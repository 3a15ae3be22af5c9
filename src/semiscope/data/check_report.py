"""What a check of a data set gives, and how it is told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["fit", "fit with warnings", "unfit"]


class SplitCounts(BaseModel):
    """What one split holds.

    Attributes:
        images: Readable images.
        clean: Images that were looked at and show nothing.
        unlabelled: Images that nobody looked at.
        images_per_class: Images that show a class, by its name.
        instances_per_class: Instances of a class, by its name; images where the labels have no
            instances.
        instances_per_size: Instances with boxes "small", below 32 x 32 px in area, "medium", below
            96 x 96 px, and "large", in pixels of the image file: COCO's groups, as in Wong
            2023, 3.3.4.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    clean: int
    unlabelled: int
    images_per_class: dict[str, int]
    instances_per_class: dict[str, int]
    instances_per_size: dict[str, int]


class Problem(BaseModel):
    """One kind of fault.

    Attributes:
        severity: An error makes the data set unfit.
        what: The fault.
        count: How often it was met.
        advice: What to do.
        examples: Some places.
    """

    model_config = ConfigDict(frozen=True)

    severity: Literal["error", "warning"]
    what: str
    count: int
    advice: str
    examples: tuple[str, ...] = ()


class CheckReport(BaseModel):
    """The result of a check.

    Attributes:
        root: The data set's folder.
        format: Its format's name.
        classes: Class names.
        splits: Counts by split; "" where there are no splits.
        problems: Errors first.
        verdict: "unfit" when a problem is an error.
    """

    model_config = ConfigDict(frozen=True)

    root: str
    format: str
    classes: tuple[str, ...]
    splits: dict[str, SplitCounts]
    problems: tuple[Problem, ...]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")


_SIZES = {
    "(small instances)": "small",
    "(medium instances)": "medium",
    "(large instances)": "large",
}


def render(report: CheckReport) -> str:
    """The report as plain text: a table of counts, the problems, the verdict."""
    names = [*report.classes, "(clean)", "(not labelled)", "images", *_SIZES]
    width = max(map(len, names), default=0)
    splits = list(report.splits)
    lines = [f"{report.root}: {report.format}, {len(report.classes)} classes", ""]
    lines.append(" " * width + "".join(f"{split or 'all':>12}" for split in splits))
    for name in names:
        row = [_cell(report.splits[split], name) for split in splits]
        lines.append(f"{name:<{width}}" + "".join(f"{value:>12}" for value in row))
    for problem in report.problems:
        lines += ["", f"{problem.severity}: {problem.what} ({problem.count}). {problem.advice}"]
        lines += [f"  {example}" for example in problem.examples]
        if problem.count > len(problem.examples) > 0:
            lines.append(f"  and {problem.count - len(problem.examples)} more")
    return "\n".join([*lines, "", f"verdict: {report.verdict}", ""])


def _cell(counts: SplitCounts, name: str) -> int:
    special = {
        "(clean)": counts.clean,
        "(not labelled)": counts.unlabelled,
        "images": counts.images,
        **{size: counts.instances_per_size[name] for size, name in _SIZES.items()},
    }
    return special[name] if name in special else counts.instances_per_class[name]
