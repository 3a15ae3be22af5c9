"""Table 1's question on real images: IoU of prompted masks, region by region (SeSAMI).

    python benchmarks/prompts.py --data ../shared/data [--close-up] mobile-sam.onnx adapted.onnx
        [deeplab.onnx]

Rows are the classes of the test images of ``cross_sections`` and of ``em_particles``. A promptable
model is asked for each region by its box and by the point deepest inside of it; a segmenter is not
asked: of its connected regions of the class the one that fits best counts. Regions of more than 100
px count, the 10 largest of an image and class. ``closed`` is the part of the first model's distance
to 1 that another model closes, by boxes. Lines in comment marks after each set tell the time of
decoding one prompt from a remembered embedding, on --threads cores. --only NAME … takes some sets.
--close-up asks for small regions in enlarged parts of the image, as the setting of that name does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.evaluate.promptable import true_regions
from semiscope.geometry import crop, mask_iou, shape_box
from semiscope.infer.promptable import Promptable
from semiscope.infer.segmenter import Segmenter, is_segmenter, regions
from semiscope.inspection.score_promptable import PromptKind, open_regions, region_ious
from semiscope.io.image import read_image
from semiscope.types import Annotations, Mask

SETS = ("ebc", "superalloy", "superalloy_other")
PARTICLES = "em_particles"
REPETITIONS = 15

Images = list[tuple[Path, Annotations]]


class Asked(NamedTuple):
    """A model, and what it is asked with; None for a segmenter."""

    file: str
    model: Promptable | Segmenter
    prompts: PromptKind | None
    close_up: bool = False


def sets(data: Path, only: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...], Images]]:
    """Name, classes and labelled test images of each set."""
    for name in SETS:
        if not only or name in only:
            found = open_regions(data / "cross_sections" / name, "test")
            yield name, found.classes, [(s.path, s.annotations) for s in found if s.annotations]
    if not only or PARTICLES in only:
        maps = sorted((data / PARTICLES / "segmaps").iterdir())
        folder = data / PARTICLES / "images"
        yield PARTICLES, ("particle",), [(folder / m.name, particles(m)) for m in maps]


def particles(path: Path) -> Annotations:
    """The instances of a map of numbers."""
    numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    masks = tuple(crop(numbers == i) for i in np.unique(numbers[numbers > 0]))
    boxes = np.stack([shape_box(m) for m in masks])
    return Annotations(boxes, np.zeros(len(masks), np.int64), shapes=masks)


def overlap(
    asked: Asked,
    path: Path,
    classes: tuple[str, ...],
    class_id: NDArray[np.int64],
    truth: Sequence[Mask],
) -> NDArray[np.float64]:
    """(n,) IoU of an image's regions."""
    pixels = read_image(path).pixels
    if isinstance(asked.model, Promptable):
        assert asked.prompts is not None
        return region_ious(asked.model, pixels, truth, asked.prompts, asked.close_up)
    names = asked.model.meta.classes
    found = regions(asked.model.segment(pixels), range(len(names)))
    best = np.zeros(len(truth))
    for i, region in enumerate(truth):
        same = [
            s
            for s, c in zip(found.shapes or (), found.class_id, strict=True)
            if isinstance(s, Mask) and names[c] == classes[class_id[i]]
        ]
        if same:
            best[i] = mask_iou([region], same).max()
    return best


def seconds(model: Promptable, path: Path) -> float:
    """Of decoding one box from a remembered embedding, the median."""
    pixels = read_image(path).pixels
    embedding = model.encode(pixels)
    height, width = pixels.shape[:2]
    box = [[width / 4, height / 4, width / 2, height / 2]]
    taken = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        model.decode(embedding, boxes=box)
        taken.append(time.perf_counter() - started)
    return median(taken)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", help="promptable models and segmenters, .onnx files")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public sets")
    parser.add_argument("--only", nargs="*", default=[], help="names of the sets")
    parser.add_argument("--close-up", action="store_true", help="ask both ways, whole and close up")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    columns: list[Asked] = []
    for file in options.models:
        if is_segmenter(file):
            columns.append(Asked(file, Segmenter.load(file, options.threads), None))
        else:
            model = Promptable.load(file, options.threads)
            ways = (False, True) if options.close_up else (False,)
            kinds: tuple[PromptKind, ...] = ("box", "point")
            columns += [Asked(file, model, kind, way) for way in ways for kind in kinds]
    names = [
        ", ".join([Path(c.file).stem, *filter(None, [c.prompts]), *["close up"] * c.close_up])
        for c in columns
    ]
    boxes = [i for i, c in enumerate(columns) if c.prompts == "box"]
    closed = [f"{names[i]}: closed" for i in boxes[1:]]
    print("| " + " | ".join(["set", "class", "regions", *names, *closed]) + " |")
    print("|---" * (3 + len(names) + len(closed)) + "|")
    for name, classes, images in sets(options.data, options.only):
        found: list[list[NDArray[np.float64]]] = [[] for _ in columns]
        class_ids = []
        for path, truth in images:
            class_id, masks = true_regions(truth, read_image(path).pixels.shape[:2])
            class_ids.append(class_id)
            for results, asked in zip(found, columns, strict=True):
                results.append(overlap(asked, path, classes, class_id, masks))
        every = np.concatenate(class_ids)
        for kind in np.unique(every):
            own = every == kind
            iou = [float(np.concatenate(f)[own].mean()) for f in found]
            shares = [(iou[i] - iou[boxes[0]]) / (1 - iou[boxes[0]]) for i in boxes[1:]]
            cells = [*(f"{v:.3f}" for v in iou), *(f"{100 * s:.0f} %" for s in shares)]
            row = [name, classes[kind], str(own.sum()), *cells]
            print("| " + " | ".join(row) + " |", flush=True)
        for i in boxes:
            model = columns[i].model
            if columns[i].close_up:
                continue
            assert isinstance(model, Promptable)
            print(f"<!-- {names[i]}: {1000 * seconds(model, images[0][0]):.0f} ms a prompt -->")


if __name__ == "__main__":
    main()
