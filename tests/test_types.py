"""What the shared values accept and how instances are selected and joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semiscope.types import Annotations, Dataset, Image, Mask, Polygons, Sample


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (1, 1)])
def test_image_accepts_grey_and_colour(dtype, shape):
    image = Image(np.zeros(shape, dtype))
    assert (image.height, image.width) == shape[:2]


@pytest.mark.parametrize("shape", [(4,), (4, 5, 4), (4, 5, 1), (0, 5), (4, 0, 3), (1, 2, 3, 3)])
def test_image_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="pixels must be"):
        Image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float64, np.int16, bool])
def test_image_refuses_other_types(dtype):
    with pytest.raises(ValueError, match="found"):
        Image(np.zeros((4, 5), dtype))


def test_the_specimen_is_a_view_without_the_info_bar():
    pixels = np.arange(40, dtype=np.uint8).reshape(8, 5)
    image = Image(pixels, info_bar_px=3)
    np.testing.assert_array_equal(image.specimen, pixels[:5])
    assert np.shares_memory(image.specimen, pixels) and image.height == 8


@pytest.mark.parametrize("rows", [-1, 8, 9])
def test_an_info_bar_leaves_some_specimen(rows):
    with pytest.raises(ValueError, match="info_bar_px"):
        Image(np.zeros((8, 5), np.uint8), info_bar_px=rows)


def mask(x=0):
    return Mask(x, 0, np.array([[True, False], [True, True]]))


def test_mask_area():
    assert mask().area == 3


def test_annotations_take_plain_lists_and_score_truth_with_one():
    truth = Annotations([[0, 1, 2, 3], [4, 5, 6, 7]], [0, 1])
    assert (truth.xyxy.dtype, truth.class_id.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(truth.score, np.ones(2, np.float32))
    assert len(truth) == 2 and len(Annotations.empty()) == 0
    assert Annotations([], []).xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_id": [0]},
        {"score": [0.5]},
        {"shapes": (mask(),)},
        {"angle_deg": [1.0, 2.0, 3.0]},
    ],
)
def test_annotations_refuse_fields_of_different_length(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} has . entries for 2 boxes"):
        Annotations(**{"xyxy": np.zeros((2, 4)), "class_id": [0, 0]} | wrong)


def three():
    return Annotations(
        np.arange(12).reshape(3, 4), [0, 1, 2], [0.1, 0.2, 0.3], (mask(0), None, mask(2)), [1, 2, 3]
    )


@pytest.mark.parametrize(
    "index", [np.array([2, 0]), np.array([True, False, True]), slice(None, None, 2)]
)
def test_selection_takes_every_field(index):
    full = three()
    part = full[index]
    order = np.arange(3)[index]
    np.testing.assert_array_equal(part.xyxy, full.xyxy[order])
    np.testing.assert_array_equal(part.class_id, order)
    np.testing.assert_array_equal(part.angle_deg, order + 1)
    assert part.shapes == tuple(full.shapes[i] for i in order)
    assert len(full[np.zeros(3, bool)]) == 0


def test_concatenation_keeps_what_is_missing_missing():
    bare = Annotations([[9, 9, 10, 10]], [4])
    both = Annotations.concatenate([Annotations.empty(), bare, three()])
    assert both.class_id.tolist() == [4, 0, 1, 2]
    assert [s is None for s in both.shapes] == [True, False, True, False]
    assert np.isnan(both.angle_deg[0]) and both.angle_deg[1:].tolist() == [1, 2, 3]
    plain = Annotations.concatenate([bare, bare])
    assert plain.shapes is None and plain.angle_deg is None
    assert len(Annotations.concatenate([])) == 0


def test_values_are_frozen():
    for value in (
        three(),
        mask(),
        Polygons(()),
        Sample(Path("a.png")),
        Image(np.zeros((2, 2), "u1")),
    ):
        field = value.__slots__[0]
        with pytest.raises(AttributeError):
            setattr(value, field, None)


def test_dataset_split():
    samples = tuple(
        Sample(Path(f"{i}.png"), split=s) for i, s in enumerate(("train", "val", "train"))
    )
    dataset = Dataset(("gap", "bridge"), samples, ("a note",))
    train = dataset.split("train")
    assert [s.path.name for s in train] == ["0.png", "2.png"]
    assert train.classes == dataset.classes and train.notes == ("a note",)
    assert len(dataset) == 3 and len(dataset.split("test")) == 0
