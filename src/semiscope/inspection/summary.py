"""What an inspection found, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semiscope.evaluate.inspection import VERDICTS
from semiscope.inspection.journal import Journal
from semiscope.inspection.labels import LABELS
from semiscope.inspection.results import is_bad
from semiscope.inspection.thresholds import DISPOSITIONS

RESULTS, TABLE, REPORT = "results.json", "defects.csv", "report.html"


@dataclass(frozen=True, slots=True)
class InspectionSummary:
    """The outcome of a run.

    Attributes:
        out: The run's folder.
        images: Images inspected, the failed ones left out.
        images_with_defects: Those with at least one reported defect.
        counts: Class -> accepted and for-review defects; of a classifier, images.
        verdicts: On units: how many pass, fail and are for review; empty for other images.
        dispositions: Of a classifier: how many images are accepted, for review and unknown; empty
            for other models.
        failed: File and reason.
        seconds: Time that this call took.
        images_per_second: Over the images that this call did; 0 when a resumed run had none left.
    """

    out: Path
    images: int
    images_with_defects: int
    counts: Mapping[str, tuple[int, int]]
    verdicts: Mapping[str, int]
    dispositions: Mapping[str, int]
    failed: tuple[tuple[str, str], ...]
    seconds: float
    images_per_second: float

    @property
    def defects(self) -> int:
        """Reported defects."""
        return sum(accept + review for accept, review in self.counts.values())

    @property
    def review(self) -> int:
        """Reported defects that a person should see."""
        return sum(review for _, review in self.counts.values())

    @property
    def units(self) -> str:
        """How many units pass, fail and are for review, in words; empty for other images."""
        return ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.items())

    @property
    def results(self) -> Path:
        """The COCO file."""
        return self.out / RESULTS

    @property
    def csv(self) -> Path:
        """The table of defects, or of labels."""
        return self.out / (LABELS if self.dispositions else TABLE)

    @property
    def report(self) -> Path:
        """The page."""
        return self.out / REPORT

    @property
    def exit_status(self) -> int:
        """For the command line: 2 when a file failed, else 0."""
        return 2 if self.failed else 0

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, for ``--json``."""
        found = {
            "images_with_defects": self.images_with_defects,
            "defects": self.defects,
            "review": self.review,
        }
        return {
            "images": self.images,
            **({"dispositions": dict(self.dispositions)} if self.dispositions else found),
            "counts": {name: {"accept": a, "review": r} for name, (a, r) in self.counts.items()},
            **({"verdicts": dict(self.verdicts)} if self.verdicts else {}),
            "failed": [{"file": file, "reason": reason} for file, reason in self.failed],
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "results": str(self.results),
            "csv": str(self.csv),
            "report": str(self.report),
        }


def summarise(
    journal: Journal,
    classes: Sequence[str],
    out: Path,
    made: int,
    seconds: float,
    labelled: bool = False,
) -> InspectionSummary:
    """Counts a run's rows.

    Args:
        journal: A row for each image of the run.
        classes: Names of the classes.
        out: The run's folder.
        made: Images that this call did.
        seconds: Time that it took.
        labelled: Whether a classifier made the rows.
    """
    counts = {name: [0, 0] for name in classes}
    verdicts: dict[str, int] = {}
    dispositions: dict[str, int] = dict.fromkeys(DISPOSITIONS, 0) if labelled else {}
    images = with_defects = 0
    failed = []
    for row in journal.rows():
        if is_bad(row):
            failed.append((row["file"], row["failed"]))
            continue
        images += 1
        with_defects += bool(row["defects"])
        if "verdict" in row:
            verdicts = verdicts or dict.fromkeys(VERDICTS, 0)
            verdicts[row["verdict"]] += 1
        if "label" in row:
            dispositions[row["disposition"]] += 1
            if row["disposition"] != "unknown":
                counts[row["label"]][row["disposition"] == "review"] += 1
        for defect in row["defects"]:
            counts[classes[defect["category_id"] - 1]][defect["disposition"] == "review"] += 1
    return InspectionSummary(
        out,
        images,
        with_defects,
        {name: (accept, review) for name, (accept, review) in counts.items()},
        verdicts,
        dispositions,
        tuple(failed),
        seconds,
        made / seconds if seconds else 0.0,
    )
