"""Groups of things that are like each other, as many as there are: average linkage.

Sokal and Michener 1958, by chains of nearest neighbours (Murtagh 1983), which needs n² steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def group(distance: NDArray[np.float64], widest: float) -> NDArray[np.int64]:
    """Joins the two nearest groups again and again, while they are near enough.

    How far two groups are from each other is the mean distance of their members.

    Args:
        distance: (n, n), symmetric.
        widest: Groups further from each other than this stay apart.

    Returns:
        (n,) group numbers from 0, the largest group first, equal ones by their first member.
    """
    n = len(distance)
    far = distance.astype(np.float64, copy=True)
    np.fill_diagonal(far, np.inf)
    size = np.ones(n)
    above = np.arange(n)  # a thing, or the group that it was joined to
    left = set(range(n))
    chain: list[int] = []
    while len(left) > 1:
        if not chain:
            chain.append(min(left))
        here = chain[-1]
        nearest = int(far[here].argmin())
        if len(chain) > 1 and far[here, chain[-2]] <= far[here, nearest]:
            nearest = chain[-2]
        if len(chain) == 1 or nearest != chain[-2]:
            chain.append(nearest)
            continue
        del chain[-2:]
        if far[here, nearest] <= widest:
            above[here] = nearest
        # what is joined beyond the widest only goes on being far from all others
        weights = size[here] + size[nearest]
        joined = (size[here] * far[here] + size[nearest] * far[nearest]) / weights
        far[here] = far[:, here] = np.inf
        joined[[here, nearest]] = np.inf
        far[nearest] = far[:, nearest] = joined
        size[nearest] = weights
        left.remove(here)
    while (above[above] != above).any():
        above = above[above]
    names, first, members = np.unique(above, return_index=True, return_inverse=True)
    order = np.lexsort((first, -np.bincount(members, minlength=len(names))))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    return place[members]
