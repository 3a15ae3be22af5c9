"""Weighted box fusion: one answer from several models' detections.

Solovyev, Wang, Gabruseva: Weighted boxes fusion: Ensembling boxes from different object detection
models, Image and Vision Computing 107, 2021, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semiscope.geometry import box_iou
from semiscope.types import Annotations


def fuse_boxes(
    parts: Sequence[Annotations],
    weights: Sequence[float] | None = None,
    iou_threshold: float = 0.55,
    skip_score: float = 0.0,
) -> Annotations:
    """Weighted box fusion of several models' detections in one image.

    Within a class, by falling weighted score, a box joins the cluster whose fused box it overlaps
    most, above the threshold, or founds one. The fused box of n members is their mean weighted by
    their scores; its score is their mean score times min(T, n) / sum of weights, at most 1.

    Args:
        parts: What each of the T models found, in the same pixels.
        weights: Trust in each model; None: the same.
        iou_threshold: A box joins a cluster when their IoU is greater than this.
        skip_score: Boxes below this score are left out beforehand.

    Returns:
        By falling score. The shape and the angle are those of the member with the highest weighted
        score.

    Raises:
        ValueError: There are not as many weights as parts, or they are not positive.
    """
    trust = np.ones(len(parts)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(trust) != len(parts) or (trust <= 0).any():
        raise ValueError(f"expected {len(parts)} weights above 0, found {trust.tolist()}")
    found = Annotations.concatenate(parts)
    weighted = found.score * np.repeat(trust, [len(p) for p in parts])
    order = np.argsort(-weighted, kind="stable")
    order = order[found.score[order] >= skip_score]
    leaders: list[int] = []
    boxes: list[NDArray[np.float64]] = []
    scores: list[float] = []
    for class_id in np.unique(found.class_id[order]):
        clusters: list[list[int]] = []
        fused = np.zeros((0, 4))
        for i in order[found.class_id[order] == class_id]:
            iou = box_iou(found.xyxy[i], fused)[0]
            best = int(np.argmax(iou)) if len(iou) else -1
            if best >= 0 and iou[best] > iou_threshold:
                clusters[best].append(i)
                # All scores zero: no member tells more than another.
                w = np.maximum(weighted[clusters[best]], 1e-12)
                fused[best] = w @ found.xyxy[clusters[best]] / w.sum()
            else:
                clusters.append([i])
                fused = np.concatenate([fused, found.xyxy[None, i]])
        for members, box in zip(clusters, fused, strict=True):
            leaders.append(members[0])
            boxes.append(box)
            mean = weighted[members].mean()
            scores.append(min(1.0, mean * min(len(parts), len(members)) / trust.sum()))
    if not leaders:
        return Annotations.empty()
    chosen = found[np.array(leaders)]
    result = Annotations(
        np.array(boxes), chosen.class_id, np.array(scores), chosen.shapes, chosen.angle_deg
    )
    return result[np.argsort(-result.score, kind="stable")]
