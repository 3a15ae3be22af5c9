"""What is done to a TEM image after it was taken: contrast, scale bar and text, JPEG."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semiscope.data.perturbation import FloatArray, Perturbation, Perturbed


class ContrastStretch(Perturbation):
    """Black and white clipped as display software does, and a change of gamma."""

    clipped: float = Field(0.05, ge=0, lt=0.5, description="Largest share of pixels at each end.")
    gamma: float = Field(1.6, ge=1, description="Largest, or its inverse.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        shares = rng.uniform(0, self.clipped, 2) * (1, -1) + (0, 1)
        gamma = self.gamma ** (rng.uniform(-1, 1) * strength)
        low, high = np.quantile(pixels[::2, ::2], shares)
        low, high = low * strength, 1 + (high - 1) * strength
        stretched = (pixels - np.float32(low)) / np.float32(max(high - low, 1e-3))
        return np.clip(stretched, 0, 1) ** np.float32(gamma), None


class Overlay(Perturbation):
    """A scale bar with its length, and a line of text, burnt in; faint at a low strength."""

    bar_share: tuple[float, float] = Field(
        (0.12, 0.4), description="Length of the bar, share of the image's width."
    )
    text_share: tuple[float, float] = Field(
        (0.03, 0.06), description="Height of the text, share of the image's height."
    )

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        height, width = pixels.shape
        ink = np.zeros((height, width), np.uint8)
        box = np.zeros((height, width), np.uint8)
        text = rng.uniform(*self.text_share) * height
        bar = int(rng.uniform(*self.bar_share) * width)
        margin = int(rng.uniform(0.02, 0.06) * width)
        left = margin if rng.random() < 0.5 else max(0, width - margin - bar)
        below = rng.random() < 0.8
        base = int(height - margin - text / 2 if below else margin + 2 * text)
        thick = max(1, int(text / 4))
        cv2.rectangle(box, _whole(left - text / 2, base - 1.8 * text), _whole(
            left + bar + text / 2, base + text), 255, -1)  # fmt: skip
        cv2.rectangle(ink, (left, base), (left + bar, base + thick), 255, -1)
        length = f"{rng.choice((5, 10, 20, 50, 100, 200))} nm"
        _write(ink, length, _whole(left, base - 0.4 * text), text)
        note = f"{rng.integers(80, 301)} kV  x{rng.integers(20, 500)}k"
        noted = rng.random() < 0.5
        if noted:
            _write(ink, note, _whole(margin, margin + text if below else height - margin), text)
        white, boxed = rng.random() < 0.6, rng.random() < 0.3
        share = ink.astype(np.float32) * np.float32(strength / 255)
        seen = pixels
        if boxed:
            seen = np.where(box > 0, seen + (float(not white) - seen) * np.float32(strength), seen)
        return np.asarray(seen + (np.float32(white) - seen) * share, np.float32), None


class Jpeg(Perturbation):
    """Blocks and ringing."""

    quality: int = Field(12, ge=1, le=100, description="The worst.")

    def __call__(self, pixels: FloatArray, rng: np.random.Generator, strength: float) -> Perturbed:
        """See Perturbation."""
        quality = 100 - (100 - self.quality) * strength * rng.uniform(0.7, 1)
        if strength == 0:
            return pixels.copy(), None
        _, data = cv2.imencode(
            ".jpg", np.rint(pixels * 255).astype(np.uint8), (cv2.IMWRITE_JPEG_QUALITY, int(quality))
        )
        read = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32)
        return read / np.float32(255), None


def _write(ink: NDArray[np.uint8], text: str, place: tuple[int, int], height: float) -> None:
    # the font is 21 px high at scale 1
    thick = max(1, round(height / 10))
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_SIMPLEX, height / 21, 255, thick, cv2.LINE_AA)


def _whole(x: float, y: float) -> tuple[int, int]:
    return int(x), int(y)


# in the order in which it is done
POST: dict[str, Perturbation] = {
    "contrast_stretch": ContrastStretch(),
    "overlay": Overlay(),
    "jpeg": Jpeg(),
}
