from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semiscope.data.dataset import balanced_weights, find_format, hold_out, joined, open_dataset
from semiscope.errors import DataError
from semiscope.types import Annotations, Dataset, Sample

DATA = Path(__file__).parents[2] / "../shared/data"


def dataset_of(*shown: tuple[int, ...], classes: int = 4) -> Dataset:
    """A data set whose images show these classes, without files."""
    samples = tuple(
        Sample(Path(f"{i}.png"), (10, 10), Annotations(np.tile([1, 1, 3, 3], (len(ids), 1)), ids))
        for i, ids in enumerate(shown)
    )
    return Dataset(tuple(f"c{i}" for i in range(classes)), samples)


def test_joined_sets_share_the_classes_of_one_name():
    alloy = Dataset(
        ("matrix", "void", "crack"),
        (Sample(Path("a.png"), (9, 9), Annotations(np.tile([1, 1, 3, 3], (2, 1)), [1, 2])),),
        ("a note",),
    )
    coating = Dataset(
        ("crack", "oxide"),
        (
            Sample(Path("b.png"), (9, 9), Annotations(np.tile([1, 1, 3, 3], (2, 1)), [0, 1])),
            Sample(Path("c.png"), class_map=Path("c_map.png"), label=1),
        ),
    )
    both = joined((alloy, coating))
    assert both.classes == ("matrix", "void", "crack", "oxide")
    assert both.notes == ("a note",)
    assert [s.path.name for s in both] == ["a.png", "b.png", "c.png"]
    assert both.samples[0].annotations.class_id.tolist() == [1, 2]
    assert both.samples[1].annotations.class_id.tolist() == [2, 3]
    assert (both.samples[2].label, both.samples[2].class_map) == (3, None)


def test_hold_out_keeps_the_proportions_and_loses_nothing():
    dataset = dataset_of(*[(0,)] * 60, *[(1,)] * 30, *[(2,)] * 10, *[()] * 20)
    train, val = hold_out(dataset, 0.2, seed=3)
    assert len(val) == 24
    assert sorted(s.path for s in (*train, *val)) == sorted(s.path for s in dataset)
    held = [tuple(s.annotations.class_id) for s in val]
    assert [held.count(k) for k in ((0,), (1,), (2,), ())] == [12, 6, 2, 4]


def test_hold_out_is_the_same_for_the_same_seed_only():
    dataset = dataset_of(*[(0,)] * 50)
    paths = [[s.path for s in hold_out(dataset, 0.3, seed)[1]] for seed in (0, 0, 1)]
    assert paths[0] == paths[1] != paths[2]


def test_hold_out_shows_each_class_of_two_images_on_both_sides():
    dataset = dataset_of((0,), (0,), (1,), (1,), *[(2, 3)] * 40, (3,), (3,))
    for part in hold_out(dataset, 0.1, seed=0):
        shown = np.concatenate([s.annotations.class_id for s in part])
        assert set(shown) == {0, 1, 2, 3}


def test_hold_out_leaves_something_on_either_side():
    for fraction in (0.01, 0.99):
        train, val = hold_out(dataset_of((0,), (0,)), fraction, seed=0)
        assert (len(train), len(val)) == (1, 1)
    for fraction, n in ((0.0, 4), (1.0, 4), (0.5, 1)):
        with pytest.raises(DataError, match="cannot hold out"):
            hold_out(dataset_of(*[(0,)] * n), fraction, seed=0)


def test_balanced_weights_meet_each_class_equally_often():
    dataset = dataset_of(*[(0,)] * 90, *[(1, 1, 1)] * 9, (2,), *[()] * 20)
    weights = balanced_weights(dataset)
    assert weights.dtype == np.float64
    assert weights.sum() == pytest.approx(1)
    for part in (slice(0, 90), slice(90, 99), slice(99, 100), slice(100, 120)):
        assert weights[part].sum() == pytest.approx(1 / 4)


def test_an_image_of_several_classes_weighs_as_its_rarest():
    weights = balanced_weights(dataset_of(*[(0,)] * 8, (0, 1), (1,)))
    assert weights[8] == weights[9] == pytest.approx(1 / 4)


def test_balanced_weights_take_image_labels():
    samples = [Sample(Path(f"{i}.png"), label=int(i > 2)) for i in range(4)]
    weights = balanced_weights(Dataset(("a", "b"), tuple(samples)))
    np.testing.assert_allclose(weights, [1 / 6] * 3 + [1 / 2])


def test_what_is_no_data_set_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="found no folder"):
        open_dataset(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="coco, yolo, voc, labelstudio, masks, folders"):
        open_dataset(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_real_data_sets():
    formats = {"wafer_die_optical": "yolo", "sem_defects": "folders", "cross_sections/ebc": "masks"}
    for folder, form in formats.items():
        assert find_format(DATA / folder) == form
    assert len(open_dataset(DATA / "sem_defects", "test")) == 204
    with pytest.raises(DataError, match="expected a split 'val', found test, train"):
        open_dataset(DATA / "wafer_die_optical", "val")
    train, val = hold_out(open_dataset(DATA / "wafer_die_optical", "train"), 0.2, seed=0)
    held = np.bincount(np.concatenate([s.annotations.class_id for s in val]), minlength=7)
    assert (len(train), len(val)) == (392, 98)
    assert held.min() >= 12
