"""From a labelled folder to a run, an exported file, and the same boxes from both."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semiscope.compress.export import export, trained_network
from semiscope.config import Settings
from semiscope.data.augment import AugmentSettings
from semiscope.data.dataset import open_dataset
from semiscope.errors import DataError, ModelError, SettingsError
from semiscope.infer.decode import Placement, decode_yolo, place
from semiscope.infer.model import Model, Prepared
from semiscope.learn import run as runs
from semiscope.learn.loop import LoopSettings
from semiscope.learn.tasks.detect import DetectSettings, DetectTask
from semiscope.nets.yolov7_tiny import STRIDES, YoloV7Tiny


def blobs(root: Path, count: int = 12) -> Path:
    """Images with one bright square or disc each, some with none; YOLO labels."""
    rng = np.random.default_rng(0)
    for split, n in (("train", count), ("val", 4)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        for i in range(n):
            image = rng.integers(20, 60, (70, 90), dtype=np.uint8)
            x, y, kind = int(rng.integers(20, 70)), int(rng.integers(20, 50)), i % 3
            if kind == 0:
                cv2.rectangle(image, (x - 9, y - 9), (x + 9, y + 9), 230, -1)
            elif kind == 1:
                cv2.circle(image, (x, y), 9, 230, -1)
            line = "" if kind == 2 else f"{kind} {x / 90} {y / 70} {19 / 90} {19 / 70}\n"
            cv2.imwrite(str(root / split / "images" / f"{i} #ä.png"), image)
            (root / split / "labels" / f"{i} #ä.txt").write_text(line)
    (root / "classes.txt").write_text("square\ndisc\n")
    return root


def settings_for(data: Path, **changes) -> DetectSettings:
    augment = AugmentSettings(scale=0.1, translate=0.05, paste=0, mosaic=0.3)
    return DetectSettings(
        data=data,
        height=64,
        width=96,
        channels=1,
        optimiser="adamw",
        learning_rate=0.002,
        augment=augment,
        **changes,
    )


LOOP = LoopSettings(epochs=2, batch=4, warmup_epochs=0, workers=0, ema_decay=0.5, ema_ramp=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect")
    learn = settings_for(blobs(folder / "data"), neck="slim")
    figures = runs.start("detect", learn, LOOP, folder / "run")
    return folder, figures


def test_views_and_targets_agree(tmp_path):
    task = DetectTask(settings_for(blobs(tmp_path)), 0)
    examples = task.examples()
    for index in range(len(examples)):
        image, rows = examples.example(index, np.random.default_rng(index))
        assert image.shape == (1, 64, 96) and image.dtype == torch.float32
        for _, x, y, *_ in rows.numpy():
            if 2 < x < 94 and 2 < y < 62:
                assert image[0, int(y), int(x)] > image.mean()


def test_a_batch_of_clean_images_collates(tmp_path):
    examples = DetectTask(settings_for(blobs(tmp_path)), 0).examples()
    clean = (torch.zeros(1, 64, 96), torch.zeros(0, 5))
    images, targets = examples.collate([clean, clean])
    assert images.shape[0] == 2 and targets.shape == (0, 6)


def test_broken_images_are_left_out_with_a_word(tmp_path, caplog):
    data = blobs(tmp_path)
    broken = [data / split / "images" / "0 #ä.png" for split in ("train", "val")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:2000])
    task = DetectTask(settings_for(data), 0)
    examples = task.examples()
    places = [s.path.name for s in open_dataset(data, "train")]
    first = places.index(broken[0].name)
    seen = [examples.example(i, np.random.default_rng(3)) for i in (first, first + 1)]
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    task.evaluate(task.network())
    task.evaluate(task.network())
    told = [r.getMessage() for r in caplog.records]
    assert [t.partition(": left out")[0] for t in told] == [str(p) for p in broken]

    for path in (data / "val" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    task = DetectTask(settings_for(data), 0)
    with pytest.raises(DataError, match="found 4, none of which can be read"):
        task.evaluate(task.network())
    for path in (data / "train" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="nor any of the other 11"):
        DetectTask(settings_for(data), 0).examples().example(0, np.random.default_rng(0))


def test_the_run_says_what_it_is(trained):
    folder, figures = trained
    assert set(figures) == {"fitness", "map", "map50", "precision", "recall"}
    assert runs.read_settings(folder / "run" / "settings.toml")[1].neck == "slim"


def test_a_second_run_in_the_same_folder_is_refused(trained):
    folder, _ = trained
    with pytest.raises(SettingsError, match="--resume"):
        runs.start("detect", settings_for(folder / "data"), LOOP, folder / "run")


@pytest.fixture(scope="module")
def exported(trained):
    folder, _ = trained
    whole = export(folder / "run", folder / "whole.onnx")
    small = export(folder / "run", folder / "small ä#.onnx", weights=8, licence="CC0", limits="toy")
    return folder, whole, small


def test_the_file_finds_what_torch_finds(exported):
    folder, meta, _ = exported
    model = Model.load(folder / "whole.onnx")
    network, state = trained_network(folder / "run")
    images = [
        cv2.imread(str(p), cv2.IMREAD_UNCHANGED)
        for p in sorted((folder / "data/val/images").iterdir())
    ]
    ours = model.predict(images, min_score=0.001)
    for image, found in zip(images, ours, strict=True):
        prepared = model.prepare(image)
        with torch.no_grad():
            maps = network(torch.from_numpy(prepared.tensor)[None])
        raw = decode_yolo(
            [m[0].numpy() for m in maps],
            meta.decoder.anchors,
            STRIDES,
            0.001,
            meta.decoder.iou_threshold,
        )
        expected = place(raw, prepared.placement, *image.shape)
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
        # of equally likely ones either may come first: each has its like, whatever its place
        apart = np.abs(found.xyxy[:, None] - expected.xyxy).max(2)
        same = found.class_id[:, None] == expected.class_id
        same &= (apart < 0.05) & (np.abs(found.score[:, None] - expected.score) < 1e-4)
        assert same.any(0).all() and same.any(1).all()


def test_weights_in_8_bits_quarter_the_file_and_barely_move_scores(exported):
    folder, _, meta = exported
    assert meta.licence == "CC0" and meta.limits == "toy" and meta.name == "small ä#"
    whole, small = folder / "whole.onnx", folder / "small ä#.onnx"
    assert small.stat().st_size < 0.28 * whole.stat().st_size
    tensors = np.random.default_rng(0).standard_normal((2, 1, 64, 96), dtype=np.float32)
    batch = [Prepared(t, Placement(1.0, 0, 0)) for t in tensors]
    for a, b in zip(Model.load(whole).run(batch), Model.load(small).run(batch), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(a).max())


def test_the_file_tells_how_it_was_made(exported):
    _, meta, _ = exported
    assert meta.classes == ("square", "disc")
    assert (meta.input.height, meta.input.width, meta.input.channels) == (64, 96, 1)
    assert (meta.field_height, meta.field_width) == (70, 90)
    assert meta.settings["learn"]["neck"] == "slim"
    # the layer that slim-neck carries and never runs is counted as the paper does, and not stored
    assert meta.parameters > 5_000_000


def test_a_missing_or_unfinished_run_cannot_be_exported(tmp_path):
    with pytest.raises(SettingsError, match="best/state.json"):
        export(tmp_path, tmp_path / "x.onnx")


def test_a_file_that_is_no_model_is_refused(tmp_path, exported):
    folder, *_ = exported
    bad = tmp_path / "bad.onnx"
    with pytest.raises(ModelError, match="found none"):
        Model.load(bad)
    bad.write_bytes(b"not onnx")
    with pytest.raises(ModelError, match="expected an ONNX model"):
        Model.load(bad)
    import onnx

    plain = onnx.load(folder / "whole.onnx")
    del plain.metadata_props[:]
    onnx.save(plain, bad)
    with pytest.raises(ModelError, match="not a semiscope model"):
        Model.load(bad)
    entry = plain.metadata_props.add()
    entry.key, entry.value = "semiscope", '{"task": "classify"}'
    onnx.save(plain, bad)
    with pytest.raises(ModelError, match="'classify'"):
        Model.load(bad)
    entry.value = '{"task": "detect"}'
    onnx.save(plain, bad)
    with pytest.raises(ModelError, match="damaged"):
        Model.load(bad)


def test_data_without_boxes_is_refused(tmp_path):
    root = blobs(tmp_path)
    for label in root.glob("*/labels/*"):
        label.write_text("")
    with pytest.raises(DataError, match="training images with boxes"):
        DetectTask(settings_for(root), 0)


def test_pretrained_weights_need_their_backbone(tmp_path):
    with pytest.raises(SettingsError, match="efficientnet-lite0"):
        DetectSettings.from_dict({"data": tmp_path, "pretrained": "package"}, "test")
    task = DetectTask(
        settings_for(blobs(tmp_path), backbone="efficientnet-lite0", pretrained="no.pth"), 0
    )
    with pytest.raises(SettingsError, match="no.pth"):
        task.network()


def test_a_run_can_start_from_another_s_weights(trained, tmp_path):
    folder, _ = trained
    learn = settings_for(folder / "data", neck="slim", init=folder / "run")
    ours = DetectTask(learn, 0).network().state_dict()
    theirs = trained_network(folder / "run")[0].state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    other = settings_for(folder / "data", neck="elan", init=folder / "run")
    with pytest.raises(SettingsError, match="same neck"):
        DetectTask(other, 0).network()


def test_every_setting_has_a_line_of_help():
    def lines(model: type[Settings]):
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Settings):
                yield from lines(kind)
            else:
                yield name, field.description

    for model in (DetectSettings, LoopSettings):
        assert all(text for _, text in lines(model))


def test_the_spec_rebuilds_the_network(trained):
    folder, _ = trained
    network, state = trained_network(folder / "run")
    assert isinstance(network, YoloV7Tiny) and state["spec"]["built"]["neck"] == "slim"
