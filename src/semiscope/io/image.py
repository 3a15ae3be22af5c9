"""Images from PNG, JPEG, BMP and TIFF files; TIFF files with a pixel size in their tags.

A file is read from disk once and judged by its content, never by its name. Pixels keep their depth.
Colour is kept where the file shows colour; a file whose three channels hold the same grey comes
back grey. What the decoders would pass in silence - half a file, a header that claims gigabytes,
NaN - is an error here.
"""

from __future__ import annotations

import glob
import io
import os
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from semiscope.errors import DataError, ImageError
from semiscope.io.files import write_atomic
from semiscope.io.header import (
    PNG_SIGNATURE,
    Header,
    check_size,
    check_whole,
    png_chunks,
    read_header,
)
from semiscope.io.info_bar import find_info_bar
from semiscope.io.microscope import Facts, settle, sidecar_facts
from semiscope.io.tiff import read_tiff, read_tiff_size
from semiscope.types import Image, Pixels

_SUFFIX_KIND = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
IMAGE_SUFFIXES = frozenset(_SUFFIX_KIND)
_NAMES = {"png": "PNG", "jpeg": "JPEG", "bmp": "BMP", "tiff": "TIFF"}

# differences between channels up to this many of 255 levels are no colour
_COLOUR_LEVELS = 6
# bytes that hold the frame header of any JPEG but one with a very long preamble
_HEAD_BYTES = 1 << 16


