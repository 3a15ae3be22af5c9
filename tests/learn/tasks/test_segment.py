"""From class maps to a run, an exported file, and the same class maps from both."""

import cv2
import numpy as np
import pytest
import torch

from semiscope.compress.export import export
from semiscope.errors import DataError, ModelError, SettingsError
from semiscope.infer.model import Model
from semiscope.infer.segmenter import ClassMap, Segmenter, is_segmenter
from semiscope.inspection.score_maps import MapScoreSettings, score_maps
from semiscope.learn import checkpoint
from semiscope.learn import run as runs
from semiscope.learn.map_validation import _accept, _regions_right
from semiscope.learn.tasks.segment import MapLoopSettings, SegmentSettings, SegmentTask


def settings_for(data, **changes) -> SegmentSettings:
    small = {"features": 8, "height": 64, "width": 64, "crop": 32, "crops": 2}
    return SegmentSettings(data=data, **{**small, "defects": ("crack",), **changes})


LOOP = MapLoopSettings(epochs=1, batch=4, warmup_epochs=0, workers=0, ema_decay=0.5, ema_ramp=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, layered):
    folder = tmp_path_factory.mktemp("segment")
    learn = settings_for(layered(folder / "data"))
    figures = runs.start("segment", learn, LOOP, folder / "run")
    return folder, figures


def test_the_run_says_what_it_is(trained):
    folder, figures = trained
    assert set(figures) == {"fitness", "mean_iou", "materials", "defect"}
    name, learn, loop = runs.read_settings(folder / "run" / "settings.toml")
    assert name == "segment" and learn.defects == ("crack",) and loop.batch == 4


def test_broken_images_are_left_out_with_a_word(tmp_path, layered, caplog):
    data = layered(tmp_path)
    broken = [data / split / "images" / "0.png" for split in ("train", "val")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:2000])
    task = SegmentTask(settings_for(data), 0)
    assert len(task.examples()) == 3 * 2
    assert task.evaluate(task.network())["mean_iou"] > 0
    told = [r.getMessage() for r in caplog.records]
    assert [t.partition(": left out")[0] for t in told] == [str(p) for p in broken]
    for path in (data / "train" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="found 4, none of which can be read"):
        SegmentTask(settings_for(data), 0)


@pytest.mark.slow
def test_the_file_s_figures_are_those_of_the_training(trained):
    folder, figures = trained
    meta = export(folder / "run", folder / "maps.onnx", licence="CC0")
    assert meta.task == "class-map" and meta.classes == ("matrix", "layer", "crack")
    assert 0 <= meta.thresholds["crack"].accept <= 1
    assert meta.defects == ("crack",) and meta.class_iou.keys() <= set(meta.classes)
    assert is_segmenter(folder / "maps.onnx")
    with pytest.raises(ModelError, match="found task 'class-map'"):
        Model(folder / "maps.onnx")

    data = folder / "data"
    report, failed = score_maps(
        MapScoreSettings(model=str(folder / "maps.onnx"), data=(data,), split="val")
    )
    assert not failed and report.images == 2 and list(report.per_device) == [str(data)]
    # ONNX Runtime and torch may call a pixel differently where two classes are as likely
    assert report.mean_iou == pytest.approx(figures["mean_iou"], abs=2e-3)
    assert report.defect == pytest.approx(figures["defect"], abs=2e-3)

    # a small image, a large one of 16 bits: every pixel has a class and a score
    model = Segmenter.load(folder / "maps.onnx", threads=1)
    rng = np.random.default_rng(0)
    for size in ((20, 30), (100, 150)):
        found = model.segment(rng.integers(0, 65535, size).astype(np.uint16))
        assert found.indices.shape == found.score.shape == size
        assert found.indices.max() < 3 and 1 / 3 <= found.score.min() <= found.score.max() <= 1

    # a faulty class map is told of, and the others count
    cv2.imwrite(str(data / "val" / "masks" / "0.png"), np.full((64, 80), 9, np.uint8))
    report, failed = score_maps(
        MapScoreSettings(model=str(folder / "maps.onnx"), data=(data,), split="val", defects=())
    )
    assert report.images == 1 and report.defect is None
    assert len(failed) == 1 and "found 9" in failed[0][1]
    (data / "classes.txt").write_text("matrix\nlayer\nvoid\n")
    with pytest.raises(ModelError, match="none for void"):
        score_maps(MapScoreSettings(model=str(folder / "maps.onnx"), data=(data,)))


