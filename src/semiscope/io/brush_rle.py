"""Label Studio's run-length code for brush labels, which has nothing to do with COCO's.

It is the format of @thi.ng/rle-pack over the bytes of an RGBA image, row by row: 32 bits for the
number of bytes, 5 for the word size less one, four times 4 for the widths of the counts less one
(3, 4, 8 and 16 bits), then chunk after chunk. A chunk begins with a bit that tells a repeated word
(1) from words that stand one by one (0), two bits that choose the width of the count, and the count
less one; then comes the word, or come the words. The mask is where alpha is not 0, as in Label
Studio's own export.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import crop, dense
from semiscope.types import Mask

_CHANNELS = 4  # RGBA
_COUNT_BITS = (3, 4, 8, 16)
_WORD_BITS = 8
_HEADER_BITS = 32 + 5 + 4 * len(_COUNT_BITS)


def encode_brush(mask: Mask, height: int, width: int) -> list[int]:
    """A mask as Label Studio's ``rle``, all four channels alike.

    Args:
        mask: Parts outside the image are cut off.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        Bytes, 0 to 255.
    """
    bits = dense(mask, height, width).ravel()
    starts = np.concatenate([[0], np.flatnonzero(bits[1:] != bits[:-1]) + 1, [bits.size]])
    parts = [f"{bits.size * _CHANNELS:032b}{_WORD_BITS - 1:05b}"]
    parts += [f"{width - 1:04b}" for width in _COUNT_BITS]
    longest = 1 << _COUNT_BITS[-1]
    for start, length in zip(starts[:-1], np.diff(starts).tolist(), strict=True):
        word = f"{255 if bits[start] else 0:08b}"
        left = length * _CHANNELS
        while left:
            count = min(left, longest)
            kind = next(i for i, width in enumerate(_COUNT_BITS) if count <= 1 << width)
            parts.append(f"1{kind:02b}{count - 1:0{_COUNT_BITS[kind]}b}{word}")
            left -= count
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode_brush(rle: list[int], height: int, width: int) -> Mask:
    """The mask of Label Studio's ``rle``.

    Args:
        rle: Bytes, 0 to 255.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        ValueError: These are no bytes, they do not fill the image, or they are cut off.
    """
    return crop(_opaque(rle, height * width).reshape(height, width))


def _opaque(rle: list[int], pixels: int) -> NDArray[np.bool_]:
    """(pixels,) whether the last of a pixel's four bytes is not 0."""
    values = np.asarray(rle)
    if values.ndim != 1 or values.dtype.kind != "i" or ((values < 0) | (values > 255)).any():
        raise ValueError("expected brush RLE as a list of bytes, found other")
    end = 8 * len(values)
    if end < _HEADER_BITS:
        raise ValueError("the brush RLE is cut off")
    data = np.concatenate([values, np.zeros(4, np.int64)])
    # 32 bits from each byte on: any field of at most 25 bits lies in one of these
    ahead = (data[:-3] << 24 | data[1:-2] << 16 | data[2:-1] << 8 | data[3:]).tolist()

    def field(place: int, width: int) -> int:
        return int(ahead[place >> 3] >> (32 - (place & 7) - width)) & ((1 << width) - 1)

    total = field(0, 16) << 16 | field(16, 16)
    word_bits = field(32, 5) + 1
    widths = [field(37 + 4 * i, 4) + 1 for i in range(4)]
    if total != pixels * _CHANNELS or word_bits != _WORD_BITS:
        raise ValueError(
            f"expected brush RLE of {pixels} pixels in words of 8 bits, found "
            f"{total / _CHANNELS:g} in words of {word_bits}"
        )
    found = np.empty(pixels, bool)
    done, place = 0, _HEADER_BITS
    while done < total:
        if place + 3 > end:
            raise ValueError("the brush RLE is cut off")
        head = field(place, 3)
        width = widths[head & 3]
        stop = place + 3 + width
        count = field(place + 3, width) + 1 if stop <= end else 0
        size = count * _WORD_BITS if head < 4 else _WORD_BITS
        if not 0 < count <= total - done or stop + size > end:
            raise ValueError("the brush RLE is cut off, or has more in it than the image")
        # the pixels whose last byte is in this chunk
        low, high = done // _CHANNELS, (done + count) // _CHANNELS
        if head < 4:
            first, shift = stop >> 3, stop & 7
            pairs = data[first : first + count] << 8 | data[first + 1 : first + count + 1]
            alpha = pairs[low * _CHANNELS + 3 - done :: _CHANNELS]
            found[low:high] = alpha >> (8 - shift) & 255
        else:
            found[low:high] = field(stop, _WORD_BITS)
        done += count
        place = stop + size
    return found
