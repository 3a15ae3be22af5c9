"""Simulated SEM images of line-space patterns with known defects, widths and roughness.

The classes, the counts and the splits of SEMI-DiffusionInst (Table I) are the defaults. A scene depends
on its settings, the seed and its index alone, so any process may render any of them in any order.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from semiscope.config import Settings
from semiscope.errors import SettingsError
from semiscope.io.files import write_atomic
from semiscope.io.image import write_tiff
from semiscope.io.coco import encode_rle
from semiscope.simulate import optics as sem
from semiscope.simulate.line_defects import DEFECTS, SPACES_NEEDED, Place, Window
from semiscope.simulate.line_space import (
    FloatArray,
    LineSpace,
    Roughness,
    draw_lines,
    edge_distance,
)
from semiscope.types import Annotations, Mask

CLASS_SETS: dict[str, tuple[str, ...]] = {
    "semi-diffusion": (
        "thin_bridge",
        "single_bridge",
        "multi_bridge_non_horizontal",
        "multi_bridge_horizontal",
        "line_collapse",
    ),
    "dehaerne": ("microbridge", "gap", "bridge", "line_collapse", "probable_gap"),
}

# train and val: images a class in SEMI-DiffusionInst's Table I; instances a class in Dehaerne 2023,
# whose 1053 training and 117 validation images hold several each
TABLES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "semi-diffusion": (
        dict(zip(CLASS_SETS["semi-diffusion"], (240, 240, 80, 160, 200), strict=True)),
        dict(zip(CLASS_SETS["semi-diffusion"], (30, 30, 10, 20, 30), strict=True)),
    ),
    "dehaerne": (
        dict(zip(CLASS_SETS["dehaerne"], (380, 1046, 238, 550, 315), strict=True)),
        dict(zip(CLASS_SETS["dehaerne"], (47, 156, 19, 66, 49), strict=True)),
    ),
}
TRAIN_SHARE = 920 / 1040

MARGIN_PX = 10
LEAST_MASK_PX = 10
# cut further by the image's border, a defect could pass for one of another class
LEAST_IN_VIEW = 0.7
TRIES = 30


class PatternSettings(Settings):
    """The printed pattern; a range is drawn from evenly, once an image."""

    nm_per_px: sem.Range = Field((0.7, 1.4), description="Width of a pixel, nm.")
    pitch_nm: sem.Range = Field((30.0, 64.0), description="Distance from line to line, nm.")
    duty: sem.Range = Field((0.4, 0.62), description="Line width over pitch.")
    pitch_walk_nm: sem.Range = Field((0.0, 1.5), description="Shift of every other line, nm.")
    roughness_nm: sem.Range = Field((0.5, 1.6), description="Edge roughness, one sigma, nm.")
    correlation_length_nm: sem.Range = Field((8.0, 40.0), description="Of the roughness, nm.")
    roughness_exponent: sem.Range = Field((0.4, 0.8), description="Of the roughness spectrum.")
    edge_correlation: sem.Range = Field((0.0, 0.6), description="Of a line's two edges.")
    tilt_deg: sem.Range = Field((-2.5, 2.5), description="Of the lines, degrees.")
    horizontal: float = Field(
        0.25, ge=0, le=1, description="Share of images whose lines run from left to right."
    )
    etched: float = Field(
        0.5, ge=0, le=1, description="Share of images with etched contrast; the others are resist."
    )


class SemLinesSettings(Settings):
    """What to simulate."""

    count: int = Field(1040, ge=1, description="Number of images.")
    seed: int = Field(0, ge=0, description="The same seed gives the same bytes.")
    split: Literal["train-val", "test"] = Field(
        "train-val", description="train-val in the paper's proportion, or one test set."
    )
    classes: str = Field(
        "semi-diffusion",
        description="semi-diffusion, dehaerne, or names of defects separated by commas.",
    )
    distribution: Literal["table1", "uniform"] = Field(
        "table1", description="Images a class: as in the paper of the class set, or all the same."
    )
    clean_fraction: float = Field(0.0, ge=0, le=1, description="Share of images with no defect.")
    defects: int = Field(1, ge=1, le=8, description="Most defects an image.")
    width: int = Field(480, ge=64, le=8192, description="Pixels.")
    height: int = Field(480, ge=64, le=8192, description="Pixels.")
    workers: int = Field(0, ge=0, description="Processes; 0 is one a core.")
    pattern: PatternSettings = Field(PatternSettings(), description="The printed pattern.")
    optics: sem.OpticsSettings = Field(sem.OpticsSettings(), description="The instrument.")

    @field_validator("classes")
    @classmethod
    def _known(cls, value: str) -> str:
        names = _names(value)
        unknown = [name for name in names if name not in DEFECTS]
        if unknown or len(set(names)) < len(names):
            raise ValueError(
                f"unknown or repeated: {', '.join(unknown) or value}; choose "
                f"{' or '.join(CLASS_SETS)}, or from {', '.join(DEFECTS)}"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        smallest = self.pattern.pitch_nm[0] / self.pattern.nm_per_px[1]
        if smallest < 4:
            raise ValueError(
                f"the pitch must be at least 4 px to be resolved, found {smallest:.2f} px: raise "
                "pattern.pitch_nm or lower pattern.nm_per_px"
            )
        largest = self.pattern.pitch_nm[1] / self.pattern.nm_per_px[0]
        if 5 * largest > min(self.width, self.height):
            raise ValueError(
                f"the image must hold at least 5 pitches of {largest:.0f} px, found "
                f"{self.width} x {self.height} px: lower pattern.pitch_nm or raise width and height"
            )
        if self.distribution == "table1" and self.classes not in TABLES:
            raise ValueError(
                f"distribution table1 is for {' or '.join(TABLES)}; use uniform for a list of names"
            )
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by index."""
        return _names(self.classes)


