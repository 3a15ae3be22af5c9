"""Class maps laid over their images, and the part of a report that shows them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from semiscope.infer.decode import scale_range, to_tensor, with_channels
from semiscope.types import Pixels

COLOURS = (
    *("#1f77e0", "#e8590c", "#2b9348", "#ae3ec9", "#c9a100"),
    *("#0c8599", "#e64980", "#7a5c3e", "#5f3dc4", "#74b816"),
)
"""By class index, again from the first when there are more."""
_MOST_PX = 480
_OPAQUE = 0.35
_QUALITY = 82


def overlay(pixels: Pixels, indices: NDArray[np.uint8]) -> str:
    """An image with its classes in colour, their borders drawn full, as a JPEG in base64.

    Args:
        pixels: (H, W) or (H, W, 3), any depth.
        indices: (H, W) class indices.
    """
    height, width = indices.shape
    shrink = min(1.0, _MOST_PX / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    low_high = scale_range(pixels, "dtype" if pixels.dtype == np.uint8 else "percentile")
    small = cv2.resize(with_channels(pixels, 3), size, interpolation=cv2.INTER_AREA)
    grey = np.moveaxis(to_tensor(small, low_high, (0.0,) * 3, (1.0,) * 3), 0, -1)  # type: ignore[arg-type]
    found = cv2.resize(indices, size, interpolation=cv2.INTER_NEAREST)
    table = np.array([_rgb(c) for c in COLOURS], np.float32)
    colour = table[found % len(COLOURS)] / 255
    border = np.zeros(found.shape, bool)
    border[1:] |= found[1:] != found[:-1]
    border[:, 1:] |= found[:, 1:] != found[:, :-1]
    share = np.where(border, 1, _OPAQUE)[..., None]
    picture = (255 * (grey * (1 - share) + colour * share)).round().astype(np.uint8)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return base64.b64encode(data.tobytes()).decode()


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@dataclass(frozen=True, slots=True)
class MapPicture:
    """An image that is shown with its class map.

    Attributes:
        file: The image as the user named it.
        score: How sure the model is, the mean over the pixels.
        jpeg: The picture in base64.
        classes: Class -> share of the area, and "thickness" (median, px) or "thickness_nm".
    """

    file: str
    score: float
    jpeg: str
    classes: Mapping[str, Mapping[str, Any]]


def maps_section(pictures: Sequence[MapPicture], classes: Sequence[str], total: int) -> str:
    """The part of a report about class maps; nothing without any.

    Args:
        pictures: Those to show.
        classes: Names by class index.
        total: How many images have a class map.
    """
    if not pictures:
        return ""
    legend = "".join(
        f'<span class="key-map">{_swatch(index)} {escape(name)}</span>'
        for index, name in enumerate(classes)
    )
    shown = (
        f"All {total:,} images"
        if len(pictures) == total
        else (
            f"{len(pictures):,} of {total:,} images, those first of which the model is least sure"
        )
    )
    figures = "".join(_figure(p, classes) for p in pictures)
    return (
        '<section id="maps"><h2>Class maps</h2>'
        f'<p class="note">{shown}. Areas and thicknesses of all are in '
        '<a href="materials.csv">materials.csv</a>, the maps in class_maps/.</p>'
        f'<p class="legend">{legend}</p><div class="maps">{figures}</div></section>'
    )


def _figure(picture: MapPicture, classes: Sequence[str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_swatch(index)} {escape(name)}</th>'
        f'<td class="n">{100 * row["share"]:.2f} %</td><td class="n">{_thickness(row)}</td></tr>'
        for index, name in enumerate(classes)
        if (row := picture.classes[name])["area"]
    )
    return (
        f'<figure><img alt="Classes of {escape(picture.file)}" '
        f'src="data:image/jpeg;base64,{picture.jpeg}">'
        f"<figcaption>{escape(picture.file)}<small>mean score {picture.score:.3f}</small>"
        '</figcaption><table><thead><tr><th>Class</th><th class="n">Area</th>'
        f'<th class="n">Thickness</th></tr></thead><tbody>{rows}</tbody></table></figure>'
    )


def _swatch(index: int) -> str:
    colour = COLOURS[index % len(COLOURS)]
    return (
        '<svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">'
        f'<rect width="1" height="1" fill="{colour}"/></svg>'
    )


def _thickness(row: Mapping[str, Any]) -> str:
    """Median and 5th to 95th percentile."""
    for key, unit in (("thickness_nm", "nm"), ("thickness", "px")):
        values = row.get(key)
        if values:
            ends = f"{values['least']:.4g} to {values['most']:.4g}"
            return f"{values['median']:.4g} {unit} <small>{ends}</small>"
    return "-"