def read_image(path: str | Path) -> Image:
    """Reads one image.

    Of a file with several pages the first is read. Transparency is dropped. Both are told in the
    notes, as is a name that does not fit the content and a pixel size that contradicts itself.

    Args:
        path: A PNG, JPEG, BMP or TIFF file.

    Returns:
        The image.

    Raises:
        ImageError: The file cannot be opened, is not one of the four formats, is cut off or
            damaged, claims more pixels than are read (``header.MAX_PIXELS``), or holds NaN or
            infinity.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(path, "there is no such file") from None
    except OSError as error:
        raise ImageError(path, f"cannot be opened: {error.strerror}") from None
    header = read_header(data, path)
    notes: list[str] = []
    named = _SUFFIX_KIND.get(path.suffix.lower())
    if named is not None and named != header.kind:
        notes.append(f"named {path.suffix} but holds a {_NAMES[header.kind]} image")
    facts = Facts()
    if header.kind == "tiff":
        pixels, facts = read_tiff(data, path, notes)
    else:
        check_size(path, header.width, header.height, len(data), max(header.channels, 1) / 8)
        check_whole(data, header, path)
        pixels = _decode(data, header, path, notes)
    beside = sidecar_facts(path)
    nm_per_px, doubts = settle(facts.scales + beside.scales, pixels.shape[1])
    height = pixels.shape[0]
    rows = facts.rows
    known = rows is not None and height // 2 <= rows <= height
    bar = height - rows if known else find_info_bar(pixels)
    return Image(
        grey_if_equal(pixels),
        nm_per_px,
        facts.modality or beside.modality,
        path,
        bar,
        (*notes, *doubts),
    )


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image, from its header alone.

    Raises:
        ImageError: The file cannot be opened or its header is not that of a readable image.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if head.startswith(b"\xff\xd8\xff"):
                try:
                    header = read_header(head, path)
                except ImageError:
                    header = read_header(head + file.read(), path)
            else:
                header = read_header(head, path)
            length = os.fstat(file.fileno()).st_size
            if header.kind == "tiff":
                file.seek(0)
                return read_tiff_size(file, path)
    except FileNotFoundError:
        raise ImageError(path, "there is no such file") from None
    except OSError as error:
        raise ImageError(path, f"cannot be opened: {error.strerror}") from None
    check_size(path, header.width, header.height, length, max(header.channels, 1) / 8)
    return header.height, header.width


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The image files that a user means by files, folders and glob patterns.

    A path that exists is taken as it stands, whatever brackets or blanks its name has; only then is
    it a pattern. Folders are searched with all their subfolders for the suffixes in
    ``IMAGE_SUFFIXES``, hidden ones left out. A path that leads nowhere stays in the list, so that
    reading it fails where the other failures are listed.

    Returns:
        Each file once, in the order of the arguments, sorted within a folder or pattern.

    Raises:
        DataError: There is no image at all.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given).expanduser()
        matches = [path] if os.path.lexists(path) else sorted(map(Path, _glob(path)))
        for match in matches or [path]:
            if match.is_dir():
                found.update(dict.fromkeys(images_below(match)))
            elif match == path or match.suffix.lower() in IMAGE_SUFFIXES:
                found[match] = None
    if not found:
        wanted = " ".join(str(p) for p in paths) or "an empty list of paths"
        raise DataError(
            f"{wanted}: expected images ({' '.join(sorted(IMAGE_SUFFIXES))}), found none; "
            "check the path"
        )
    return list(found)


def write_tiff(path: str | Path, pixels: Pixels, nm_per_px: float | None = None) -> None:
    """Writes a TIFF file with its pixel size in the tags, the same bytes for the same image.

    The pixel size stands in the resolution tags, with its unit, nm, in the description as ImageJ
    writes it; ``read_image`` returns it to better than 1e-9.

    Args:
        path: Where; the file appears whole or not at all.
        pixels: (H, W) or (H, W, 3), uint8, uint16 or float32.
        nm_per_px: Width of a pixel in nm.

    Raises:
        SemiscopeError: The file cannot be written.
    """
    image = Image(pixels, nm_per_px)
    options = {}
    if nm_per_px is not None:
        per_nm = Fraction(1 / nm_per_px).limit_denominator(2**31)
        resolution = (per_nm.numerator, per_nm.denominator)
        options = {
            "description": "ImageJ=1.54f\nunit=nm\n",
            "resolution": (resolution, resolution),
            "resolutionunit": "NONE",
        }
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        image.pixels,
        photometric="rgb" if image.pixels.ndim == 3 else "minisblack",
        metadata=None,
        software=False,
        **options,
    )
    write_atomic(Path(path), buffer.getvalue())


def grey_if_equal(pixels: Pixels) -> Pixels:
    """The luminance of an image whose three channels hold the same grey, else the image itself.

    Grey that went through a JPEG comes back with differences between the channels from pixel to
    pixel; the mean over 8 x 8 px, JPEG's block, tells them from a colour. Means that differ by at
    most 6 of 255 levels everywhere are grey.

    Args:
        pixels: (H, W) or (H, W, 3) RGB.
    """
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype == np.float32:
        first: NDArray[np.float32] = np.ascontiguousarray(pixels[:, :, 0], dtype=np.float32)
        return first if (pixels == first[:, :, None]).all() else pixels
    # every eighth row of blocks tells nearly every colour image for an eighth of the time
    height, width = pixels.shape[:2]
    bands = pixels[: height // 64 * 64].reshape(-1, 64, width, 3)[:, :8].reshape(-1, width, 3)
    if (len(bands) and _is_colour(bands)) or _is_colour(pixels):
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


def _is_colour(pixels: NDArray[Any]) -> bool:
    """Whether the mean of some 8 x 8 px differs between the channels."""
    blocks = (max(1, pixels.shape[1] // 8), max(1, pixels.shape[0] // 8))
    red, green, blue = cv2.split(cv2.resize(pixels, blocks, interpolation=cv2.INTER_AREA))
    difference = max(cv2.norm(green, red, cv2.NORM_INF), cv2.norm(green, blue, cv2.NORM_INF))
    return bool(difference > _COLOUR_LEVELS * (1 if pixels.dtype == np.uint8 else 257))


def _decode(data: bytes, header: Header, path: Path, notes: list[str]) -> Pixels:
    """Pixels of a whole PNG, JPEG or BMP: (H, W) or (H, W, 3) RGB."""
    flags = cv2.IMREAD_UNCHANGED
    if header.kind == "jpeg":
        grey = header.channels == 1
        flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    elif header.kind == "png":
        data = bare_png(data, path)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise ImageError(path, f"the {_NAMES[header.kind]} is damaged and cannot be decoded")
    if decoded.shape[:2] != (header.height, header.width):
        raise ImageError(
            path,
            f"the header claims {header.width} x {header.height} pixels, "
            f"{decoded.shape[1]} x {decoded.shape[0]} were decoded; the file is damaged",
        )
    if decoded.ndim == 2:
        return decoded  # type: ignore[return-value]
    if decoded.shape[2] == 4:
        if cv2.minMaxLoc(decoded[:, :, 3])[0] < (255 if decoded.dtype == np.uint8 else 65535):
            notes.append("the alpha channel was dropped")
        return cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGB)  # type: ignore[return-value]
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)  # type: ignore[return-value]


def bare_png(data: bytes, path: Path, *, index: bool = False) -> bytes:
    """The same PNG without what does not shape its pixels.

    libpng writes its complaints about colour profiles and texts straight to standard error; without
    those parts it has nothing to say.

    Args:
        data: A whole PNG.
        path: For the message.
        index: Present a palette image as its palette indices (grey; depths below 8 bit are still
            scaled by the decoder).

    Raises:
        ImageError: The PNG is cut off.
    """
    parts = [PNG_SIGNATURE]
    keep = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
    for kind, start, end in png_chunks(data, path):
        if index and kind == b"IHDR" and data[start + 9] == 3:
            content = b"IHDR" + data[start : start + 9] + b"\0" + data[start + 10 : end]
            parts.append(struct.pack(">I", end - start) + content)
            parts.append(struct.pack(">I", zlib.crc32(content)))
            keep -= {b"PLTE", b"tRNS"}
        elif kind in keep:
            parts.append(data[start - 8 : end + 4])
    return b"".join(parts)


def _glob(path: Path) -> list[str]:
    return glob.glob(str(path), recursive=True) if glob.has_magic(str(path)) else []


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and below, sorted, by their suffix; hidden ones are left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [
            Path(parent, name)
            for name in files
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)
