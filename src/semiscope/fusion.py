"""Weighted box fusion with mask voting: one answer from several models' detections.

Solovyev, Wang, Gabruseva: Weighted boxes fusion: Ensembling boxes from different object detection
models, Image and Vision Computing 107, 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semiscope.geometry import box_iou, crop, rasterise, shape_box
from semiscope.types import Annotations, Mask, Shape

# All scores zero: no member tells more than another.
_LEAST = 1e-12
# Scores are float32: what should be exactly one half may come out a little less.
_HALF = 0.5 - 1e-6


def fuse_boxes(
    parts: Sequence[Annotations],
    weights: ArrayLike | None = None,
    iou_threshold: float = 0.55,
    skip_score: float = 0.0,
) -> Annotations:
    """Weighted box fusion of several models' detections in one image, with mask voting.

    Within a class, by falling weighted score, a box joins the cluster whose fused box it overlaps
    most, above the threshold, or founds one. The fused box of n members is their mean weighted by
    their scores; its score is their mean score times min(T, n) / sum of weights, at most 1.

    The fused mask is where the members' masks, weighted likewise, reach half of the weight of the
    members that have a shape; a member without one votes on box and score only. The mask is clipped
    neither to the fused box nor to the image.

    Args:
        parts: What each of the T models found, in the same pixels.
        weights: Trust in each model, (T,), or in each model for each class, (T, K). Where it is 0
            the model is not asked: what it found does not count, and it is none of the T. None:
            the same for all.
        iou_threshold: A box joins a cluster when their IoU is greater than this.
        skip_score: Boxes below this score are left out beforehand.

    Returns:
        By falling score. The angle is that of the member with the highest weighted score, and so is
        the shape when only one member has one.

    Raises:
        ValueError: There are not as many weights as parts or classes, or they are not finite and
            at least 0.
    """
    found = Annotations.concatenate(parts)
    trust = _trust(weights, len(parts), int(found.class_id.max(initial=-1)) + 1)
    owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    asked = trust[owner, found.class_id]
    weighted = found.score * asked
    order = np.argsort(-weighted, kind="stable")
    order = order[(found.score[order] >= skip_score) & (asked[order] > 0)]
    leaders: list[int] = []
    boxes: list[NDArray[np.float64]] = []
    scores: list[float] = []
    shapes: list[Shape | None] = []
    for class_id in np.unique(found.class_id[order]):
        clusters: list[list[int]] = []
        fused = np.zeros((0, 4))
        for i in order[found.class_id[order] == class_id]:
            iou = box_iou(found.xyxy[i], fused)[0]
            best = int(np.argmax(iou)) if len(iou) else -1
            if best >= 0 and iou[best] > iou_threshold:
                clusters[best].append(i)
                w = np.maximum(weighted[clusters[best]], _LEAST)
                fused[best] = w @ found.xyxy[clusters[best]] / w.sum()
            else:
                clusters.append([i])
                fused = np.concatenate([fused, found.xyxy[None, i]])
        models, total = np.count_nonzero(trust[:, class_id]), trust[:, class_id].sum()
        for members, box in zip(clusters, fused, strict=True):
            leaders.append(members[0])
            boxes.append(box)
            scores.append(min(1.0, weighted[members].mean() * min(models, len(members)) / total))
            if found.shapes is not None:
                shapes.append(_vote([found.shapes[i] for i in members], weighted[members]))
    if not leaders:
        return Annotations.empty()
    chosen = found[np.array(leaders)]
    result = Annotations(
        np.array(boxes),
        chosen.class_id,
        np.array(scores),
        tuple(shapes) if any(s is not None for s in shapes) else None,
        chosen.angle_deg,
    )
    return result[np.argsort(-result.score, kind="stable")]


def _trust(weights: ArrayLike | None, models: int, classes: int) -> NDArray[np.float64]:
    """The weights as (T, K)."""
    if weights is None:
        return np.ones((models, classes))
    trust = np.asarray(weights, np.float64)
    if len(trust) != models or not np.isfinite(trust).all() or (trust < 0).any():
        raise ValueError(f"expected {models} weights, finite and not below 0, found {weights}")
    if trust.ndim == 1:
        return np.repeat(trust[:, None], classes, axis=1)
    if trust.shape[1] < classes:
        raise ValueError(f"expected weights for {classes} classes or more, found {trust.shape[1]}")
    return trust


def _vote(shapes: Sequence[Shape | None], weights: NDArray[np.float64]) -> Shape | None:
    """Where the shapes reach half of their weight, within what they cover together."""
    pairs = [(s, w) for s, w in zip(shapes, weights, strict=True) if s is not None]
    if len(pairs) < 2:
        return pairs[0][0] if pairs else None
    ballots = [(_as_mask(s), max(float(w), _LEAST)) for s, w in pairs]
    # a mask of no extent votes against every pixel, but lies nowhere
    extents = [
        (m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m, _ in ballots if m.bits.size
    ]
    if not extents:
        return Mask(0, 0, np.zeros((0, 0), bool))
    left, top = np.min(extents, axis=0)[:2].tolist()
    right, bottom = np.max(extents, axis=0)[2:].tolist()
    votes = np.zeros((bottom - top, right - left))
    for mask, weight in ballots:
        y, x, (h, w) = mask.y - top, mask.x - left, mask.bits.shape
        if mask.bits.size:
            votes[y : y + h, x : x + w] += weight * mask.bits
    inside = crop(votes >= _HALF * sum(weight for _, weight in ballots))
    return Mask(left + inside.x, top + inside.y, inside.bits)


def _as_mask(shape: Shape) -> Mask:
    if isinstance(shape, Mask):
        return shape
    right, bottom = np.ceil(shape_box(shape)[2:]).astype(int).tolist()
    return rasterise(shape, max(0, bottom), max(0, right))
