import numpy as np
import pytest

from semiscope.data.augment import (
    AugmentSettings,
    Example,
    draw_focus,
    paste,
    photometric,
    random_affine,
    scaled,
    view,
    warp,
)
from semiscope.geometry import dense, outline, shape_box
from semiscope.types import Annotations, Mask, Polygons

STILL = AugmentSettings(flip_horizontal=0, scale=0, translate=0, paste=0, brightness=0, contrast=0)


def scene(height=60, width=80, dtype=np.uint8):
    """A bright rectangle at columns 10 to 30 and rows 20 to 36, with box, mask and outline."""
    pixels = np.zeros((height, width), dtype)
    pixels[20:36, 10:30] = 200
    box = np.array([[10, 20, 30, 36]], np.float32)
    mask = Mask(10, 20, np.ones((16, 20), bool))
    return Example(pixels, Annotations(np.repeat(box, 2, 0), [0, 1], None, (mask, outline(mask))))


def bright_box(pixels, level=100):
    rows, columns = np.nonzero(pixels > level)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def never(rng):
    raise AssertionError("no other example is asked for")


@pytest.mark.parametrize(
    "change",
    [
        {"flip_horizontal": 1},
        {"flip_vertical": 1},
        {"quarter_turns": True},
        {"scale": 0.3},
        {"translate": 0.2},
        {"quarter_turns": True, "flip_horizontal": 1, "translate": 0.1},
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_boxes_masks_and_outlines_follow_the_pixels(change, seed):
    settings = AugmentSettings(**{**STILL.model_dump(), **change})
    seen = view(scene(), 60, 80, settings, np.random.default_rng(seed), never, 0)
    # two pixels of blur at most where the zoom is not whole
    expected = bright_box(seen.pixels)
    for i, shape in enumerate(seen.annotations.shapes):
        np.testing.assert_allclose(seen.annotations.xyxy[i], expected, atol=1.1)
        np.testing.assert_allclose(shape_box(shape).clip(0, [80, 60, 80, 60]), expected, atol=1.1)
    mask = next(s for s in seen.annotations.shapes if isinstance(s, Mask))
    agree = dense(mask, 60, 80) == (seen.pixels > 100)
    assert agree.mean() > 0.985


def test_a_flip_is_exact():
    settings = STILL.model_copy(update={"flip_horizontal": 1.0})
    seen = view(scene(), 60, 80, settings, np.random.default_rng(0), never, 0)
    np.testing.assert_array_equal(seen.pixels, scene().pixels[:, ::-1])
    np.testing.assert_array_equal(seen.annotations.xyxy[0], [50, 20, 70, 36])
    assert (seen.annotations.shapes[0].x, seen.annotations.shapes[0].y) == (50, 20)


def test_a_rotated_outline_has_a_tight_box():
    settings = STILL.model_copy(update={"rotation_deg": 45.0})
    rng = np.random.default_rng(3)
    seen = view(scene(120, 120), 120, 120, settings, rng, never, 0)
    np.testing.assert_allclose(seen.annotations.xyxy[1], bright_box(seen.pixels), atol=1.5)


def test_what_leaves_the_view_is_dropped_and_what_is_cut_is_clipped():
    shift = np.array([[1.0, 0, -20], [0, 1, 0]])
    seen = warp(scene(), shift, 60, 80, 0)
    np.testing.assert_allclose(seen.annotations.xyxy, [[0, 20, 10, 36]] * 2)
    gone = warp(scene(), np.array([[1.0, 0, -29], [0, 1, 0]]), 60, 80, 0)
    assert len(gone.annotations) == 0


def test_the_same_generator_gives_the_same_view_and_another_another():
    settings = AugmentSettings(mosaic=1, paste=1, rotation_deg=10, quarter_turns=True)
    views = [
        view(scene(), 64, 64, settings, np.random.default_rng(s), lambda r: scene(), 7)
        for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(views[0].pixels, views[1].pixels)
    np.testing.assert_array_equal(views[0].annotations.xyxy, views[1].annotations.xyxy)
    assert (views[0].pixels != views[2].pixels).any()


def test_a_mosaic_keeps_each_box_on_its_bright_pixels():
    settings = STILL.model_copy(update={"mosaic": 1.0})
    for seed in range(5):
        rng = np.random.default_rng(seed)
        seen = view(scene(), 60, 80, settings, rng, lambda r: scene(), 0)
        assert len(seen.annotations) > 2
        for x0, y0, x1, y1 in seen.annotations.xyxy.round().astype(int):
            assert (seen.pixels[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] > 100).all()


def test_pasting_copies_outlined_pixels_where_nothing_is():
    target = Example(np.full((60, 80), 50, np.uint8), Annotations.empty())
    seen = paste(target, scene())
    assert len(seen.annotations) >= 1
    assert (seen.pixels[20:36, 10:30] == 200).all() and seen.pixels[0, 0] == 50
    assert (target.pixels == 50).all()
    taken = paste(scene(), scene())
    assert len(taken.annotations) == 2
    bare = Example(scene().pixels, Annotations(scene().annotations.xyxy, [0, 1]))
    assert len(paste(target, bare).annotations) == 0


def test_scaling_keeps_boxes_and_16_bits():
    half = scaled(scene(dtype=np.uint16), 0.5)
    assert half.pixels.dtype == np.uint16 and half.pixels.shape == (30, 40)
    np.testing.assert_allclose(half.annotations.xyxy[0], [5, 10, 15, 18])
    assert isinstance(half.annotations.shapes[1], Polygons)
    np.testing.assert_allclose(shape_box(half.annotations.shapes[1]), [5, 10, 15, 18])


def test_no_change_of_grey_without_settings():
    values = np.random.default_rng(0).random((8, 8), np.float32)
    same = photometric(values, STILL, np.random.default_rng(0))
    np.testing.assert_allclose(same, values, atol=1e-6)


def test_shot_noise_grows_as_the_root_of_the_signal():
    settings = STILL.model_copy(update={"shot_noise": 0.1})
    values = np.full((400, 400), 0.25, np.float32)
    values[:, 200:] = 0.64
    rng = np.random.default_rng(1)
    noisy = photometric(values, settings, rng)
    ratio = noisy[:, 200:].std() / noisy[:, :200].std()
    assert ratio == pytest.approx(0.8 / 0.5, rel=0.05)


def test_grey_changes_stay_in_range():
    settings = AugmentSettings(brightness=1, contrast=0.9, colour_cast=0.9, shot_noise=1)
    values = np.random.default_rng(0).random((9, 7, 3), np.float32)
    for seed in range(10):
        seen = photometric(values, settings, np.random.default_rng(seed))
        assert seen.min() >= 0 and seen.max() <= 1 and seen.dtype == np.float32


def test_a_quarter_turn_of_a_wide_image_still_fits():
    settings = STILL.model_copy(update={"quarter_turns": True})
    for seed in range(8):
        matrix = random_affine((60, 80), 60, 80, settings, np.random.default_rng(seed))
        corners = np.array([[0, 0, 1], [80, 0, 1], [0, 60, 1], [80, 60, 1]]) @ matrix.T
        assert corners.min() > -1e-6 and (corners <= [80 + 1e-6, 60 + 1e-6]).all()


def test_a_part_of_the_image_shows_an_instance_most_of_the_time_and_stays_inside():
    example = scene(120, 160)
    shown = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        focus = draw_focus(example, 64, rng)
        assert 32 <= focus[0] <= 128 and 32 <= focus[1] <= 88
        seen = view(example, 64, 64, STILL, rng, never, 99, focus)
        assert not (seen.pixels == 99).any()
        shown += len(seen.annotations) > 0
        for box in seen.annotations.xyxy[:1]:
            np.testing.assert_allclose(box, bright_box(seen.pixels), atol=1.01)
    assert shown > 40


def test_a_view_larger_than_the_image_is_centred():
    assert draw_focus(scene(60, 80), 96, np.random.default_rng(0)) == (40, 30)


@pytest.mark.parametrize("place", [(0, 0), (7, 3), (99, 59), (50, 31)])
def test_a_mask_of_one_pixel_survives_shrinking_and_a_missing_one_does_no_harm(place):
    x, y = place
    masks = (Mask(x, y, np.ones((1, 1), bool)), Mask(0, 0, np.zeros((0, 0), bool)))
    boxes = np.array([[x, y, x + 1, y + 1], [1, 1, 9, 9]], np.float32)
    known = Annotations(boxes, np.array([0, 0]), None, masks)
    small = scaled(Example(np.zeros((60, 100), np.uint8), known), 0.13)
    (mask, none) = small.annotations.shapes
    height, width = small.pixels.shape
    assert (mask.x, mask.y) == (int((x + 0.5) * width / 100), int((y + 0.5) * height / 60))
    assert mask.area == 1 and none.area == 0
    moved = warp(small, np.array([[1.0, 0, 0.3], [0, 1.0, -0.2]]), height, width, 0)
    assert len(moved.annotations) <= 2
