"""Random views of a labelled image for training. Each is a function of its random generator alone.

Boxes, outlines and masks follow the pixels exactly: all geometry of a view is one affine map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.config import Settings
from semiscope.geometry import clip_boxes, crop, dense, rasterise, shape_box
from semiscope.types import Annotations, Mask, Pixels, Polygons, Shape

_LEAST_SIDE = 2.0  # pixels; what is left of a cut box below this is no example of anything
_LEAST_LEFT = 0.2  # share of a box that must stay in view


@dataclass(frozen=True, slots=True)
class Example:
    """Pixels with their instances, both in pixels of ``pixels``."""

    pixels: Pixels
    annotations: Annotations


class ViewSettings(Settings):
    """How a view differs from the file; 0 or false switches a change off."""

    flip_horizontal: float = Field(0.5, ge=0, le=1, description="Share mirrored left to right")
    flip_vertical: float = Field(0.0, ge=0, le=1, description="Share mirrored top to bottom")
    quarter_turns: bool = Field(False, description="Turn by a random multiple of 90 degrees")
    rotation_deg: float = Field(0.0, ge=0, le=180, description="Largest rotation either way")
    scale: float = Field(0.5, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale")
    translate: float = Field(0.1, ge=0, le=0.5, description="Largest shift, share of the side")
    brightness: float = Field(0.1, ge=0, le=1, description="Largest shift of the grey range")
    contrast: float = Field(0.2, ge=0, lt=1, description="Largest relative change of contrast")
    colour_cast: float = Field(0.0, ge=0, lt=1, description="Largest gain of one colour")
    shot_noise: float = Field(
        0.0, ge=0, le=1, description="Largest standard deviation of shot noise at white"
    )


class AugmentSettings(ViewSettings):
    """How views of images with instances differ, parts of other images included."""

    mosaic: float = Field(0.0, ge=0, le=1, description="Share of views joined from four images")
    paste: float = Field(
        0.05, ge=0, le=1, description="Share of views that get another image's instances"
    )


def warp(
    example: Example, matrix: NDArray[np.float64], height: int, width: int, fill: float
) -> Example:
    """An affine map of pixels and instances.

    Args:
        example: What to map.
        matrix: (2, 3): new x, y = matrix @ (x, y, 1), with (0, 0) the corner of the first pixel.
        height: Rows of the result.
        width: Columns of the result.
        fill: Grey level where nothing maps to.

    Returns:
        The mapped example; instances of which too little stays in view are dropped.
    """
    # cv2 puts (0, 0) at the centre of the first pixel, our coordinates at its corner
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    pixels = cv2.warpAffine(
        example.pixels,
        centred,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 3,
    )
    found = example.annotations
    corners = found.xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    xyxy = np.concatenate([moved.min(1), moved.max(1)], 1).astype(np.float32)
    shapes: list[Shape | None] | None = None
    if found.shapes is not None:
        shapes = [_move(s, matrix, centred, height, width) for s in found.shapes]
        for i, shape in enumerate(shapes):
            if isinstance(shape, Polygons) and shape.rings:
                xyxy[i] = shape_box(shape)
    whole = Annotations(
        xyxy, found.class_id, found.score, None if shapes is None else tuple(shapes)
    )
    return Example(pixels, _in_view(whole, (0, 0, width, height)))  # type: ignore[arg-type]


def _move(
    shape: Shape | None,
    matrix: NDArray[np.float64],
    centred: NDArray[np.float64],
    height: int,
    width: int,
) -> Shape | None:
    if isinstance(shape, Polygons):
        return Polygons(tuple(r @ matrix[:, :2].T + matrix[:, 2] for r in shape.rings))
    if isinstance(shape, Mask) and shape.bits.any():
        local = centred.copy()
        local[:, 2] += centred[:, :2] @ (shape.x, shape.y)
        bits = cv2.warpAffine(
            shape.bits.astype(np.uint8), local, (width, height), flags=cv2.INTER_NEAREST
        )
        if not bits.any():
            # a mask of a pixel or two may fall between the new pixels: its middle stays
            rows, columns = np.nonzero(shape.bits)
            middle = columns.mean() + shape.x + 0.5, rows.mean() + shape.y + 0.5
            x, y = np.floor(matrix[:, :2] @ middle + matrix[:, 2]).astype(int)
            if 0 <= x < width and 0 <= y < height:
                bits[y, x] = 1
        return crop(bits.astype(bool))
    if isinstance(shape, Mask):
        return shape
    return None


def _in_view(found: Annotations, window: tuple[int, int, int, int]) -> Annotations:
    """Boxes clipped to a window (left, top, right, bottom); those with too little left dropped."""
    left, top, right, bottom = window
    xyxy = found.xyxy.copy()
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    xyxy[:, 0::2] = xyxy[:, 0::2].clip(left, right)
    xyxy[:, 1::2] = xyxy[:, 1::2].clip(top, bottom)
    side = xyxy[:, 2:] - xyxy[:, :2]
    kept = (side.min(1, initial=np.inf) >= _LEAST_SIDE) & (side.prod(1) >= _LEAST_LEFT * area)
    return replace(found, xyxy=xyxy)[kept]


def random_affine(
    size: tuple[int, int],
    height: int,
    width: int,
    settings: ViewSettings,
    rng: np.random.Generator,
    focus: tuple[float, float] | None = None,
) -> NDArray[np.float64]:
    """A random (2, 3) map from an image of ``size`` (height, width) to a height x width view.

    ``focus`` (x, y) is the point of the image that comes to the view's centre, shifts apart; the
    image's own centre when None.
    """
    angle = math.radians(float(rng.uniform(-1, 1)) * settings.rotation_deg)
    turns = int(rng.integers(4)) if settings.quarter_turns else 0
    zoom = 1 + float(rng.uniform(-1, 1)) * settings.scale
    shift = rng.uniform(-1, 1, 2) * settings.translate * (width, height)
    mirror_x = -1.0 if rng.random() < settings.flip_horizontal else 1.0
    mirror_y = -1.0 if rng.random() < settings.flip_vertical else 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    if turns % 2 and focus is None:
        zoom *= min(height / size[1], width / size[0])
    quarter = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), turns)
    linear = np.array([[cos, -sin], [sin, cos]]) @ quarter @ np.diag([mirror_x, mirror_y]) * zoom
    centre = np.array([width / 2, height / 2]) + shift
    offset = centre - linear @ (focus or (size[1] / 2, size[0] / 2))
    return np.concatenate([linear, offset[:, None]], 1)


def view(
    example: Example,
    height: int,
    width: int,
    settings: AugmentSettings,
    rng: np.random.Generator,
    other: Callable[[np.random.Generator], Example],
    fill: float,
    focus: tuple[float, float] | None = None,
) -> Example:
    """One random view with the geometry of ``settings``: affine, mosaic, paste-in.

    Args:
        example: The image, about as large as the view.
        height: Rows of the view.
        width: Columns of the view.
        settings: What may change.
        rng: Decides everything.
        other: Draws another example of the data set for mosaic and paste-in.
        fill: Grey level of the background.
        focus: See ``random_affine``.
    """
    if rng.random() < settings.mosaic:
        result = _mosaic(
            [example] + [other(rng) for _ in range(3)], height, width, settings, rng, fill
        )
    else:
        matrix = random_affine(example.pixels.shape[:2], height, width, settings, rng, focus)
        result = warp(example, matrix, height, width, fill)
    if rng.random() < settings.paste:
        source = other(rng)
        matrix = random_affine(source.pixels.shape[:2], height, width, settings, rng)
        result = paste(result, warp(source, matrix, height, width, fill))
    return result


def _mosaic(
    examples: list[Example],
    height: int,
    width: int,
    settings: AugmentSettings,
    rng: np.random.Generator,
    fill: float,
) -> Example:
    """Four images, a quarter each, meeting at a random point."""
    x, y = int(rng.uniform(0.3, 0.7) * width), int(rng.uniform(0.3, 0.7) * height)
    canvas = np.full((height, width, *examples[0].pixels.shape[2:]), fill, examples[0].pixels.dtype)
    parts = []
    windows = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for example, (left, top, right, bottom) in zip(examples, windows, strict=True):
        columns, rows = right - left, bottom - top
        matrix = random_affine(example.pixels.shape[:2], rows, columns, settings, rng)
        matrix[:, 2] += (left, top)
        moved = warp(example, matrix, height, width, fill)
        canvas[top:bottom, left:right] = moved.pixels[top:bottom, left:right]
        parts.append(_in_view(moved.annotations, (left, top, right, bottom)))
    return Example(canvas, Annotations.concatenate(parts))


def paste(target: Example, source: Example) -> Example:
    """Copies the source's outlined instances onto the target, at their place.

    Instances without an outline, and those that would cover one of the target's boxes, stay behind.

    Args:
        target: Gets the pixels; as large as the source and of its type.
        source: Where the instances come from.
    """
    found = source.annotations
    if found.shapes is None:
        return target
    height, width = target.pixels.shape[:2]
    pixels, taken = target.pixels.copy(), []
    truth = target.annotations.xyxy
    for i, shape in enumerate(found.shapes):
        box = found.xyxy[i]
        apart = (
            (truth[:, 0] >= box[2])
            | (truth[:, 2] <= box[0])
            | (truth[:, 1] >= box[3])
            | (truth[:, 3] <= box[1])
        )
        if shape is None or not apart.all():
            continue
        mask = dense(rasterise(shape, height, width), height, width)
        pixels[mask] = source.pixels[mask]
        taken.append(i)
    added = found[np.array(taken, dtype=np.intp)]
    return Example(pixels, Annotations.concatenate([target.annotations, added]))


def photometric(
    values: NDArray[np.float32], settings: ViewSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Random brightness, contrast, colour cast and shot noise.

    Args:
        values: (H, W) or (H, W, 3) float32 scaled to [0, 1].
        settings: How much may change.
        rng: Decides everything.

    Returns:
        New values in [0, 1].
    """
    contrast = 1 + rng.uniform(-1, 1) * settings.contrast
    brightness = rng.uniform(-1, 1) * settings.brightness
    middle = float(values.mean())
    values = (values - np.float32(middle)) * np.float32(contrast) + np.float32(middle + brightness)
    if settings.colour_cast and values.ndim == 3:
        values *= (1 + rng.uniform(-1, 1, 3) * settings.colour_cast).astype(np.float32)
    np.clip(values, 0, 1, out=values)
    if settings.shot_noise:
        sigma = np.float32(rng.uniform(0, settings.shot_noise))
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        values += sigma * np.sqrt(values) * noise
        np.clip(values, 0, 1, out=values)
    return values


