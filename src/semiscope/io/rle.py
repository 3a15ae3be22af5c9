"""Run-length coded masks as COCO defines them.

Runs go down the columns of the full image, beginning with background. The compressed form writes
each run (from the fourth on its difference to the run two before) in groups of five bits with one
bit for "more follows", as characters from "0" on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiscope.io.header import MAX_PIXELS
from semiscope.types import Mask


def encode_rle(mask: Mask, height: int, width: int) -> dict[str, Any]:
    """A mask as compressed COCO RLE.

    Args:
        mask: Parts outside the image are cut off.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        ``{"size": [height, width], "counts": str}``.
    """
    top, left = max(mask.y, 0), max(mask.x, 0)
    bits = mask.bits[top - mask.y : max(height - mask.y, 0), left - mask.x : max(width - mask.x, 0)]
    # runs within the crop's columns, then moved to their places in the whole image
    h = bits.shape[0]
    padded = np.zeros((bits.shape[1], h + 2), np.int8)
    padded[:, 1:-1] = bits.T
    change = np.diff(padded, axis=1)
    column, start = np.nonzero(change == 1)
    end = np.nonzero(change == -1)[1]
    offset = (column + left) * height + top
    bounds = np.stack([start + offset, end + offset], axis=1).ravel()
    # a run that reaches the foot of a column goes on at the head of the next
    if len(bounds):
        joined = bounds[1:-1:2] == bounds[2::2]
        keep = np.ones(len(bounds), bool)
        keep[1:-1:2] &= ~joined
        keep[2::2] &= ~joined
        bounds = bounds[keep]
    counts = np.diff(np.concatenate([[0], bounds]))
    rest = height * width - (int(bounds[-1]) if len(bounds) else 0)
    if rest or not len(counts):
        counts = np.append(counts, rest)
    return {"size": [height, width], "counts": _compress(counts.tolist())}


def decode_rle(rle: dict[str, Any]) -> Mask:
    """The mask of COCO RLE, compressed or not, cropped to its pixels.

    Args:
        rle: ``size`` [height, width] and ``counts``, a string or a list of runs.

    Raises:
        ValueError: The runs do not fill the image.
    """
    try:
        height, width = (int(v) for v in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        runs = np.asarray(_expand(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    except (KeyError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"expected RLE with size and counts, found {error!r}") from None
    if not 0 < height * width <= MAX_PIXELS or height < 0:
        raise ValueError(f"expected an image size, found {height} x {width}")
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError(f"expected runs that fill {height} x {width} pixels, found other")
    bounds = np.cumsum(runs)
    ends = bounds[1::2]
    starts = bounds[::2][: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return Mask(0, 0, np.zeros((0, 0), bool))
    left, right = int(starts[0] // height), int((ends[-1] - 1) // height) + 1
    flat = np.zeros((right - left) * height + 1, np.int8)
    flat[starts - left * height] = 1
    flat[ends - left * height] -= 1
    bits = np.cumsum(flat[:-1], dtype=np.int8).astype(bool).reshape(right - left, height).T
    rows = np.flatnonzero(bits.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return Mask(left, top, np.ascontiguousarray(bits[top:bottom]))


def _compress(counts: list[int]) -> str:
    out = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            five = value & 0x1F
            value >>= 5
            more = value != (-1 if five & 0x10 else 0)
            out.append(five | (0x20 if more else 0))
    return "".join(chr(48 + c) for c in out)


def _expand(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"expected characters from '0' to 'o' in RLE, found {character!r}")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the RLE text is cut off")
    return counts
