"""Finds, outlines, classifies and measures defects and structures in semiconductor images.

The names below are the public Python API. Each is loaded when first used, so that importing the
package, or asking the command line for help, takes no time.

    >>> import semiscope
    >>> model = semiscope.Model.load("sem-lines")
    >>> image = semiscope.read_image("review_0001.tif")
    >>> found = semiscope.detect(model, image.specimen)
    >>> found.xyxy, found.class_id, found.score
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from semiscope.data.dataset import open_dataset
    from semiscope.errors import SemiscopeError
    from semiscope.evaluate.detection import evaluate_detections
    from semiscope.infer.classifier import Classifier
    from semiscope.infer.model import Model
    from semiscope.infer.segmenter import Segmenter
    from semiscope.infer.tiled import detect
    from semiscope.inspection.pipeline import inspect
    from semiscope.inspection.settings import InspectSettings
    from semiscope.io.image import read_image
    from semiscope.types import Annotations, Dataset, Image, Mask, Polygons, Sample

__all__ = [
    "Annotations",
    "Classifier",
    "Dataset",
    "Image",
    "InspectSettings",
    "Mask",
    "Model",
    "Polygons",
    "Sample",
    "Segmenter",
    "SemiscopeError",
    "detect",
    "evaluate_detections",
    "inspect",
    "open_dataset",
    "read_image",
]

_HOMES = {
    "semiscope.types": ("Annotations", "Dataset", "Image", "Mask", "Polygons", "Sample"),
    "semiscope.errors": ("SemiscopeError",),
    "semiscope.infer.classifier": ("Classifier",),
    "semiscope.infer.model": ("Model",),
    "semiscope.infer.segmenter": ("Segmenter",),
    "semiscope.infer.tiled": ("detect",),
    "semiscope.inspection.pipeline": ("inspect",),
    "semiscope.inspection.settings": ("InspectSettings",),
    "semiscope.evaluate.detection": ("evaluate_detections",),
    "semiscope.data.dataset": ("open_dataset",),
    "semiscope.io.image": ("read_image",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'semiscope' has no attribute {name!r}")