def draw_focus(example: Example, side: int, rng: np.random.Generator) -> tuple[float, float]:
    """A point about which a view of ``side`` pixels shows an instance, mostly, or anything.

    Three of four views are near an instance, since most of an image is free of them; the view stays
    within the image where that is possible.
    """
    rows, columns = example.pixels.shape[:2]
    found = example.annotations.xyxy
    if len(found) and rng.random() < 0.75:
        box = found[rng.integers(len(found))]
        point = (box[:2] + box[2:]) / 2 + rng.uniform(-0.35, 0.35, 2) * side
    else:
        point = rng.uniform(0, 1, 2) * (columns, rows)
    half = side / 2
    x, y = (
        min(max(round(v), min(half, n / 2)), max(n - half, n / 2))
        for v, n in zip(point, (columns, rows), strict=True)
    )
    return float(x), float(y)


def scaled(example: Example, factor: float) -> Example:
    """The example at another size; shrinking averages, so that fine lines do not alias."""
    if factor == 1.0:
        return example
    rows, columns = example.pixels.shape[:2]
    new = (max(1, round(rows * factor)), max(1, round(columns * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(example.pixels, (new[1], new[0]), interpolation=how)
    ratio = np.array([new[1] / columns, new[0] / rows])
    matrix = np.array([[ratio[0], 0, 0], [0, ratio[1], 0]])
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    found = example.annotations
    xyxy = clip_boxes(found.xyxy * np.tile(ratio, 2).astype(np.float32), *new)
    shapes = found.shapes and tuple(_move(s, matrix, centred, *new) for s in found.shapes)
    return Example(pixels, replace(found, xyxy=xyxy, shapes=shapes))  # type: ignore[arg-type]
