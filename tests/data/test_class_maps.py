import cv2
import numpy as np
import pytest

from semiscope.data.augment import ViewSettings
from semiscope.data.class_maps import MapExample, draw_place, map_view, open_mapped, read_mapped
from semiscope.errors import DataError
from semiscope.io.masks import IGNORE

STILL = {"flip_horizontal": 0, "scale": 0, "translate": 0}


@pytest.fixture
def mapped(tmp_path):
    """Two images of a layer with its class maps."""
    for split in ("train", "val"):
        for folder, values in (("images", (40, 200)), ("masks", (0, 1))):
            pixels = np.full((40, 50), values[0], np.uint8)
            pixels[10:20] = values[1]
            (tmp_path / split / folder).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / split / folder / "a.png"), pixels)
    (tmp_path / "classes.txt").write_text("matrix\nlayer\n")
    return tmp_path


def test_images_come_with_their_classes(mapped):
    dataset = open_mapped(mapped)
    example = read_mapped(dataset.samples[0], dataset.classes)
    assert example.pixels.shape == example.classes.shape == (40, 50)
    assert ((example.pixels == 200) == (example.classes == 1)).all()


def test_a_map_of_another_size_is_named(mapped):
    cv2.imwrite(str(mapped / "train" / "masks" / "a.png"), np.zeros((40, 49), np.uint8))
    with pytest.raises(DataError, match=r"masks/a.png: .*expected 50 x 40"):
        open_mapped(mapped)


def test_an_unknown_class_is_named(mapped):
    path = mapped / "train" / "masks" / "a.png"
    indices = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    indices[0, 0], indices[0, 1] = 7, IGNORE
    cv2.imwrite(str(path), indices)
    dataset = open_mapped(mapped)
    with pytest.raises(DataError, match=r"masks/a.png: expected classes 0 to 1 .*found 7"):
        read_mapped(dataset.samples[0], dataset.classes)


def test_a_set_without_maps_is_refused(mapped):
    for path in mapped.glob("*/masks/a.png"):
        path.rename(path.with_name("other.png"))
    with pytest.raises(DataError, match="expected class maps"):
        open_mapped(mapped)


def test_classes_follow_the_pixels():
    rng = np.random.default_rng(0)
    classes = (np.indices((60, 80)).sum(0) // 12 % 3).astype(np.uint8)
    example = MapExample(classes * np.uint8(100), classes)
    settings = ViewSettings(rotation_deg=20, scale=0.3, flip_vertical=0.5)
    for _ in range(5):
        seen = map_view(example, 32, settings, rng, (40, 30))
        judged = seen.classes != IGNORE
        # bilinear pixels and nearest classes may differ along the borders of regions alone
        core = judged & (cv2.erode(seen.classes, np.ones((5, 5))) == seen.classes)
        core &= cv2.dilate(seen.classes, np.ones((5, 5))) == seen.classes
        core[[0, 1, -2, -1]] = core[:, [0, 1, -2, -1]] = False
        assert core.sum() > 50
        np.testing.assert_array_equal(seen.pixels[core], seen.classes[core] * np.uint8(100))


def test_a_still_view_is_the_crop_itself():
    pixels = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80)
    example = MapExample(pixels, (pixels % 7).astype(np.uint8))
    seen = map_view(example, 32, ViewSettings(**STILL), np.random.default_rng(0), (40, 30))
    np.testing.assert_array_equal(seen.pixels, pixels[14:46, 24:56])
    np.testing.assert_array_equal(seen.classes, pixels[14:46, 24:56] % 7)


def test_beyond_the_image_nobody_judged():
    example = MapExample(np.full((20, 20), 9, np.uint8), np.ones((20, 20), np.uint8))
    seen = map_view(example, 32, ViewSettings(**STILL), np.random.default_rng(0), (10, 10))
    assert (seen.pixels == 9).all()
    assert (seen.classes[6:26, 6:26] == 1).all() and (seen.classes == 1).sum() == 400


def test_places_stay_inside_and_rare_classes_are_met():
    rng = np.random.default_rng(0)
    classes = np.zeros((100, 120), np.uint8)
    classes[50, 70] = 2
    near = {0.0: 0, 1.0: 0}
    for balance in near:
        for _ in range(100):
            x, y = draw_place(classes, 32, balance, rng)
            assert 16 <= x <= 104 and 16 <= y <= 84
            near[balance] += abs(x - 70) < 16 and abs(y - 50) < 16
    # half of the balanced draws are about the one pixel, and all of these show it
    assert near[1.0] > 40 and near[0.0] < 30
    assert draw_place(np.full((10, 12), IGNORE, np.uint8), 32, 1.0, rng) == (6, 5)
