"""Promptable models, by a network that any one can check by hand."""

import threading

import cv2
import numpy as np
import pytest

from semiscope.errors import DataError, ModelError
from semiscope.infer.model import Model
from semiscope.infer.promptable import Promptable

SIDE = 64
RADII = (8, 16, 24)  # of the three discs around the first point, pixels of the input


@pytest.fixture
def model(tmp_path, write_discs):
    return Promptable.load(write_discs(tmp_path / "discs.onnx"), threads=1)


def noise(height, width, dtype=np.uint8, channels=()):
    high = 256 if dtype == np.uint8 else 4096
    pixels = np.random.default_rng(0).integers(0, high, (height, width, *channels))
    return pixels.astype(dtype)


def test_an_image_is_normalised_and_then_padded_with_zeros_below_and_right(model):
    pixels = np.full((40, 80, 3), (255, 128, 0), np.uint8)
    image, scaled = model.prepare(pixels)
    assert image.shape == (1, 3, SIDE, SIDE)
    assert scaled == (32, 64)
    expected = np.array([2, (128 / 255 - 0.5) / 0.25, -2], np.float32)
    for channel, value in zip(image[0], expected, strict=True):
        np.testing.assert_allclose(channel[:32], value, atol=1e-6)
    assert not image[0, :, 32:].any()


def test_sixteen_bits_and_grey_are_spread_between_their_percentiles(model):
    grey = noise(50, 50, np.uint16)
    low, high = np.percentile(grey, (0.5, 99.5))
    image, _ = model.prepare(grey)
    wide = cv2.resize(grey, (SIDE, SIDE)).astype(np.float32)
    expected = (((wide - low) / (high - low)).clip(0, 1) - 0.5) / 0.25
    for channel in image[0]:
        np.testing.assert_allclose(channel, expected, atol=1e-4)


def test_an_image_of_one_grey_value_is_encoded(model):
    embedding = model.encode(np.full((30, 30), 7, np.uint16))
    assert np.isfinite(embedding.features).all()


def test_the_embedding_is_the_encoders_answer(model):
    pixels = noise(SIDE, SIDE, channels=(3,))
    blocks = pixels.reshape(4, 16, 4, 16, 3).mean((1, 3)).transpose(2, 0, 1) / 255
    found = model.encode(pixels).features[0, :3]
    np.testing.assert_allclose(found, (blocks - 0.5) / 0.25, atol=1e-4)


def test_a_box_becomes_a_mask_of_the_images_size_exact_to_a_pixel(model):
    embedding = model.encode(noise(300, 200))
    box = np.array([31.25, 62.5, 150.0, 201.0])
    masks, scores = model.decode(embedding, boxes=[box])
    assert masks.shape == (1, 300, 200)
    assert masks.dtype == bool
    rows, columns = np.flatnonzero(masks[0].any(1)), np.flatnonzero(masks[0].any(0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    # a pixel is inside when its centre is: the answer is cut at 0 between the coarse places
    np.testing.assert_allclose(found, box, atol=1)
    assert scores == pytest.approx([0.0])


def test_a_single_point_takes_the_mask_that_claims_most(model):
    embedding = model.encode(noise(128, 128))
    masks, scores = model.decode(
        embedding,
        points=[[[64, 64], [0, 0]], [[64, 64], [100, 100]]],
        labels=[[1, -1], [1, 0]],
    )
    # one positive place: the second disc claims 0.1, the others 0
    assert masks[0].sum() == pytest.approx(np.pi * (2 * RADII[1]) ** 2, rel=0.03)
    assert scores[0] == pytest.approx(0.1)
    # two points leave no doubt: the first mask, which claims a tenth for the place that is none
    assert scores[1] == pytest.approx(0.1)
    assert masks[1].sum() != masks[0].sum()


def test_points_without_labels_are_inside(model):
    embedding = model.encode(noise(64, 64))
    _, claimed = model.logits(embedding, points=[[[10, 10], [20, 20]]])
    np.testing.assert_allclose(claimed, [[0.1, 0, 0.2, 0]], atol=1e-6)


def test_points_and_boxes_go_together(model):
    embedding = model.encode(noise(64, 64))
    logits, claimed = model.logits(
        embedding, points=[[[16, 16]]], labels=[[0]], boxes=[[20, 20, 48, 48]]
    )
    np.testing.assert_allclose(claimed, [[0, 0.1, 0, 0.2]], atol=1e-6)
    # half of what lies between the first place and the last, less half a coarse place
    assert logits[0, 0].max() == pytest.approx(14)


def test_a_mask_of_before_is_a_prompt(model):
    embedding = model.encode(noise(64, 64))
    box = [[16, 16, 48, 48]]
    before, _ = model.logits(embedding, boxes=box)
    after, _ = model.logits(embedding, boxes=box, masks=np.full((1, 16, 16), 5, np.float32))
    np.testing.assert_allclose(after, before + 5, atol=1e-5)


def test_many_prompts_are_as_one_by_one(model):
    embedding = model.encode(noise(90, 70))
    rng = np.random.default_rng(1)
    start = rng.uniform(0, 40, (19, 2))
    boxes = np.concatenate([start, start + rng.uniform(5, 40, (19, 2))], 1)
    together, _ = model.decode(embedding, boxes=boxes)
    for box, mask in zip(boxes, together, strict=True):
        np.testing.assert_array_equal(model.decode(embedding, boxes=[box])[0][0], mask)


def test_no_prompts_are_no_masks(model):
    embedding = model.encode(noise(30, 20))
    masks, scores = model.decode(embedding, boxes=np.zeros((0, 4)))
    assert masks.shape == (0, 30, 20)
    assert scores.shape == (0,)
    masks, _ = model.decode(embedding, points=np.zeros((0, 1, 2)))
    assert masks.shape == (0, 30, 20)


def test_prompts_on_the_border_count_and_boxes_are_clipped(model):
    embedding = model.encode(noise(60, 80))
    corners = [[[0, 0]], [[80, 60]]]
    assert len(model.decode(embedding, points=corners)[0]) == 2
    clipped, _ = model.decode(embedding, boxes=[[-50, -50, 40, 30]])
    inside, _ = model.decode(embedding, boxes=[[0, 0, 40, 30]])
    np.testing.assert_array_equal(clipped, inside)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "expected points, a box or a mask as prompt, found none"),
        ({"points": [[[5, 5]]], "labels": [[-1]]}, "found a prompt of none"),
        ({"points": [[[81, 5]]]}, r"point \(81, 5\): expected inside the image of 80 x 60 px"),
        ({"points": [[[float("nan"), 5]]]}, r"point \(nan, 5\)"),
        ({"boxes": [[90, 10, 99, 20]]}, r"box \(90, 10, 99, 20\): .* image of 80 x 60 px"),
        ({"boxes": [[20, 10, 10, 20]]}, "left < right"),
        ({"boxes": [[1, 1, float("nan"), 20]]}, "left < right"),
    ],
)
def test_prompts_that_mean_nothing_are_told(model, prompt, message):
    embedding = model.encode(noise(60, 80))
    with pytest.raises(DataError, match=message):
        model.decode(embedding, **prompt)


