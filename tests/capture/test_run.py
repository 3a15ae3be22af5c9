"""Folders of photographs, good and bad, through the run and the verb."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from semiscope.capture import run as capture_run
from semiscope.capture.run import CaptureSettings, capture_images
from semiscope.capture.upright import order_corners, transform_points
from semiscope.errors import DataError, SemiscopeError, SettingsError
from semiscope.io.coco import read
from semiscope.io.image import read_image, write_tiff

ONE = CaptureSettings(threads=1)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[:, :, ::-1])
    return path


def results(out):
    content = json.loads((out / "captures.json").read_text())
    return content, {row["file"]: row for row in content["images"]}


@pytest.fixture
def photos(tmp_path, unit):
    folder = tmp_path / "photos"
    drawn = unit(10)
    write(folder / "a" / "one.png", drawn.pixels)
    write(folder / "b" / "one.png", unit(-20).pixels)
    write(folder / "deep.png", drawn.pixels.astype(np.uint16) * 200)
    write(folder / "black.png", np.zeros((90, 120, 3), np.uint8))
    write(folder / "white.png", np.full((90, 120, 3), 255, np.uint8))
    write(folder / "cut.png", np.ascontiguousarray(drawn.pixels[:, 85:]))
    write(folder / "two.png", np.hstack([drawn.pixels, unit(3, seed=1).pixels]))
    (folder / "torn.png").write_bytes((folder / "black.png").read_bytes()[:60])
    return folder, drawn


def test_every_photo_ends_as_a_crop_or_a_reason(photos, tmp_path):
    folder, drawn = photos
    out = folder / "out"  # crops beneath the photographs are never taken for photographs
    told = []
    summary = capture_images([folder], ONE, out, progress=lambda *p: told.append(p))
    assert summary.captured == 3 and summary.images == 8 and told[-1] == (8, 8)
    assert summary.exit_status == 2 and [f for f, _ in summary.failed] == [str(folder / "torn.png")]
    content, rows = results(out)
    assert content["complete"] is True and content["failed"][0]["file"].endswith("torn.png")
    reasons = {file.split("/")[-1]: row["reason"] for file, row in rows.items()}
    assert reasons == {
        "one.png": None,
        "deep.png": None,
        "black.png": "under-exposed",
        "white.png": "over-exposed",
        "cut.png": "cut by the border",
        "two.png": "several found",
    }
    row = rows[str(folder / "a" / "one.png")]
    np.testing.assert_allclose(row["corners"], drawn.corners, atol=0.5)
    assert row["angle_deg"] == pytest.approx(10, abs=0.2)
    assert row["orientation"] == "unknown" and row["illumination"] == "bright_field"
    crop = read_image(out / row["crop"])
    assert crop.pixels.shape[:2] == (150, 110) and crop.pixels.dtype == np.uint8
    seen = transform_points(row["corners"], np.array(row["homography"]))
    np.testing.assert_allclose(seen, [[0, 0], [110, 0], [110, 150], [0, 150]], atol=1e-3)
    # two files of one stem keep apart; 16 bits stay
    assert {r["crop"] for r in rows.values() if "crop" in r} == {
        "images/one.png", "images/b_one.png", "images/deep.png"
    }  # fmt: skip
    assert read_image(out / "images" / "deep.png").pixels.dtype == np.uint16
    assert len(list((out / "overlays").glob("*.jpg"))) == 7
    with pytest.raises(SemiscopeError, match="empty folder"):
        capture_images([folder], ONE, out)


def test_a_killed_run_goes_on_and_ends_the_same(photos, tmp_path, monkeypatch):
    folder, _ = photos
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    capture_images([folder], ONE, whole)
    seen = []

    def killed(pixels, found, draw=capture_run.draw):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return draw(pixels, found)

    monkeypatch.setattr(capture_run, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        capture_images([folder], ONE, parted)
    content, rows = results(parted)
    assert content["complete"] is False and 0 < len(rows) < 7
    with pytest.raises(SettingsError, match="other settings"):
        capture_images([folder], CaptureSettings(margin=0.1), parted, resume=True)
    seen += [1] * 9
    capture_images([folder], ONE, parted, resume=True)
    assert len(seen) < 9 + 4 + 7
    assert (parted / "captures.json").read_text() == (whole / "captures.json").read_text()


def test_a_pixel_size_goes_with_the_scale(tmp_path, unit):
    drawn = unit(0)
    write_tiff(tmp_path / "photo.tif", drawn.pixels, 50.0)
    settings = CaptureSettings(threads=1, size=(300, 220), margin=0.05)
    capture_images([tmp_path / "photo.tif"], settings, tmp_path / "out")
    image = read_image(tmp_path / "out" / "images" / "photo.tif")
    # 110 px and a tenth more are now 220 px
    assert image.nm_per_px == pytest.approx(50 * 121 / 220, rel=0.01)


def test_a_reference_turns_and_unmirrors(tmp_path, unit):
    drawn = unit(4)
    folder = tmp_path / "photos"
    write(folder / "down.png", np.rot90(drawn.pixels, 2))
    write(folder / "mirrored.png", np.ascontiguousarray(drawn.pixels[:, ::-1]))
    write(folder / "up.png", drawn.pixels)
    capture_images([folder / "up.png"], ONE, tmp_path / "first")
    reference = tmp_path / "first" / "images" / "up.png"
    settings = CaptureSettings(threads=1, reference=reference)
    capture_images([folder], settings, tmp_path / "out")
    _, rows = results(tmp_path / "out")
    ways = {f.split("/")[-1]: row["orientation"] for f, row in rows.items()}
    assert [ways[n]["quarter_turns"] for n in ("up.png", "down.png", "mirrored.png")] == [0, 2, 0]
    assert [ways[n]["mirrored"] for n in ("up.png", "down.png", "mirrored.png")] == [0, 0, 1]
    assert rows[str(folder / "mirrored.png")]["notes"] == ["the photograph is mirrored"]
    expected = read_image(reference).pixels.astype(float)
    for name in ways:
        crop = read_image(tmp_path / "out" / "images" / name).pixels
        crop = cv2.resize(crop, expected.shape[1::-1]).astype(float)
        assert np.corrcoef(crop.ravel(), expected.ravel())[0, 1] > 0.98


def coco(folder, drawn, split):
    write(folder / split / "images" / "u.png", drawn.pixels)
    records = [
        {"id": i, "image_id": 1, "category_id": i, "segmentation": [corners.ravel().tolist()],
         "bbox": [0, 0, 9, 9], "angle_deg": angle}
        for i, corners, angle in ((1, drawn.corners, 0), (2, drawn.die, 7.0))
    ]  # fmt: skip
    height, width = drawn.pixels.shape[:2]
    content = {
        "images": [{"id": 1, "file_name": "u.png", "width": width, "height": height}],
        "annotations": records,
        "categories": [{"id": 1, "name": "package"}, {"id": 2, "name": "die"}],
    }
    (folder / split / "annotations.json").write_text(json.dumps(content))


def test_labels_go_along_into_upright_crops_in_their_splits(tmp_path, unit):
    data, out = tmp_path / "data", tmp_path / "out"
    coco(data, unit(30, die_deg=7), "train")
    coco(data, unit(170, die_deg=7), "val")
    settings = CaptureSettings(method="label", threads=1)
    assert capture_images([data], settings, out).captured == 2
    crops = read(out)
    assert crops.classes == ("die",) and [s.split for s in crops] == ["train", "val"]
    for sample in crops:
        assert sample.size == (150, 110)
        (ring,) = sample.annotations.shapes[0].rings
        # where the die was drawn in the package's own frame, whichever way up the photograph is
        np.testing.assert_allclose(ring.mean(axis=0), [55, 82.5], atol=0.5)
        top = ring[1] - ring[0]
        assert np.degrees(np.arctan2(-top[1], top[0])) == pytest.approx(7, abs=0.3)
        assert sample.annotations.angle_deg.tolist() == [7]
        mark = read_image(sample.path).pixels[10:22, 10:22].mean(axis=(0, 1))
        np.testing.assert_allclose(mark, [220, 190, 90], atol=4)
    with pytest.raises(DataError, match="package"):
        capture_images(
            [data], CaptureSettings(method="label", package_class="chip"), tmp_path / "x"
        )
    with pytest.raises(SettingsError, match="one labelled"):
        capture_images([data, data], settings, tmp_path / "x")


def test_unknown_method_and_no_images():
    with pytest.raises(SettingsError, match="contour"):
        CaptureSettings.from_dict({"method": "guess"}, "test")


def test_the_verb(photos, tmp_path):
    folder, drawn = photos
    command = [sys.executable, "-m", "semiscope", "capture", str(folder), "--out",
               str(tmp_path / "out"), "--json", "--threads", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "torn.png" in done.stderr
    told = json.loads(done.stdout)
    assert told["captured"] == 3 and told["reasons"]["several found"] == 1
    np.testing.assert_allclose(order_corners(drawn.corners), drawn.corners)
