import base64

import cv2
import numpy as np
import pytest

from semiscope.report.page import Picture, Report


def jpeg():
    return base64.b64encode(cv2.imencode(".jpg", np.full((32, 32), 128, np.uint8))[1]).decode()


def make_picture(file, label, score, disposition, length=20.0, **changes):
    values = {
        "file": file,
        "label": label,
        "score": score,
        "disposition": disposition,
        "box": (10.0, 12.0, length, 8.0),
        "view": (0, 0, 96, 96),
        "image_size": (480, 480),
        "nm_per_px": 2.0,
        "area": 8 * length,
        "jpeg": jpeg(),
    }
    return Picture(**{**values, **changes})


def make_report(pictures, **changes):
    counts: dict[str, list[int]] = {}
    for p in pictures:
        counts.setdefault(p.label, [0, 0])[p.disposition == "review"] += 1
    values = {
        "title": "Defect report",
        "facts": {"Model": "m"},
        "classes": tuple(sorted(counts)) or ("gap",),
        "images": 7,
        "images_with_defects": 3,
        "counts": {k: tuple(v) for k, v in counts.items()},
        "lengths": np.array([p.box[2] * 2 for p in pictures]),
        "length_unit": "nm",
        "scores": np.array([p.score for p in pictures]),
        "review": np.array([p.disposition == "review" for p in pictures], bool),
        "pictures": pictures,
        "failed": (),
        "csv": "defects.csv",
    }
    return Report(**{**values, **changes})


@pytest.fixture
def picture():
    return make_picture


@pytest.fixture
def report():
    return make_report
