from __future__ import annotations

import numpy as np
import pytest

from semiscope.errors import DataError, ModelError
from semiscope.infer.open_set import (
    KnownExamples,
    learn_examples,
    nearest_other,
    to_levels,
)


def logit(share):
    share = np.asarray(share, np.float64)
    return np.log(share / (1 - share)).astype(np.float32)


def clusters(n=40, d=16, seed=0):
    """Features of three classes around centres of their own."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 3, (3, d))
    truth = rng.integers(0, 3, n)
    features = (centres[truth] + rng.normal(0, 1, (n, d))).astype(np.float32)
    return features, truth.astype(np.int64)


def names(n):
    return [f"train/{i}.png" for i in range(n)]


def test_thresholds_by_hand():
    # one feature, after the sigmoid at levels 51, 102, 204 (class 0) and 25.5 k (class 1)
    shares = np.array([[51], [102], [204], [10], [20], [250]]) / 255
    truth = np.array([0, 0, 0, 1, 1, 1])
    label = np.array([0, 0, 0, 1, 1, 0])
    known = learn_examples(logit(shares), truth, label, names(6), 2)
    # distances 51, 51, 102 of 255, squared; the 90th percentile lies 0.8 of the way to the last
    near, far = (51 / 255) ** 2, (102 / 255) ** 2
    assert known.thresholds[0] == pytest.approx(near + 0.8 * (far - near))
    # the image that is called something else does not count
    assert known.thresholds[1] == pytest.approx((10 / 255) ** 2)
    assert known.names == tuple(names(5)) and known.class_id.tolist() == [0, 0, 0, 1, 1]
    seen = known.look(logit(np.array([[204], [204 - 40], [254], [1]]) / 255))
    allowed = known.thresholds[0]
    assert seen.strangeness[:3] == pytest.approx(
        [0, (40 / 255) ** 2 / allowed, (50 / 255) ** 2 / allowed]
    )
    # nearer to class 1, but class 0 reaches further
    assert seen.strangeness[3] == pytest.approx((50 / 255) ** 2 / allowed)
    assert not seen.unknown.any()
    assert seen.nearest[0, 0] == 2 and seen.nearest[3].tolist() == [3, 4, 0]
    assert seen.distance[3, 1] == pytest.approx((19 / 255) ** 2)


def test_unknown_only_beyond_every_threshold_against_a_plain_loop():
    features, truth = clusters()
    known = learn_examples(features, truth, truth, names(40), 3)
    rng = np.random.default_rng(1)
    new = np.concatenate([features[:5], rng.normal(0, 3, (30, 16)).astype(np.float32)])
    seen = known.look(new)
    queries = to_levels(new).astype(float) / 255
    points = known.levels.astype(float) / 255
    for i, query in enumerate(queries):
        squared = ((points - query) ** 2).sum(1)
        closest = [squared[known.class_id == k].min() for k in range(3)]
        beyond = [d > t for d, t in zip(closest, known.thresholds, strict=True)]
        assert seen.unknown[i] == all(beyond)
        order = np.argsort(squared, kind="stable")[:3]
        assert seen.nearest[i].tolist() == order.tolist()
        assert seen.distance[i] == pytest.approx(squared[order])
    assert seen.unknown.any() and not seen.unknown[:5].any()


def test_leaving_one_out_against_a_plain_loop(monkeypatch):
    from semiscope.infer import open_set

    features, truth = clusters(60)
    order = np.argsort(truth, kind="stable")
    levels, class_id = to_levels(features[order]), truth[order]
    expected = []
    for i in range(60):
        others = [j for j in range(60) if j != i and class_id[j] == class_id[i]]
        squared = [((levels[i].astype(int) - levels[j]) ** 2).sum() / 255**2 for j in others]
        expected.append(min(squared))
    assert nearest_other(levels, class_id) == pytest.approx(expected)
    # in blocks of a few rows
    monkeypatch.setattr(open_set, "_BLOCK", 70)
    told = []
    found = nearest_other(levels, class_id, lambda done, total: told.append((done, total)))
    assert found == pytest.approx(expected) and told[-1] == (60, 60)


def test_the_factor_keeps_a_share_of_held_out_images_known():
    features, truth = clusters(60)
    known = learn_examples(features, truth, truth, names(60), 3)
    held = clusters(50, seed=0)[0] + np.random.default_rng(2).normal(0, 1, (50, 16))
    held = held.astype(np.float32)
    for share in (0.0, 0.1, 0.5):
        wider = known.allowing(held, share)
        assert np.count_nonzero(wider.look(held).unknown) == int(share * 50)
        # once more changes nothing
        assert wider.allowing(held, share).factor == pytest.approx(wider.factor)
    with pytest.raises(DataError, match="held-out"):
        known.allowing(held[:0], 0.1)


def test_classes_with_one_image_with_none_and_with_the_same_twice():
    shares = np.array([[10], [20], [40], [200], [200], [120]]) / 255
    truth = np.array([0, 0, 0, 2, 2, 3])
    known = learn_examples(logit(shares), truth, truth, names(6), 5)
    assert np.isnan(known.thresholds[[1, 4]]).all() and known.thresholds[2] == 0
    assert known.thresholds[3] == pytest.approx(np.median(known.thresholds[[0, 2]]))
    # an image that is an example is known, however narrow the class
    seen = known.look(logit(shares))
    assert not seen.unknown.any() and seen.strangeness.tolist() == [0.0] * 6
    assert known.look(logit(np.array([[203]]) / 255)).unknown.all()
    with pytest.raises(DataError, match="two training images"):
        learn_examples(logit(shares[:2]), np.array([0, 1]), np.array([0, 1]), names(2), 2)
    with pytest.raises(DataError, match="two training images"):
        learn_examples(logit(shares[:2]), np.array([0, 0]), np.array([1, 1]), names(2), 2)


def test_through_a_model_files_text_and_damage():
    features, truth = clusters()
    known = learn_examples(features, truth, truth, ["a/ä \udcff.png", *names(39)], 4)
    same = KnownExamples.from_text(known.allowing(features, 0.1).to_text(), "x.onnx")
    assert same.names == known.names
    np.testing.assert_array_equal(same.levels, known.levels)
    np.testing.assert_array_equal(same.thresholds, known.thresholds)
    ours, theirs = known.look(features), same.look(features)
    assert ours.strangeness == pytest.approx(theirs.strangeness * same.factor)
    assert len(known.look(features[:0]).nearest) == 0
    with pytest.raises(ValueError, match="width 16"):
        known.look(features[:, :3])
    for damage in ("", "AAAA", known.to_text()[:-80], "ß"):
        with pytest.raises(ModelError, match=r"x\.onnx: its known examples are damaged"):
            KnownExamples.from_text(damage, "x.onnx")
    levels, kinds = known.levels, known.class_id
    for wrong in (
        (levels[:3], kinds, known.names),
        (levels.astype(np.float32), kinds, known.names),
        (levels, kinds[::-1], known.names),
        (levels, kinds + 9, known.names),
    ):
        with pytest.raises(ValueError, match="expected"):
            KnownExamples(*wrong, known.thresholds)
