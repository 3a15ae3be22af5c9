"""The command line as a user calls it, each in a process of its own."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

NO_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "accelerate", "onnx", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
sys.meta_path.insert(0, Block())
"""


def semiscope(*arguments, cwd=None, before=""):
    code = f"{before}\nfrom semiscope.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys, semiscope.cli as cli\ntry: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'cv2', 'onnxruntime', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    for verb in (
        "inspect",
        "check",
        "convert",
        "simulate",
        "train",
        "evaluate",
        "export",
        "info",
        "bench",
    ):
        assert verb in done.stdout


@pytest.mark.parametrize(
    ("neck", "deployed", "gflops"),
    [("elan", 6010302, 13.03), ("slim", 5746078, 12.11), ("coord", 6027198, 13.08)],
)
def test_info_of_a_network(neck, deployed, gflops):
    done = semiscope("info", "yolov7-tiny", "--neck", neck, "--classes", 2, "--json")
    figures = json.loads(done.stdout)
    assert figures["parameters"]["deployed"] == deployed
    assert figures["gflops"] == gflops


def test_info_of_a_network_with_masks():
    done = semiscope("info", "yolov5n-seg", "--classes", 1, "--json")
    figures = json.loads(done.stdout)
    assert figures["parameters"]["deployed"] == 1879750 and figures["gflops"] == 6.73
    assert "neck" not in figures


@pytest.mark.parametrize("name", ["sem-lines", "wafer-die"])
def test_info_of_a_shipped_model_without_torch(name):
    done = semiscope("info", name, "--json", before=NO_TORCH)
    figures = json.loads(done.stdout)
    assert figures["name"] == name
    assert figures["file_bytes"] <= 14e6
    assert figures["licence"] and figures["data"] and figures["metrics"]["val_map50"] > 0


def test_demo_s_commands_without_torch(tmp_path):
    for arguments in (
        ("simulate", "sem-lines", "--count", 8, "--split", "test", "--out", tmp_path / "scenes"),
        (
            "inspect",
            tmp_path / "scenes/test/images",
            "--model",
            "sem-lines",
            "--out",
            tmp_path / "run",
            "--json",
        ),
        ("evaluate", "--model", "sem-lines", "--data", tmp_path / "scenes", "--json"),
    ):
        done = semiscope(*arguments, before=NO_TORCH)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["map50"] > 0.3
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert len(results["images"]) == 8 and results["failed"] == []
    assert all(i["nm_per_px"] > 0 for i in results["images"])
    assert (tmp_path / "run/report.html").exists() and (tmp_path / "run/defects.csv").exists()


def test_a_bad_file_is_listed_and_the_status_is_2(tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), np.zeros((64, 64), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"")
    done = semiscope(
        "inspect", tmp_path, "--model", "sem-lines", "--out", tmp_path / "run", "--json"
    )
    assert done.returncode == 2
    (failed,) = json.loads(done.stdout)["failed"]
    assert failed["file"].endswith("bad.png") and "bad.png" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("info", "no-such-model"), "Shipped models: cross-sections, "),
        (("inspect", "."), "--model"),
        (("evaluate", "--model", "sem-lines", "--data", "nowhere"), "nowhere"),
        (("simulate", "sem-lines", "--count", "0", "--out", "x"), "--count"),
        (("train", "detect", "--data", "x", "--height", "33"), "--height"),
        (("train", "detect", "--settings", "none.toml"), "none.toml"),
        (("train", "detect", "--resume", "nowhere"), "nowhere"),
        (("train", "detect", "--resume", "r", "--height", "64"), "give no other option"),
        (("convert", "nowhere", "out", "--to", "coco"), "nowhere"),
        (("export", "nowhere", "--out", "x.onnx"), "nowhere"),
        (("inspect", ".", "--modell", "x"), "--modell"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, words, tmp_path):
    done = semiscope(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "Traceback" in semiscope(*arguments, "--debug", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--count", "0"), "option --count: Input should be greater than or equal to 1, found '0'"),
        (
            ("--pattern.duty", "0.9", "0.95"),
            "option --pattern: duty: expected values from 0.1 to 0.9, found (0.9, 0.95)",
        ),
        (
            ("--width", "64"),
            "expected room for 5 pitches of 91 px, found 64 x 480 px: lower pattern.pitch_nm or "
            "raise width and height",
        ),
        (
            ("--seed", "-1", "--width", "9"),
            "option --seed: Input should be greater than or equal to 0, found '-1'; "
            "option --width: Input should be greater than or equal to 64, found '9'",
        ),
    ],
)
def test_a_setting_at_fault_is_named_where_it_is_one(options, message, tmp_path):
    done = semiscope("simulate", "sem-lines", "--out", "x", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


def test_training_without_torch_says_what_to_install(tmp_path):
    done = semiscope("train", "detect", "--data", tmp_path, before=NO_TORCH)
    assert done.returncode == 2 and "semiscope[train]" in done.stderr


@pytest.mark.slow
def test_from_scenes_to_a_model_file(tmp_path):
    def run(*arguments):
        done = semiscope(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    run("simulate", "sem-lines", "--count", 24, "--out", "scenes")
    assert "verdict" in run("check", "scenes").stdout
    (tmp_path / "s.toml").write_text(
        'task = "detect"\n[learn]\ndata = "scenes"\nheight = 96\nwidth = 96\nchannels = 1\n'
        "[learn.augment]\nmosaic = 0.5\n[loop]\nepochs = 3\nbatch = 8\nworkers = 0\n"
    )
    run(
        "train",
        "detect",
        "--settings",
        "s.toml",
        "--epochs",
        1,
        "--neck",
        "coord",
        "--augment.scale",
        "0.1",
        "--out",
        "run",
        "--json",
    )
    settings = (tmp_path / "run/settings.toml").read_text()
    assert "epochs = 1" in settings and 'neck = "coord"' in settings and "mosaic = 0.5" in settings
    run("train", "detect", "--resume", "run")
    run("export", "run", "--out", "m.onnx", "--weights", "16")
    assert json.loads(run("info", "m.onnx", "--json").stdout)["network"].endswith("coord")
    run("convert", "scenes", "yolo", "--to", "yolo")
    figures = json.loads(run("evaluate", "--model", "m.onnx", "--data", "yolo", "--json").stdout)
    assert figures["images"] == len(list((tmp_path / "yolo/val/images").iterdir()))
    speed = json.loads(
        run(
            "bench",
            "--model",
            "m.onnx",
            "--data",
            "scenes/val/images",
            "--repetitions",
            1,
            "--json",
        ).stdout
    )
    assert speed["ratio"] > 0 and speed["peak_memory_mb"] > 0


def test_the_gradient_s_norm_of_a_diffusion_training_stays_when_another_option_is_given(tmp_path):
    from semiscope.cli import app

    _, bound, _ = app.parse_args(
        ["train", "diffuse", "--data", str(tmp_path), "--epochs", "2"], exit_on_error=False
    )
    assert bound.arguments["loop"].clip_norm == 1.0 and bound.arguments["loop"].epochs == 2
