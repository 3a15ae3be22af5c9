from __future__ import annotations

import time

import numpy as np
import pytest

from semiscope.geometry import crop, dense
from semiscope.io.brush_rle import decode_brush, encode_brush
from semiscope.types import Mask

# tests/test_brush.py of HumanSignal/label-studio-converter (Apache-2.0): words and their code
PUBLIC_WORDS = [1, 1, 1, 1, 2, 3, 5, 6, 7, 8, 4, 4, 4, 4, 4, 4, 4, 4]
PUBLIC_CODE = [0, 0, 0, 18, 57, 27, 252, 96, 32, 1, 0, 6, 0, 40, 0, 192, 3, 128, 17, 56, 32]


def slow_decode(code: list[int]) -> list[int]:
    """The format's description, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word, words = take(32), take(5) + 1, []
    widths = [take(4) + 1 for _ in range(4)]
    while len(words) < total:
        repeated, width = take(1), widths[take(2)]
        count = take(width) + 1
        words += [take(word)] * count if repeated else [take(word) for _ in range(count)]
    return words


def slow_encode(words: list[int], rng: np.random.Generator) -> list[int]:
    """One of the many codes that a sequence of words has: chunks cut where chance wills."""
    bits = f"{len(words):032b}{7:05b}" + "".join(f"{w - 1:04b}" for w in (3, 4, 8, 16))
    place = 0
    while place < len(words):
        run = 1
        while place + run < len(words) and words[place + run] == words[place]:
            run += 1
        repeated = rng.random() < 0.5
        count = int(rng.integers(1, (run if repeated else min(20, len(words) - place)) + 1))
        kind = min(k for k, w in enumerate((3, 4, 8, 16)) if count <= 1 << w)
        bits += f"{repeated:01b}{kind:02b}{count - 1:0{(3, 4, 8, 16)[kind]}b}"
        part = words[place : place + (1 if repeated else count)]
        bits += "".join(f"{word:08b}" for word in part)
        place += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def random_mask(rng: np.random.Generator) -> np.ndarray:
    height, width = rng.integers(1, 60, 2)
    coarse = rng.random((height // 3 + 1, width // 3 + 1)) < rng.choice([0.05, 0.5, 0.95])
    return np.kron(coarse, np.ones((3, 3), bool))[:height, :width]


def test_the_slow_decoder_reads_the_public_example():
    assert slow_decode(PUBLIC_CODE) == PUBLIC_WORDS


def test_the_public_example_as_an_image():
    # its chunks end after 165 bits; two words more make five pixels, the last one clear
    bits = "".join(f"{byte:08b}" for byte in PUBLIC_CODE)[:165] + "1" + "00" + "001" + "00000000"
    bits = f"{20:032b}" + bits[32:]
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert slow_decode(code) == [*PUBLIC_WORDS, 0, 0]
    np.testing.assert_array_equal(dense(decode_brush(code, 1, 5), 1, 5), [[1, 1, 1, 1, 0]])


@pytest.mark.parametrize("seed", range(30))
def test_any_code_is_read_as_the_slow_decoder_reads_it(seed: int):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 30, 2)
    words = np.repeat(rng.integers(0, 3, 4 * height * width), rng.integers(1, 9))
    words = (words[: 4 * height * width] * 127).tolist()
    code = slow_encode(words, rng)
    assert slow_decode(code) == words
    alpha = np.array(words).reshape(height, width, 4)[..., 3]
    np.testing.assert_array_equal(
        dense(decode_brush(code, height, width), height, width), alpha > 0
    )


@pytest.mark.parametrize("seed", range(30))
def test_there_and_back(seed: int):
    bits = random_mask(np.random.default_rng(seed))
    code = encode_brush(crop(bits), *bits.shape)
    assert all(isinstance(byte, int) and 0 <= byte <= 255 for byte in code)
    np.testing.assert_array_equal(np.array(slow_decode(code)), np.repeat(bits.ravel() * 255, 4))
    np.testing.assert_array_equal(dense(decode_brush(code, *bits.shape), *bits.shape), bits)


def test_a_code_by_hand():
    # two pixels, the second set: 8 words; each pixel is a run of 4: 1 00 011 and the byte
    bits = f"{8:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "1" + "00" + "011" + "00000000" + "1" + "00" + "011" + "11111111"
    bits += "0" * (-len(bits) % 8)
    by_hand = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert encode_brush(Mask(1, 0, np.ones((1, 1), bool)), 1, 2) == by_hand


def test_long_runs_are_cut_at_65536_words():
    bits = np.ones((200, 400), bool)  # 320,000 words
    code = encode_brush(crop(bits), 200, 400)
    assert len(code) == -(-(53 + 5 * 27) // 8)
    assert decode_brush(code, 200, 400).area == 80_000


def test_parts_outside_the_image_are_cut_off():
    code = encode_brush(Mask(-1, 1, np.ones((5, 3), bool)), 4, 4)
    expected = np.zeros((4, 4), bool)
    expected[1:, :2] = True
    np.testing.assert_array_equal(dense(decode_brush(code, 4, 4), 4, 4), expected)
    assert decode_brush(encode_brush(Mask(9, 9, np.ones((2, 2), bool)), 4, 4), 4, 4).area == 0


GOOD = encode_brush(crop(np.eye(6, 5, dtype=bool)), 6, 5)


@pytest.mark.parametrize(
    "code",
    [
        [],
        GOOD[:6],
        GOOD[:-3],
        [*GOOD[:-3], 255, 255, 255],
        [300, *GOOD[1:]],
        [-1, *GOOD[1:]],
        [0.5, *GOOD[1:]],
        ["a", *GOOD[1:]],
        [[1], *GOOD[1:]],
        [0, 0, 0, 119, *GOOD[4:]],
        [*GOOD[:4], 0, *GOOD[5:]],
        "0 1 2",
        None,
        {"rle": 1},
    ],
)
def test_what_is_no_code_is_an_error(code):
    with pytest.raises((ValueError, TypeError)):
        decode_brush(code, 6, 5)


def test_a_code_of_a_large_image_is_read_in_no_time():
    rng = np.random.default_rng(0)
    bits = np.zeros((3000, 3000), bool)
    for x, y in rng.integers(0, 2900, (40, 2)):
        bits[y : y + 100, x : x + 80] = True
    code = encode_brush(crop(bits), 3000, 3000)
    started = time.process_time()
    found = decode_brush(code, 3000, 3000)
    assert time.process_time() - started < 2
    assert found.area == np.count_nonzero(bits)