def test_a_training_begins_with_another_s_weights(trained, tmp_path, layered):
    run = trained[0] / "run"
    data = layered(tmp_path / "data")
    begun = settings_for(data, init=run)
    best, _ = checkpoint.best(run)
    same = SegmentTask(begun, 1).network().state_dict()
    assert same.keys() == best.keys() and all(torch.equal(same[k], best[k]) for k in best)

    # other classes: the last layer is a fresh one, all before it are taken
    (data / "classes.txt").write_text("matrix\nfilm\ncrack\n")
    fresh = SegmentTask(begun, 1).network().state_dict()
    differ = {k for k in best if not torch.equal(fresh[k], best[k])}
    assert differ and all(k.startswith("classify.") for k in differ)

    with pytest.raises(SettingsError, match="expected a run with evaluated weights"):
        SegmentTask(settings_for(data, init=tmp_path), 0).network()
    strange = {"model": {"elsewhere": torch.zeros(3)}}
    checkpoint.save(tmp_path / "best", strange, {"spec": {}})
    with pytest.raises(SettingsError, match="shares a part with this one, found none"):
        SegmentTask(settings_for(data, init=tmp_path), 0).network()


def test_regions_are_accepted_from_where_nine_of_ten_are_right():
    truth = np.zeros((40, 60), np.uint8)
    truth[5:10, 5:55] = 1
    indices, score = truth.copy(), np.full(truth.shape, 0.95, np.float32)
    indices[:, 30] = 0  # two regions, both right
    indices[20:24, 20:24] = 1  # and a false one, of which the network is less sure
    score[20:24, 20:24] = 0.6
    rows = _regions_right(ClassMap(indices, score), truth, 1)
    assert sorted(r for _, r in rows) == [False, True, True]
    assert _accept(rows) == pytest.approx(0.95) and _accept([]) == 1.0
    assert _accept([(0.9, False), (0.8, True)]) == 1.0


def test_no_segmenter_is_refused(tmp_path, blob_model):
    assert not is_segmenter(blob_model) and not is_segmenter(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="class maps, found task 'detect'"):
        Segmenter(blob_model)


def test_bad_data_is_told(tmp_path, layered):
    with pytest.raises(SettingsError, match="expected some of matrix, layer, crack, found void"):
        SegmentTask(settings_for(layered(tmp_path), defects=("void",)), 0)
    path = tmp_path / "train" / "masks" / "1.png"
    cv2.imwrite(str(path), np.full((64, 80), 3, np.uint8))
    with pytest.raises(DataError, match=r"train/masks/1.png: expected classes 0 to 2"):
        SegmentTask(settings_for(tmp_path), 0)
    cv2.imwrite(str(path), np.zeros((64, 81), np.uint8))
    with pytest.raises(DataError, match=r"train/masks/1.png: .*expected 80 x 64"):
        SegmentTask(settings_for(tmp_path), 0)
    for mask in tmp_path.glob("val/masks/*.png"):
        mask.unlink()
    path.unlink()
    with pytest.raises(DataError, match="expected validation images with class maps"):
        SegmentTask(settings_for(tmp_path), 0)


def test_views_are_even_over_classes_and_a_function_of_the_generator(tmp_path, layered):
    task = SegmentTask(settings_for(layered(tmp_path), balance=1.0), 0)
    examples = task.examples()
    assert len(examples) == 8 and examples.weights().shape == (8,)
    cracks = 0
    for index in range(24):
        image, classes = examples.example(index % 8, np.random.default_rng(index))
        assert image.shape == (1, 32, 32) and classes.shape == (32, 32)
        cracks += bool((classes == 2).any())
    assert cracks >= 8
    again, _ = examples.example(23 % 8, np.random.default_rng(23))
    assert torch.equal(image, again)
