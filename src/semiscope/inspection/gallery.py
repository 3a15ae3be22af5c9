"""Which defects of a run are shown with a picture: a bounded choice while the images pass by."""

from __future__ import annotations

import heapq

from semiscope.inspection.journal import DefectRow, ImageRow

Rank = tuple[bool, float, int, int]
"""For review or not, score, minus the image's place, minus the defect's: the higher the better."""


class Gallery:
    """Keeps the ranks of the best defects: those for review first, then by score.

    What is admitted depends only on the rows so far, in their order; a picture made for a defect
    that later rows push out was made in vain, but none is ever missing.
    """

    def __init__(self, most: int) -> None:
        """Starts empty.

        Args:
            most: How many defects are shown at most.
        """
        self._most = most
        self._best: list[Rank] = []
        self._images = 0

    def candidates(self, row: ImageRow) -> list[int]:
        """Places of an image's defects that may still be shown; may be asked from any thread."""
        best = self._best
        if not self._most:
            return []
        # the weakest only gets stronger, so what is too weak now stays so; an equal may come first
        weakest = best[0][:2] if len(best) >= self._most else (False, -1.0)
        ranked = sorted(
            ((*_worth(d), -place) for place, d in enumerate(row.get("defects", ()))), reverse=True
        )
        return [-rank[2] for rank in ranked[: self._most] if rank[:2] >= weakest]

    def admit(self, row: ImageRow) -> None:
        """Counts in the next image and drops those of its pictures that cannot be shown."""
        self._images += 1
        for place, defect in enumerate(row.get("defects", ())):
            rank = (*_worth(defect), -self._images, -place)
            if len(self._best) < self._most:
                heapq.heappush(self._best, rank)
            elif self._most and rank > self._best[0]:
                heapq.heapreplace(self._best, rank)
            else:
                row["crops"].pop(str(place), None)

    def chosen(self) -> list[tuple[int, int]]:
        """The defects to show, best first: the image's place in the run and the defect's in it."""
        return [(-image - 1, -place) for *_, image, place in sorted(self._best, reverse=True)]


def _worth(defect: DefectRow) -> tuple[bool, float]:
    return defect["disposition"] == "review", defect["score"]
