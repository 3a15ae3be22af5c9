"""The verbs that make a network smaller, and presets, as a user calls them; in this process."""

import sys

import pytest

from semiscope import cli
from semiscope.cli.learning import settings_file
from semiscope.learn.presets import PRESETS


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["semiscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return done.value.code, *capsys.readouterr()

    return call


def parsed(*arguments):
    """The settings that a command line comes to, without running it."""
    arguments = list(map(str, arguments))
    cli.app.config = settings_file(arguments)
    _, bound, _ = cli.app.parse_args(arguments, exit_on_error=False, print_error=False)
    return bound.arguments["learn"], bound.arguments["loop"]


def test_options_go_over_a_file_and_a_file_over_a_preset(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        f"""task = "detect"
[learn]
data = '{tmp_path}'
neck = "elan"
[learn.augment]
scale = 0.1
[loop]
epochs = 9
batch = 8
"""
    )
    options = ("--settings", file, "--preset=die-setting-6", "--batch", 2, "--loss.box-gain", 0.1)
    learn, loop = parsed("train", "detect", *options)
    assert learn.sparsity == 5e-4 and loop.accumulate == 4  # the preset
    assert learn.augment.flip_horizontal == 0 and learn.loss.box == "nwd-grid"
    assert learn.neck == "elan" and learn.augment.scale == 0.1 and loop.epochs == 9  # the file
    assert loop.batch == 2 and learn.loss.box_gain == 0.1  # the options


def test_a_student_s_settings_are_its_teacher_s(tmp_path, detector_run):
    run = detector_run(tmp_path / "run", tmp_path)
    with (run / "settings.toml").open("a") as file:
        file.write("seed = 3\n")
    text = (run / "settings.toml").read_text()
    (run / "settings.toml").write_text(text.replace("[learn]", "[learn]\nsparsity = 5e-4", 1))
    learn, loop = parsed(
        "compress", "distill", "pruned", "--teacher", run, "--distill.weight", 2, "--epochs", 5
    )
    assert (learn.data, learn.height, learn.learning_rate) == (tmp_path, 64, 0.002)
    assert (loop.epochs, loop.batch, loop.seed) == (5, 4, 3)
    assert learn.sparsity == 0 and learn.distill.weight == 2 and learn.teacher == run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "detect", "--preset", "die-setting-8"), "found 'die-setting-8'"),
        (("compress", "prune", "nowhere", "--out", "x"), "nowhere"),
        (("compress", "prune", "nowhere", "--out", "x", "--speed-up", "1"), "--speed-up"),
        (("compress", "distill", "x", "--teacher", "nowhere"), "nowhere"),
        (("compress", "distill", "--teacher", "{run}"), "expected the run that learns"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    call, tmp_path, monkeypatch, detector_run, arguments, words
):
    monkeypatch.chdir(tmp_path)
    run = detector_run(tmp_path / "run", tmp_path)
    code, _, err = call(*(a.format(run=run) for a in arguments))
    assert code == 2 and words in " ".join(err.split())
    assert err.startswith("error: ")


def test_the_help_names_every_preset(call):
    _, out, _ = call("train", "detect", "--help")
    text = "".join(out.split())
    assert all(name in text for name in PRESETS)
