import csv
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from semiscope.errors import DataError, ModelError, SemiscopeError, SettingsError
from semiscope.inspection import pipeline
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
from semiscope.types import Image


def picture(path, *cells, size=(64, 64), dtype=np.uint8):
    """A dark image with bright 8 x 8 cells: (row, column, brightness in [0, 1])."""
    most = np.iinfo(dtype).max
    pixels = np.zeros(size, dtype)
    for row, column, bright in cells:
        pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = round(bright * most)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def many(folder, count):
    for i in range(count):
        picture(folder / f"{i:03}.png", (i % 8, i // 8 % 8, 0.5), (7 - i % 8, 2, 0.32 + i / 100))
    return folder


def run(images, model, out, **options):
    settings = {k: options.pop(k) for k in list(options) if k in InspectSettings.model_fields}
    return inspect(images, InspectSettings(model=str(model), **settings), out, **options)


def results(out):
    return json.loads((out / "results.json").read_text())


def elsewhere(code, **arguments):
    """Runs code in a process of its own, the arguments in its name space."""
    text = "import json, sys\nglobals().update(json.loads(sys.argv[1]))\n" + textwrap.dedent(code)
    values = json.dumps({k: str(v) for k, v in arguments.items()})
    return subprocess.run(
        [sys.executable, "-c", text, values], capture_output=True, text=True, timeout=300
    )


def test_what_is_found_is_told_to_the_pixel(tmp_path, blob_model):
    picture(tmp_path / "in" / "a.png", (1, 2, 0.5), (5, 6, 0.9))
    picture(tmp_path / "in" / "b.png")
    picture(tmp_path / "in" / "c.png", (0, 7, 0.32))
    summary = run([tmp_path / "in"], blob_model, tmp_path / "out", nm_per_px=2.5)
    told = results(tmp_path / "out")
    assert [Path(i["file_name"]).name for i in told["images"]] == ["a.png", "b.png", "c.png"]
    assert told["images"][0] == {
        **{"id": 1, "file_name": str(tmp_path / "in" / "a.png")},
        **{"width": 64, "height": 64, "nm_per_px": 2.5},
    }
    assert told["categories"] == [{"id": 1, "name": "dim"}, {"id": 2, "name": "bright <&>"}]
    brief = [
        (a["image_id"], a["category_id"], a["bbox"], a["disposition"]) for a in told["annotations"]
    ]
    assert brief == [
        (1, 2, [48, 40, 8, 8], "accept"),
        (1, 1, [16, 8, 8, 8], "accept"),
        (3, 1, [56, 0, 8, 8], "review"),
    ]
    first, _, doubtful = told["annotations"]
    # 0.32 is stored as 82 of 255
    assert doubtful["score"] == pytest.approx(1 / (1 + np.exp(12 - 40 * 82 / 255)), abs=1e-4)
    assert (first["area"], first["width_nm"], first["area_nm2"]) == (64, 20, 400)
    assert told["failed"] == [] and told["model"]["name"] == "blobs"
    assert (summary.images, summary.images_with_defects, summary.defects) == (3, 2, 3)
    assert summary.counts == {"dim": (1, 1), "bright <&>": (1, 0)}
    assert summary.exit_status == 0

    with (tmp_path / "out" / "defects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(r["image"]).name, r["class"], r["disposition"]) for r in rows] == [
        ("a.png", "bright <&>", "accept"),
        ("a.png", "dim", "accept"),
        ("c.png", "dim", "review"),
    ]
    assert [float(rows[0][k]) for k in ("x_px", "y_px", "w_px", "h_px", "area_px2")] == [
        *(48, 40, 8, 8, 64)
    ]
    assert [float(rows[0][k]) for k in ("x_nm", "y_nm", "w_nm", "h_nm", "area_nm2")] == [
        *(120, 100, 20, 20, 400)
    ]
    assert "Defect report" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_without_pixel_size_nanometres_are_left_out(tmp_path, blob_model):
    run([picture(tmp_path / "a.png", (1, 1, 0.5))], blob_model, tmp_path / "out")
    told = results(tmp_path / "out")
    assert told["images"][0]["nm_per_px"] is None and "width_nm" not in told["annotations"][0]
    assert (tmp_path / "out" / "defects.csv").read_text().splitlines()[1].endswith(",,,,")


def test_results_open_with_pycocotools(tmp_path, blob_model, capsys):
    from pycocotools.coco import COCO

    many(tmp_path / "in", 10)
    run([tmp_path / "in"], blob_model, tmp_path / "out")
    coco = COCO(str(tmp_path / "out" / "results.json"))
    capsys.readouterr()
    assert len(coco.getImgIds()) == 10
    found = coco.loadAnns(coco.getAnnIds(imgIds=[3], catIds=coco.getCatIds(["dim"])))
    assert [16, 0] in [a["bbox"][1::-1] for a in found]


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("threads", [1, 3])
def test_order_and_results_do_not_depend_on_batch_or_threads(tmp_path, blob_model, batch, threads):
    many(tmp_path / "in", 20)
    (tmp_path / "in" / "007.png").write_bytes(b"")
    seen = []
    run(
        [tmp_path / "in"],
        blob_model,
        tmp_path / "out",
        batch=batch,
        threads=threads,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 20) for i in range(20)]
    told = results(tmp_path / "out")
    assert [i["id"] for i in told["images"]] == [i + 1 for i in range(20) if i != 7]
    places = {(a["image_id"] - 1, *a["bbox"][:2]) for a in told["annotations"]}
    assert places >= {(i, 8 * (i // 8 % 8), 8 * (i % 8)) for i in range(20) if i != 7}


def test_a_large_image_is_tiled_and_nothing_is_counted_twice(tmp_path, blob_model):
    # tiles start every 48 px; column 6 lies in two tiles, row 6 and column 6 in four
    cells = [(0, 0, 0.5), (2, 6, 0.5), (6, 6, 0.9), (19, 29, 0.5), (12, 20, 0.9)]
    picture(tmp_path / "large.png", *cells, size=(160, 240))
    picture(tmp_path / "small.png", (3, 3, 0.5))
    run([tmp_path / "large.png", tmp_path / "small.png"], blob_model, tmp_path / "out", batch=4)
    told = results(tmp_path / "out")
    large = sorted(a["bbox"] for a in told["annotations"] if a["image_id"] == 1)
    assert large == sorted([8.0 * column, 8.0 * row, 8.0, 8.0] for row, column, _ in cells)
    assert [a["bbox"] for a in told["annotations"] if a["image_id"] == 2] == [[24, 24, 8, 8]]


def test_sixteen_bits_keep_their_depth(tmp_path, blob_model):
    path = picture(tmp_path / "deep.tif", (2, 3, 0.32), dtype=np.uint16)
    run([path], blob_model, tmp_path / "out")
    score = results(tmp_path / "out")["annotations"][0]["score"]
    # 8 bits would round 0.32 to 82 / 255 and the score to 0.7042
    assert score == pytest.approx(1 / (1 + np.exp(12 - 40 * 0.32)), abs=2e-4)


def test_thresholds_and_min_score(tmp_path, blob_model):
    path = picture(tmp_path / "a.png", (1, 1, 0.5), (3, 3, 0.32), (5, 5, 0.28))
    run([path], blob_model, tmp_path / "out")
    told = results(tmp_path / "out")["annotations"]
    assert [a["disposition"] for a in told] == ["accept", "review"]
    run([path], blob_model, tmp_path / "strict", min_score=0.95)
    assert len(results(tmp_path / "strict")["annotations"]) == 1
    run([path], blob_model, tmp_path / "loose", min_score=0.1)
    loose = results(tmp_path / "loose")["annotations"]
    assert [a["disposition"] for a in loose] == ["accept", "review", "review"]


def test_the_info_bar_is_left_out_and_the_pixel_size_of_the_file_used(
    tmp_path, blob_model, monkeypatch
):
    path = picture(tmp_path / "a.png", (2, 1, 1.0), (7, 3, 1.0))
    plain = pipeline.read_image(path).pixels

    def with_bar(path):
        return Image(plain, nm_per_px=4.0, info_bar_px=8, notes=("told twice",), path=path)

    monkeypatch.setattr(pipeline, "read_image", with_bar)
    run([path], blob_model, tmp_path / "out")
    told = results(tmp_path / "out")
    image = told["images"][0]
    assert (image["height"], image["info_bar_px"], image["nm_per_px"]) == (64, 8, 4.0)
    assert image["notes"] == ["told twice"]
    # 56 rows in an input of 64 lie 4 px lower, so two cells each hold half of what is bright
    assert told["annotations"] and all(
        a["bbox"][1] + a["bbox"][3] <= 56 for a in told["annotations"]
    )
    assert {a["category_id"] for a in told["annotations"]} == {1}


def huge_png(path):
    """A few bytes whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def test_bad_files_are_listed_and_the_run_goes_on(tmp_path, blob_model):
    folder = tmp_path / "in"
    good = [picture(folder / f"good{i}.png", (i, i, 0.5)) for i in range(3)]
    whole = good[0].read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "truncated.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes()[:-900])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_text("this is a text")
    (folder / "page.jpg").write_text("<!doctype html><p>not found")
    tifffile.imwrite(folder / "nan.tif", np.full((64, 64), np.nan, np.float32))
    huge_png(folder / "bomb.png")
    (folder / "folder.png").mkdir()
    missing = tmp_path / "in" / "missing.png"
    summary = run([folder, missing], blob_model, tmp_path / "out")
    told = results(tmp_path / "out")
    bad = ["bomb.png", "nan.tif", "page.jpg", "text.png", "truncated.jpg", "truncated.png"]
    assert sorted(Path(f["file"]).name for f in told["failed"]) == [
        *bad[:1],
        "missing.png",
        *bad[1:],
        "zero.png",
    ]
    assert all(f["reason"] and f["file"] not in f["reason"] for f in told["failed"])
    assert [Path(i["file_name"]).name for i in told["images"]] == [p.name for p in good]
    assert len(told["annotations"]) == 3
    assert summary.exit_status == 2 and len(summary.failed) == 8
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(Path(f["file"]).name in page for f in told["failed"])


def test_a_mislabelled_image_is_inspected_with_a_note(tmp_path, blob_model):
    path = picture(tmp_path / "a.png", (1, 1, 0.5))
    path.rename(tmp_path / "a.tif")
    run([tmp_path / "a.tif"], blob_model, tmp_path / "out")
    told = results(tmp_path / "out")
    assert len(told["annotations"]) == 1 and "PNG" in told["images"][0]["notes"][0]


def test_odd_names_come_through_everywhere(tmp_path, blob_model):
    names = ["a #1 (b).png", "[x] ä 欠陥.png", "<i>&amp;.png", "{{script}}.png", "it's, 100%.png"]
    for name in names:
        picture(tmp_path / "in [1]" / name, (1, 1, 0.5))
    summary = run([tmp_path / "in [1]"], blob_model, tmp_path / "out é")
    assert summary.exit_status == 0
    told = results(tmp_path / "out é")
    assert sorted(Path(i["file_name"]).name for i in told["images"]) == sorted(names)
    with summary.csv.open(encoding="utf-8", newline="") as file:
        assert sorted(Path(r["image"]).name for r in csv.DictReader(file)) == sorted(names)


def test_a_name_that_is_no_unicode(tmp_path, blob_model):
    path = picture(tmp_path / "a.png", (1, 1, 0.5))
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.png")
    try:
        os.rename(path, odd)
    except OSError:
        pytest.skip("this file system takes Unicode only")
    run([odd], blob_model, tmp_path / "out")
    assert results(tmp_path / "out")["images"][0]["file_name"] == odd


KILLED = """
import os
from pathlib import Path
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
def stop(done, total):
    if done == int(at):
        os.kill(os.getpid(), 9)
inspect([images], InspectSettings(model=model, batch=4, gallery=15), Path(out), progress=stop)
"""


@pytest.mark.parametrize("at", [1, 8, 18, 29])
def test_killed_and_resumed_ends_with_the_same_bytes(tmp_path, blob_model, at):
    folder = many(tmp_path / "in", 30)
    (folder / "010.png").write_bytes(b"")
    options = {"batch": 4, "gallery": 15}
    run([folder], blob_model, tmp_path / "whole", **options)
    out = tmp_path / "killed"
    ended = elsewhere(KILLED, images=folder, model=blob_model, out=out, at=at)
    assert ended.returncode == -signal.SIGKILL
    assert not (out / "results.json").exists()
    with pytest.raises(SemiscopeError, match=rf"not finished \({at} images done\).*--resume"):
        run([folder], blob_model, out, **options)
    seen = []
    run([folder], blob_model, out, resume=True, progress=lambda d, t: seen.append(d), **options)
    assert seen == list(range(at + 1, 31))
    for name in ("results.json", "defects.csv", "settings.toml"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def shown(folder):
        text = (folder / "report.html").read_text(encoding="utf-8")
        return text[text.index('id="data"') :]

    assert shown(out) == shown(tmp_path / "whole")


def test_a_finished_run_can_be_resumed_or_done_again(tmp_path, blob_model):
    folder = many(tmp_path / "in", 5)
    run([folder], blob_model, tmp_path / "out")
    before = (tmp_path / "out" / "results.json").read_bytes()
    seen = []
    again = run(
        [folder], blob_model, tmp_path / "out", resume=True, progress=lambda *a: seen.append(a)
    )
    assert seen == [] and again.images == 5
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    picture(folder / "000.png")
    assert run([folder], blob_model, tmp_path / "out").images_with_defects == 4


def test_resume_refuses_another_run(tmp_path, blob_model):
    folder = many(tmp_path / "in", 4)
    run([folder], blob_model, tmp_path / "out")
    with pytest.raises(SettingsError, match="another settings"):
        run([folder], blob_model, tmp_path / "out", resume=True, min_score=0.5)
    picture(folder / "new.png")
    with pytest.raises(SettingsError, match="another list of images"):
        run([folder], blob_model, tmp_path / "out", resume=True)


FULL = """
import resource
from pathlib import Path
from semiscope.errors import SemiscopeError
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
try:
    inspect([images], InspectSettings(model=model), Path(out))
except SemiscopeError as error:
    print(error)
    sys.exit(2)
"""


def test_a_full_disk_loses_nothing_of_what_was_done(tmp_path, blob_model):
    folder = many(tmp_path / "in", 30)
    run([folder], blob_model, tmp_path / "whole")
    length = (tmp_path / "whole" / "journal.jsonl").stat().st_size
    out = tmp_path / "full"
    ended = elsewhere(FULL, images=folder, model=blob_model, out=out, most=length // 2)
    assert ended.returncode == 2, ended.stderr
    assert "journal.jsonl" in ended.stdout and "--resume" in ended.stdout
    kept = (out / "journal.jsonl").read_bytes()
    assert kept.endswith(b"\n") and kept.count(b"\n") > 5
    assert (tmp_path / "whole" / "journal.jsonl").read_bytes().startswith(kept)
    assert not (out / "results.json").exists()
    run([folder], blob_model, out, resume=True)
    same = (tmp_path / "whole" / "results.json").read_bytes()
    assert (out / "results.json").read_bytes() == same


def test_a_disk_full_at_the_report_keeps_the_rest(tmp_path, blob_model):
    folder = many(tmp_path / "in", 30)
    run([folder], blob_model, tmp_path / "whole")
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "whole").iterdir()}
    assert sizes["report.html"] > sizes["journal.jsonl"] > sizes["results.json"]
    out = tmp_path / "full"
    most = (sizes["report.html"] + sizes["journal.jsonl"]) // 2
    ended = elsewhere(FULL, images=folder, model=blob_model, out=out, most=most)
    assert ended.returncode == 2 and "report.html" in ended.stdout
    assert sorted(p.name for p in out.iterdir()) == sorted(set(sizes) - {"report.html"})
    json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("kind", ["file", "proc"])
def test_an_output_folder_that_cannot_be_written(tmp_path, blob_model, kind):
    path = picture(tmp_path / "a.png", (1, 1, 0.5))
    out = tmp_path / "file" if kind == "file" else Path("/proc/self/inspect")
    if kind == "file":
        out.write_text("no folder")
    elif not Path("/proc/self").exists():
        pytest.skip("no read-only place to write to")
    with pytest.raises(SemiscopeError, match="cannot be written"):
        run([path], blob_model, out)


def test_models_that_do_not_fit(tmp_path, blob_model):
    path = picture(tmp_path / "a.png")
    with pytest.raises(ModelError, match="found none"):
        run([path], tmp_path / "none.onnx", tmp_path / "out")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match="expected an ONNX model"):
        run([path], tmp_path / "text.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_for_another_task(tmp_path, write_model):
    model = write_model(tmp_path / "other.onnx", task="caption")
    with pytest.raises(ModelError, match="caption"):
        run([picture(tmp_path / "a.png")], model, tmp_path / "out")


def test_no_images(tmp_path, blob_model):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        run([tmp_path / "empty"], blob_model, tmp_path / "out")


WITHOUT_TORCH = """
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "onnx", "accelerate"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
from pathlib import Path
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
print(inspect([images], InspectSettings(model=model), Path(out)).defects)
"""


def test_inspection_needs_no_torch(tmp_path, blob_model):
    folder = many(tmp_path / "in", 3)
    ended = elsewhere(WITHOUT_TORCH, images=folder, model=blob_model, out=tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == len(results(tmp_path / "out")["annotations"])


MEMORY = """
from pathlib import Path
from semiscope.evaluate.speed import peak_memory_mb
from semiscope.inspection.pipeline import inspect
from semiscope.inspection.settings import InspectSettings
inspect([images], InspectSettings(model=model, threads=2, gallery=40), Path(out))
print(peak_memory_mb())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_run(tmp_path, blob_model):
    peaks = []
    for count in (200, 1500):
        folder = many(tmp_path / f"in{count}", 50)
        for i in range(50, count):
            os.link(folder / f"{i % 50:03}.png", folder / f"{i:04}.png")
        out = tmp_path / f"out{count}"
        ended = elsewhere(MEMORY, images=folder, model=blob_model, out=out)
        assert ended.returncode == 0, ended.stderr
        peaks.append(float(ended.stdout))
    assert peaks[1] < peaks[0] * 1.1