def test_a_mask_prompt_of_another_size_is_told(model):
    embedding = model.encode(noise(64, 64))
    with pytest.raises(DataError, match=r"mask prompts of 16 x 16 px, .* array of \(1, 32, 32\)"):
        model.decode(embedding, masks=np.zeros((1, 32, 32), np.float32))


def test_prompts_of_different_numbers_are_a_mistake(model):
    embedding = model.encode(noise(60, 80))
    with pytest.raises(ValueError, match="of as many prompts"):
        model.decode(embedding, points=[[[5, 5]]], boxes=[[1, 1, 2, 2]] * 2)
    with pytest.raises(ValueError, match=r"expected \(1, 1\) labels, found \(1, 2\)"):
        model.decode(embedding, points=[[[5, 5]]], labels=[[1, 1]])


def test_the_last_few_images_are_not_encoded_again(model, monkeypatch):
    runs = []
    run = model._run
    monkeypatch.setattr(model, "_run", lambda *a: runs.append(a[0]) or run(*a))
    pixels = noise(20, 20)
    first = model.encode(pixels)
    assert model.encode(pixels.copy()) is first
    assert len(runs) == 1
    model.encode(pixels.T)  # the same values in another order
    model.encode(pixels.reshape(10, 40))  # the same bytes in another shape
    assert len(runs) == 3
    for value in range(8):
        model.encode(np.full((8, 8), value, np.uint8))
    assert model.encode(pixels) is not first


def test_several_threads_may_use_it(model):
    images = [noise(40 + i, 50) for i in range(6)]
    alone = [model.decode(model.encode(p), boxes=[[5, 5, 30, 30]])[0] for p in images]
    together = [None] * len(images)

    def work(i):
        together[i] = model.decode(model.encode(images[i]), boxes=[[5, 5, 30, 30]])[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_for_another_task_is_told(tmp_path, blob_model, write_discs):
    with pytest.raises(ModelError, match="expected a promptable model, found task 'detect'"):
        Promptable.load(blob_model)
    with pytest.raises(ModelError, match="expected a model for detection, found task 'prompt'"):
        Model.load(write_discs(tmp_path / "discs.onnx"))


def test_damaged_metadata_are_told(tmp_path, write_discs):
    with pytest.raises(ModelError, match="metadata is damaged.*side"):
        Promptable.load(write_discs(tmp_path / "odd.onnx", side=100))
    with pytest.raises(ModelError, match="expected a model file, found none"):
        Promptable.load(tmp_path / "absent.onnx")
