"""The command line: each verb parses, calls and prints. Nothing imports it.

A verb's module is imported when the verb is called, so that ``semiscope --help`` is instant and
only training needs torch.
"""

from __future__ import annotations

import os
import sys

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from semiscope import __version__
from semiscope.cli.show import stderr
from semiscope.config import fault
from semiscope.errors import SemiscopeError

app = App(
    name="semiscope",
    version=__version__,
    help="Find, outline, classify and measure defects in semiconductor images.",
    # --data A B is what --data A --data B is
    default_parameter=Parameter(consume_multiple=True),
)
simulate = App(name="simulate", help="Render scenes whose truth is exactly known.")
train = App(name="train", help="Train a network on labelled images.")
compress = App(name="compress", help="Make a trained network smaller.")
cycle = App(name="cycle", help="Propose masks, take the corrected ones, learn again.")

_VERBS = (
    (app, "inspect", "inspecting:inspect", "Find defects in images; write results and a report."),
    (app, "capture", "capturing:capture", "Find packages in photographs; make them upright."),
    (app, "evaluate", "evaluating:evaluate", "Hold a model against the truth of a data set."),
    (app, "bench", "inspecting:bench", "Measure images per second and peak memory."),
    (app, "calibrate", "calibrating:calibrate", "Choose thresholds on held-out images."),
    (app, "novelty", "novelty:novelty", "Group the unknown images of an inspection."),
    (app, "label", "labelling:label", "Write initial masks for a person to correct."),
    (cycle, "propose", "cycling:propose", "Write the next round's masks to correct."),
    (cycle, "learn", "cycling:learn", "Take corrected masks back and learn from all so far."),
    (cycle, "rehearse", "cycling:rehearse", "A cycle in which known truth stands in for a person."),
    (app, "check", "labelled:check", "Tell whether a data set is fit for training."),
    (app, "convert", "labelled:convert", "Write a data set in another format."),
    (simulate, "sem-lines", "labelled:simulate_sem_lines", "Line-space SEM scenes with defects."),
    (simulate, "sem-pairs", "labelled:simulate_sem_pairs", "Defects at two magnifications."),
    (simulate, "ic-package", "labelled:simulate_ic_package", "IC packages with die defects."),
    (simulate, "tem-stack", "labelled:simulate_tem_stack", "TEM cross-sections of two devices."),
    (train, "classify", "learning:train_classify", "Learn one class for the whole image."),
    (train, "detect", "learning:train_detect", "Learn to find defects: boxes, or masks by YOLOv5."),
    (train, "diffuse", "learning:train_diffuse", "Learn to find and outline defects by diffusion."),
    (train, "instances", "learning:train_instances", "Learn to outline defects: Mask R-CNN."),
    (train, "pretrain", "learning:train_pretrain", "Learn from images without labels."),
    (train, "segment", "learning:train_segment", "Learn class maps from labelled images."),
    (train, "prompt", "learning:train_prompt", "Adapt a promptable network by LoRA."),
    (train, "semi", "learning:train_semi", "Learn class maps from few labels and many images."),
    (compress, "prune", "compressing:prune", "Take the least channels out of a detector."),
    (compress, "distill", "compressing:distill", "Teach a pruned detector by the whole one."),
    (app, "export", "learning:export", "Write a run's best weights as one model file."),
    (app, "dial", "learning:dial", "Choose a diffusion model's random boxes: accuracy and time."),
    (app, "info", "inspecting:info", "Tell what a model file or a network is."),
)
_TRAINING = ("torch", "accelerate", "safetensors", "onnx", "torch_pruning", "transformers")

for _app, _name, _place, _help in _VERBS:
    _app.command(f"semiscope.cli.{_place}", name=_name, help=_help)
app.command(simulate)
app.command(train)
app.command(compress)
app.command(cycle)


def main() -> None:
    """Entry point: a known error becomes one line and exit status 2; --debug shows where."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        if arguments[:1] in (["train"], ["compress"]):
            from semiscope.cli.learning import settings_file

            app.config = settings_file(arguments)
        sys.exit(app(arguments, exit_on_error=False, print_error=False) or 0)
    except (SemiscopeError, CycloptsError) as error:
        if "--debug" in sys.argv:
            raise
        stderr.print(f"error: {_one_line(error)}", style="red", markup=False)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if "--debug" in sys.argv or error.name not in _TRAINING:
            raise
        stderr.print(
            f"error: this command needs {error.name}: pip install 'semiscope[train]'",
            style="red",
            markup=False,
        )
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        stderr.print("interrupted; what was done is kept")
        sys.exit(130)


def _one_line(error: Exception) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        faults = cause.errors(include_url=False)
        return "; ".join(_option(e["loc"]) + fault(e) for e in faults)
    return " ".join(str(error).split())


def _option(place: tuple[int | str, ...]) -> str:
    """The option at fault; none where several contradict each other."""
    return f"option --{'.'.join(map(str, place)).replace('_', '-')}: " if place else ""