def _names(classes: str) -> tuple[str, ...]:
    return CLASS_SETS.get(classes) or tuple(n.strip() for n in classes.split(",") if n.strip())


@dataclass(frozen=True, slots=True)
class Metrology:
    """The truth to measure against, of the specimen without its defects.

    Attributes:
        nm_per_px: Width of a pixel.
        pitch_nm: Perpendicular distance from line to line.
        cd_nm: Mean perpendicular line width over all rows of the lines that are wholly in view.
        ler_3sigma_nm: Three deviations of an edge about its own straight line, root mean square over
            the edges of those lines.
        lwr_3sigma_nm: Three deviations of a line's width about its own mean, likewise.
        roughness_nm: One sigma of an edge of endless length, as asked for.
        correlation_length_nm: Of the roughness.
        roughness_exponent: Of the roughness spectrum.
        edge_correlation: Of a line's two edges.
        tilt_deg: Of the lines to the columns (to the rows when horizontal).
        orientation: "vertical" or "horizontal".
        contrast: "resist" or "etched".
        electrons: Mean electrons a pixel.
        beam_nm: Beam blur, one sigma.
    """

    nm_per_px: float
    pitch_nm: float
    cd_nm: float
    ler_3sigma_nm: float
    lwr_3sigma_nm: float
    roughness_nm: float
    correlation_length_nm: float
    roughness_exponent: float
    edge_correlation: float
    tilt_deg: float
    orientation: str
    contrast: str
    electrons: float
    beam_nm: float


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One simulated image with its truth.

    Attributes:
        pixels: (height, width) uint16.
        signal: (height, width) float32, what the beam saw: distorted and blurred, before noise.
        nm_per_px: Width of a pixel.
        annotations: Instances; every shape is a Mask, one connected piece, and every box its extent.
        metrology: Widths and roughness.
        split: "train", "val" or "test".
    """

    pixels: NDArray[np.uint16]
    signal: FloatArray
    nm_per_px: float
    annotations: Annotations
    metrology: Metrology
    split: str


def render_scene(settings: SemLinesSettings, index: int, with_defects: bool = True) -> Scene:
    """One scene, the same whenever and wherever it is rendered.

    Args:
        settings: What to simulate.
        index: 0 to settings.count - 1; training scenes come before validation scenes.
        with_defects: Whether to put the defects in; all else stays as it is.

    Raises:
        SettingsError: There is no such index.
    """
    plan = _plan(settings)
    if not 0 <= index < len(plan):
        raise SettingsError(f"scene {index}: expected an index from 0 to {len(plan) - 1}")
    split, chosen = plan[index]
    seeds = np.random.SeedSequence((settings.seed, settings.split == "test", index)).spawn(4)
    rng_pattern, rng_defects, rng_optics, rng_noise = (np.random.default_rng(s) for s in seeds)
    pattern = settings.pattern
    nm_per_px = round(rng_pattern.uniform(*pattern.nm_per_px), 4)
    horizontal = bool(rng_pattern.random() < pattern.horizontal)
    lines, metrology = _draw_pattern(rng_pattern, settings, nm_per_px, horizontal)
    instrument = sem.draw_optics(rng_optics, settings.optics, nm_per_px)
    etched = bool(rng_optics.random() < pattern.etched)
    material = _draw_material(rng_optics, settings.optics, nm_per_px, etched)
    shifts = sem.scan_shifts(rng_optics, instrument, settings.height)

    distance = edge_distance(lines)
    signal = material.signal(distance)
    outlines: list[tuple[int, FloatArray]] = []
    taken: list[Window] = []
    names = settings.class_names
    for class_id in _classes_of(rng_defects, settings, chosen) if with_defects else ():
        name = names[class_id]
        for _ in range(TRIES):
            place = _draw_place(rng_defects, lines, SPACES_NEEDED.get(name, 1))
            defect = DEFECTS[name](rng_defects, lines, distance, place)
            outline = np.full(distance.shape, -1, np.float32)
            outline[defect.window.slices] = defect.outline
            outline = outline.T if horizontal else outline
            seen = sem.scan(np.ascontiguousarray(outline), shifts, MARGIN_PX, settings.width, False)
            in_view = np.count_nonzero(seen > 0)
            least = max(LEAST_MASK_PX, LEAST_IN_VIEW * np.count_nonzero(defect.outline > 0))
            if in_view >= least and not any(defect.window.touches(w) for w in taken):
                break
        else:
            continue
        window = defect.window.slices
        after = material.signal(defect.distance)
        signal[window] += np.float32(defect.strength) * (after - signal[window])
        distance[window] = defect.distance
        taken.append(defect.window)
        outlines.append((class_id, seen))

    image = np.ascontiguousarray(signal.T) if horizontal else signal
    image = sem.blur(image, instrument)
    image = sem.scan(image, shifts, MARGIN_PX, settings.width, True)
    metrology = Metrology(
        **metrology,
        orientation="horizontal" if horizontal else "vertical",
        contrast="etched" if etched else "resist",
        electrons=instrument.electrons,
        beam_nm=instrument.beam * nm_per_px,
    )
    return Scene(
        sem.detect(rng_noise, image, instrument),
        image,
        nm_per_px,
        _annotations(outlines),
        metrology,
        split,
    )


def _draw_pattern(
    rng: np.random.Generator, settings: SemLinesSettings, nm_per_px: float, horizontal: bool
) -> tuple[LineSpace, dict[str, Any]]:
    """The lines of a scene, in their own frame, and the truth about them."""
    pattern = settings.pattern
    pitch_nm = rng.uniform(*pattern.pitch_nm)
    cd_nm = pitch_nm * rng.uniform(*pattern.duty)
    # rougher than this, lines would touch by themselves and be defects without a label
    calm = 0.11 * min(cd_nm, pitch_nm - cd_nm)
    sigma_nm = min(rng.uniform(*pattern.roughness_nm), calm)
    walk_nm = min(rng.uniform(*pattern.pitch_walk_nm), calm)
    length_nm = rng.uniform(*pattern.correlation_length_nm)
    exponent = rng.uniform(*pattern.roughness_exponent)
    tie = rng.uniform(*pattern.edge_correlation)
    tilt = rng.uniform(*pattern.tilt_deg)
    rows, columns = settings.height, settings.width
    if horizontal:
        rows, columns = columns, rows
    lines = draw_lines(
        rng,
        rows + 2 * MARGIN_PX,
        columns + 2 * MARGIN_PX,
        pitch_nm / nm_per_px,
        cd_nm / nm_per_px,
        tilt,
        walk_nm / nm_per_px,
        Roughness(sigma_nm / nm_per_px, length_nm / nm_per_px, exponent, tie),
    )
    view = slice(MARGIN_PX, MARGIN_PX + rows)
    left, right = lines.left[:, view], lines.right[:, view]
    whole = (left.min(axis=1) >= MARGIN_PX) & (right.max(axis=1) <= MARGIN_PX + columns)
    to_nm = lines.cos_tilt * nm_per_px
    widths = (right - left)[whole].astype(np.float64) * to_nm
    edges = np.concatenate([left[whole], right[whole]]).astype(np.float64) * to_nm
    return lines, {
        "nm_per_px": nm_per_px,
        "pitch_nm": pitch_nm,
        "cd_nm": float(widths.mean()),
        "ler_3sigma_nm": 3 * _deviation(edges, 1),
        "lwr_3sigma_nm": 3 * _deviation(widths, 0),
        "roughness_nm": sigma_nm,
        "correlation_length_nm": length_nm,
        "roughness_exponent": exponent,
        "edge_correlation": tie,
        "tilt_deg": tilt,
    }


def _deviation(profiles: NDArray[np.float64], degree: int) -> float:
    """Root mean square of each row of (n, k) about its own polynomial of this degree."""
    t = np.linspace(-1, 1, profiles.shape[1])
    rest = profiles - profiles.mean(axis=1, keepdims=True)
    if degree == 1:
        rest = rest - (rest @ t / (t @ t))[:, None] * t
    return float(np.sqrt(np.mean(rest**2)))


def _draw_material(
    rng: np.random.Generator, optics: sem.OpticsSettings, nm_per_px: float, etched: bool
) -> sem.Material:
    """Etched lines are bright on dark; resist is grey on grey and shows mostly its edges."""
    if etched:
        space = rng.uniform(0.08, 0.25)
        line = rng.uniform(0.55, 0.8)
        bloom = rng.uniform(0.05, 0.3)
    else:
        space = rng.uniform(0.2, 0.35)
        line = space + rng.uniform(0.1, 0.3)
        bloom = rng.uniform(0.25, 0.6)
    return sem.Material(
        line,
        space,
        bloom,
        rng.uniform(*optics.bloom_inner_nm) / nm_per_px,
        rng.uniform(*optics.bloom_outer_nm) / nm_per_px,
        rng.uniform(0.0, 0.2) * space,
    )


def _draw_place(rng: np.random.Generator, lines: LineSpace, spaces: int) -> Place:
    """A place in view for a defect that needs so many spaces."""
    edge = MARGIN_PX + 6
    row = rng.uniform(edge, lines.rows - edge)
    at = int(row)
    inside = np.flatnonzero(
        (lines.left[:, at] > MARGIN_PX) & (lines.right[:, at] < lines.columns - MARGIN_PX)
    )
    last = int(inside[-1])
    line = int(rng.integers(inside[0], max(int(inside[0]), last - spaces) + 1))
    return Place(line, float(row), last - line)


def _classes_of(
    rng: np.random.Generator, settings: SemLinesSettings, chosen: int | None
) -> list[int]:
    """The planned class, and further ones at random when more than one defect an image is asked."""
    if chosen is None:
        return []
    more = int(rng.integers(0, settings.defects))
    return [chosen, *(int(c) for c in rng.integers(0, len(settings.class_names), more))]


def _annotations(outlines: list[tuple[int, FloatArray]]) -> Annotations:
    """Masks of the largest piece of each outline, and their boxes."""
    boxes, classes, masks = [], [], []
    for class_id, field in outlines:
        bits = (field > 0).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(bits, connectivity=8)
        best = 1 + int(np.argmax(stats[1:count, cv2.CC_STAT_AREA]))
        x, y, w, h = (int(v) for v in stats[best][:4])
        masks.append(Mask(x, y, labels[y : y + h, x : x + w] == best))
        boxes.append((x, y, x + w, y + h))
        classes.append(class_id)
    if not masks:
        return Annotations.empty()
    return Annotations(
        np.array(boxes, np.float32), np.array(classes, np.int64), shapes=tuple(masks)
    )


@lru_cache(maxsize=8)
def _plan(settings: SemLinesSettings) -> tuple[tuple[str, int | None], ...]:
    """Split and class index of every scene; None for a clean one."""
    if settings.split == "test":
        parts = [("test", settings.count)]
    else:
        train = round(settings.count * TRAIN_SHARE)
        parts = [("train", train), ("val", settings.count - train)]
    plan: list[tuple[str, int | None]] = []
    for number, (split, count) in enumerate(parts):
        clean = round(count * settings.clean_fraction)
        classes: list[int | None] = [None] * clean
        for class_id, images in enumerate(shares(_weights(settings, split), count - clean)):
            classes += [class_id] * images
        order = np.random.default_rng((settings.seed, number, 7)).permutation(count)
        plan += [(split, classes[i]) for i in order]
    return tuple(plan)


def _weights(settings: SemLinesSettings, split: str) -> list[int]:
    names = settings.class_names
    if settings.distribution == "uniform":
        return [1] * len(names)
    train, val = TABLES[settings.classes]
    if split == "test":
        return [train[n] + val[n] for n in names]
    return [(train if split == "train" else val)[n] for n in names]


def shares(weights: list[int], count: int) -> list[int]:
    """Whole numbers in proportion to the weights that add up to count (largest remainder)."""
    total = sum(weights)
    whole = [count * w // total for w in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(count * weights[i] % total), i))
    for i in by_remainder[: count - sum(whole)]:
        whole[i] += 1
    return whole


Progress = Callable[[int], None]
"""Is told after each image how many are written."""


def write_scenes(
    settings: SemLinesSettings, destination: Path, progress: Progress | None = None
) -> None:
    """Writes all scenes as a COCO data set.

    ``destination/{train,val,test}/images/*.tif`` (16 bit, with the size of a pixel) with
    ``annotations.json`` beside each ``images``; ``classes.txt`` and ``scenes.csv`` (a row an image:
    split, file, class and the fields of Metrology) at the top.

    Args:
        settings: What to simulate.
        destination: A folder that is empty or not there yet.
        progress: See Progress.

    Raises:
        SettingsError: The folder holds something.
        SemiscopeError: The disk is full or the folder cannot be written.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise SettingsError(
            f"{destination}: expected an empty or new folder for the scenes, found "
            f"{'a folder with files in it' if destination.is_dir() else 'a file'}: "
            "choose another one or empty it"
        )
    records = []
    for record in _render_all(settings, destination):
        records.append(record)
        if progress is not None:
            progress(len(records))
    categories = [{"id": i + 1, "name": n} for i, n in enumerate(settings.class_names)]
    for split in dict.fromkeys(r["split"] for r in records):
        write_atomic(
            destination / split / "annotations.json",
            json.dumps(_coco([r for r in records if r["split"] == split], categories)),
        )
    write_atomic(destination / "scenes.csv", _table(records, settings.class_names))
    write_atomic(destination / "classes.txt", "\n".join(settings.class_names) + "\n")


def _render_all(settings: SemLinesSettings, destination: Path) -> Iterator[dict[str, Any]]:
    workers = min(settings.workers or os.cpu_count() or 1, settings.count)
    if workers == 1:
        yield from map(_write_one, repeat(settings), repeat(destination), range(settings.count))
        return
    # a forked child would inherit the locks of the threads of whoever calls
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
    with pool:
        yield from pool.map(
            _write_one,
            repeat(settings),
            repeat(destination),
            range(settings.count),
            chunksize=4,
        )


def _write_one(settings: SemLinesSettings, destination: Path, index: int) -> dict[str, Any]:
    """Renders and writes a scene; what the label files need of it comes back."""
    scene = render_scene(settings, index)
    height, width = scene.pixels.shape
    name = f"scene_{index:06d}.tif"
    write_tiff(destination / scene.split / "images" / name, scene.pixels, scene.nm_per_px)
    instances = [
        {
            "class_id": int(class_id),
            "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            "area": mask.area,
            "segmentation": encode_rle(mask, height, width),
        }
        for (x0, y0, x1, y1), class_id, mask in zip(
            scene.annotations.xyxy.tolist(),
            scene.annotations.class_id,
            scene.annotations.shapes or (),
            strict=True,
        )
        if isinstance(mask, Mask)
    ]
    return {
        "split": scene.split,
        "file_name": name,
        "height": height,
        "width": width,
        "metrology": asdict(scene.metrology),
        "instances": instances,
    }


def _coco(records: list[dict[str, Any]], categories: list[dict[str, Any]]) -> dict[str, Any]:
    images, annotations = [], []
    for image_id, record in enumerate(records, 1):
        images.append(
            {"id": image_id}
            | {k: record[k] for k in ("file_name", "height", "width")}
            | {"nm_per_px": record["metrology"]["nm_per_px"], "metrology": record["metrology"]}
        )
        for instance in record["instances"]:
            fields_ = {k: instance[k] for k in ("bbox", "area", "segmentation")}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
                | {"category_id": instance["class_id"] + 1}
                | fields_
            )
    return {"images": images, "categories": categories, "annotations": annotations}


def _table(records: list[dict[str, Any]], classes: tuple[str, ...]) -> str:
    text = io.StringIO()
    columns = [f.name for f in fields(Metrology)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "file_name", "classes", *columns])
    for record in records:
        names = " ".join(classes[i["class_id"]] for i in record["instances"])
        values = (record["metrology"][c] for c in columns)
        row = (f"{v:.6g}" if isinstance(v, float) else v for v in values)
        writer.writerow([record["split"], record["file_name"], names, *row])
    return text.getvalue()
