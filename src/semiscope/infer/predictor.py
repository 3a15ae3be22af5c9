"""What inspection asks of whatever finds defects: one model, or several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from semiscope.infer.model import Meta
from semiscope.infer.sampling import Dial
from semiscope.tiling import Tile
from semiscope.types import Annotations, Pixels

P = TypeVar("P")
"""An image made ready by a predictor for itself."""
R = TypeVar("R")
"""A predictor's raw output for a batch."""


class Predictor(Protocol[P, R]):
    """Finds instances in images. It may be used from several threads at once."""

    @property
    def meta(self) -> Meta:
        """What it says of itself."""

    def card(self) -> dict[str, Any]:
        """What results tell of it: plain JSON values, among them name, classes and sha256."""

    def dialled(self, dial: Dial) -> Predictor[P, R]:
        """The same with other random boxes.

        Raises:
            SettingsError: A dial is set and it has no random boxes.
        """

    def prepare_tiles(self, pixels: Pixels, cut: Sequence[Tile]) -> list[P]:
        """Tiles of an image made ready; they share the image's grey range.

        Args:
            pixels: (H, W) or (H, W, 3).
            cut: The tiles; one that is the whole image for a small one.
        """

    def run(self, batch: Sequence[P]) -> R:
        """The bare engine on at least one image made ready."""

    def decode(
        self,
        raw: R,
        prepared: Sequence[P],
        sizes: Sequence[tuple[int, int]],
        min_score: float | None = None,
    ) -> list[Annotations]:
        """Instances in pixels of the images.

        Args:
            raw: What ``run`` gave for a batch of B.
            prepared: The batch's B members.
            sizes: (height, width) of the B images.
            min_score: Lowest score; by default each class's report threshold.
        """
