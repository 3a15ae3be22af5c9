"""Pixels of TIFF files: 8, 12 in 16, 16 bit and float; strips, tiles, pages."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from semiscope.errors import ImageError
from semiscope.io.header import check_size
from semiscope.io.microscope import Facts, tiff_facts
from semiscope.types import Pixels

# tifffile tells of odd tags by logging; without a handler Python would print that to standard error
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# what OpenCV cannot decode becomes an ImageError; its own lines on standard error add nothing
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# what tifffile decodes without its optional codecs; the rest is OpenCV's
_PLAIN = {1, 8, 32773, 32946}
_REDUCED_OR_MASK = 1 | 4


def read_tiff(data: bytes, path: Path, notes: list[str]) -> tuple[Pixels, Facts]:
    """The first page's pixels, and what the tags tell of them.

    Integers of more than 16 bits and doubles become float32; 16-bit integers with a sign become
    uint16 where nothing is negative, else float32.

    Args:
        data: The whole file.
        path: For the message.
        notes: Receives what a person should know: further pages, alpha.

    Returns:
        (H, W) or (H, W, 3) RGB, uint8, uint16 or float32; and the facts.

    Raises:
        ImageError: The file is damaged, too large, of a kind that is not read, or holds NaN.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = _first_page(file, path, len(data))
            pages = _count_images(file)
            pixels = _page_pixels(page, data, path)
            facts = tiff_facts(file, page)
            samples = int(page.samplesperpixel)
    except ImageError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise ImageError(path, f"the TIFF cannot be read: {error}") from error
    if pages > 1:
        notes.append(f"the file holds {pages} images; the first is used")
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        notes.append("the alpha channel was dropped")
        pixels = pixels[:, :, 0] if pixels.shape[2] == 2 else pixels[:, :, :3]
    elif pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(path, f"expected 1 or 3 channels, found {samples}")
    return _to_depth(pixels, path), facts


def read_tiff_size(file: BinaryIO, path: Path) -> tuple[int, int]:
    """(height, width) of the first page, from the directory alone.

    Raises:
        ImageError: The directory is damaged or claims too much.
    """
    try:
        with tifffile.TiffFile(file) as tiff:
            length = tiff.filehandle.size
            page = _first_page(tiff, path, length)
            return int(page.imagelength), int(page.imagewidth)
    except ImageError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise ImageError(path, f"the TIFF cannot be read: {error}") from error


def _first_page(file: tifffile.TiffFile, path: Path, length: int) -> tifffile.TiffPage:
    """The first page, once its size is known to be true."""
    page = file.pages[0]
    check_size(
        path,
        page.imagewidth,
        page.imagelength,
        length,
        page.samplesperpixel * page.bitspersample / 8,
    )
    if page.is_tiled:
        check_size(path, page.tilewidth, page.tilelength, length)
    reach = zip(page.dataoffsets, page.databytecounts, strict=False)
    if not page.dataoffsets or any(
        count == 0 or offset + count > length for offset, count in reach
    ):
        raise ImageError(path, "the TIFF is cut off: pixels are missing; copy it again")
    return page


def _count_images(file: tifffile.TiffFile) -> int:
    """Number of full images; thumbnails and transparency masks are not counted."""
    described = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
    full = sum(not int(page.subfiletype) & _REDUCED_OR_MASK for page in file.pages)
    return max(int(described), full)


def _page_pixels(page: tifffile.TiffPage, data: bytes, path: Path) -> NDArray[Any]:
    """(H, W) or (H, W, C): white is large, palettes are colours, colour is in RGB order."""
    white_is_zero, palette = int(page.photometric) == 0, int(page.photometric) == 3
    if int(page.compression) in _PLAIN and int(page.predictor) == 1:
        pixels: NDArray[Any] = page.asarray()
        if int(page.planarconfig) == 2 and pixels.ndim == 3:
            pixels = pixels.transpose(1, 2, 0)
        if palette:
            colours: NDArray[np.uint16] = page.colormap[:, pixels] >> 8
            return colours.transpose(1, 2, 0).astype(np.uint8)
        return _invert(pixels) if white_is_zero else pixels
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    size = (page.imagelength, page.imagewidth)
    if decoded is None or decoded.shape[:2] != size:
        raise ImageError(
            path,
            f"the TIFF cannot be decoded (compression {page.compression.name}, "
            f"{page.bitspersample} bit); it is damaged, or save it without compression",
        )
    if decoded.ndim == 3:
        return cv2.cvtColor(decoded[:, :, :3], cv2.COLOR_BGR2RGB)
    # OpenCV itself inverts what has at most 8 bits
    return _invert(decoded) if white_is_zero and decoded.dtype != np.uint8 else decoded


def _invert(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype.kind == "b":
        return ~pixels
    if pixels.dtype.kind == "u":
        return np.iinfo(pixels.dtype).max - pixels
    return pixels


def _to_depth(pixels: NDArray[Any], path: Path) -> Pixels:
    """The nearest of uint8, uint16 and float32 that loses nothing that a camera can give."""
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size <= 2:
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if kind in "ui":
        if pixels.min() >= 0 and pixels.max() <= 65535:
            return pixels.astype(np.uint16)
        return pixels.astype(np.float32)
    if kind != "f":
        raise ImageError(path, f"expected whole or real numbers as pixels, found {pixels.dtype}")
    real = pixels.astype(np.float32, copy=False)
    bad = int(pixels.size - np.count_nonzero(np.isfinite(real)))
    if bad:
        raise ImageError(
            path,
            f"{bad} of {pixels.size} pixel values are NaN or infinite; "
            "replace them where the image was made",
        )
    return real
