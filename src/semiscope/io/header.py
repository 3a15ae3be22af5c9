"""Size and soundness of an image file, told from its bytes before anything is decoded.

Decoders allocate what a header claims and return half an image for half a file; this module is what
stands before them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from semiscope.errors import ImageError

MAX_PIXELS = 400_000_000
# deflate reaches 1032:1 and LZW about 2700:1; a header that claims more was not written by a camera
MAX_RATIO = 4096

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# start-of-frame markers; C4, C8 and CC are tables, not frames
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        kind: "png", "jpeg", "bmp" or "tiff", told by content.
        width: Columns; 0 for TIFF, whose directory is read by ``semiscope.io.tiff``.
        height: Rows; 0 for TIFF.
        channels: 1 for grey, more for colour; 0 where the header does not say.
    """

    kind: str
    width: int
    height: int
    channels: int


def read_header(data: bytes, path: Path) -> Header:
    """Kind and size of an image, by its content.

    Args:
        data: The file, or its beginning (for JPEG up to the frame header).
        path: For the message.

    Raises:
        ImageError: The content is none of PNG, JPEG, BMP and TIFF, or its header is cut off.
    """
    try:
        if data.startswith(PNG_SIGNATURE):
            width, height, _, colour = struct.unpack(">IIBB", data[16:26])
            return Header("png", width, height, 1 if colour in (0, 4) else 3)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_header(data, path)
        if data.startswith(b"BM") and len(data) > 6:
            if struct.unpack("<I", data[14:18])[0] == 12:
                width, height = struct.unpack("<HH", data[18:22])
            else:
                width, height = struct.unpack("<ii", data[18:26])
            return Header("bmp", abs(width), abs(height), 0)
    except struct.error:
        raise ImageError(path, "the file ends inside its header; copy it again") from None
    if data.startswith(TIFF_SIGNATURES):
        return Header("tiff", 0, 0, 0)
    if not data:
        raise ImageError(path, "the file is empty (0 bytes); copy it again")
    found = "only zeros" if not data.strip(b"\0") else f"a file that begins with {data[:8]!r}"
    raise ImageError(path, f"expected a PNG, JPEG, BMP or TIFF image, found {found}")


def check_size(
    path: Path, width: int, height: int, file_bytes: int, bytes_per_pixel: float = 1
) -> None:
    """Refuses a header that claims more than can be true, before memory is allocated for it.

    Raises:
        ImageError: The image has no pixels, more than ``MAX_PIXELS``, or more than the file's bytes
            can hold under any compression.
    """
    if width <= 0 or height <= 0:
        raise ImageError(path, f"the header claims {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(
            path,
            f"the header claims {width} x {height} pixels in {file_bytes} bytes; at most "
            f"{MAX_PIXELS // 1_000_000} million pixels are read, cut a larger image into parts",
        )
    if width * height * bytes_per_pixel > MAX_RATIO * max(file_bytes, 256):
        raise ImageError(
            path,
            f"the header claims {width} x {height} pixels, more than {file_bytes} bytes can hold; "
            "the file is damaged",
        )


def check_whole(data: bytes, header: Header, path: Path) -> None:
    """Finds out that a PNG, JPEG or BMP is cut off or damaged, which decoders may pass in silence.

    Raises:
        ImageError: The end marker is missing, a PNG part fails its checksum, or a BMP is too
            short.
    """
    if header.kind == "png":
        for kind, start, end in png_chunks(data, path):
            stored = int.from_bytes(data[end : end + 4], "big")
            if zlib.crc32(data[start - 4 : end]) != stored:
                raise ImageError(path, f"the PNG is damaged: its {kind!r} part fails its checksum")
    elif header.kind == "jpeg":
        scan = next((end for marker, _, end in jpeg_segments(data) if marker == 0xDA), len(data))
        if data.find(b"\xff\xd9", max(scan, len(data) - 65536)) < 0 and (
            data.find(b"\xff\xd9", scan) < 0
        ):
            raise ImageError(path, "the JPEG is cut off: its end marker is missing; copy it again")
    elif header.kind == "bmp":
        offset = int.from_bytes(data[10:14], "little")
        os2 = int.from_bytes(data[14:18], "little") == 12
        bits = int.from_bytes(data[24:26] if os2 else data[28:30], "little")
        compression = 0 if os2 else int.from_bytes(data[30:34], "little")
        expected = offset + (header.width * bits + 31) // 32 * 4 * header.height
        # run-length coded BMPs (1 and 2) have no fixed length
        if compression not in (1, 2) and len(data) < expected:
            raise ImageError(
                path, f"the BMP is cut off: expected {expected} bytes, found {len(data)}"
            )


def png_chunks(data: bytes, path: Path) -> Iterator[tuple[bytes, int, int]]:
    """The parts of a PNG in order: name, and where the part's content begins and ends in the data.

    Raises:
        ImageError: The file ends before the closing part.
    """
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, start = data[position + 4 : position + 8], position + 8
        if start + length + 4 > len(data):
            break
        yield kind, start, start + length
        if kind == b"IEND":
            return
        position = start + length + 4
    raise ImageError(path, "the PNG is cut off: its end marker is missing; copy it again")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments before a JPEG's first scan: marker, and where the content begins and ends."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # markers without content
            position += 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, end
        if marker == 0xDA:
            return
        position = end


def _jpeg_header(data: bytes, path: Path) -> Header:
    for marker, start, _ in jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            _, height, width, channels = struct.unpack(">BHHB", data[start : start + 6])
            return Header("jpeg", width, height, channels)
    raise ImageError(path, "the JPEG has no frame header: it is cut off or damaged; copy it again")
