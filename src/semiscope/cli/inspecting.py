"""Verbs that need a model file: inspect, bench, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from semiscope.cli.show import (
    AsJson,
    image_bar,
    print_failed,
    print_figures,
    print_json,
    stdout,
)
from semiscope.infer.classifier import Classifier
from semiscope.infer.model import Model, locate
from semiscope.infer.promptable import Promptable
from semiscope.infer.rewrite import read_task
from semiscope.infer.segmenter import Segmenter
from semiscope.inspection import bench as speed
from semiscope.inspection import pipeline
from semiscope.inspection.settings import InspectSettings


def inspect(
    images: Annotated[list[str], Parameter(help="Files, folders and glob patterns.")],
    /,
    *,
    settings: Annotated[InspectSettings, Parameter(name="*")],
    out: Annotated[Path, Parameter(help="The run's folder.")] = Path("runs/inspect"),
    resume: Annotated[bool, Parameter(help="Go on where a run was killed.", negative="")] = False,
    as_json: AsJson = False,
) -> int:
    """Find defects in images, or label them; write results.json, a table and report.html."""
    with image_bar("inspecting") as progress:
        summary = pipeline.inspect(images, settings, out, resume=resume, progress=progress)
    print_failed(summary.failed)
    if as_json:
        print_json(summary.to_dict())
    else:
        found = (
            ", ".join(f"{count} {name}" for name, count in summary.dispositions.items())
            or f"{summary.defects} defects ({summary.review} for review)"
        )
        stdout.print(
            f"{summary.images} images, {found}, "
            f"{len(summary.failed)} files failed, {summary.images_per_second:.1f} images/s",
            markup=False,
        )
        if summary.units:
            stdout.print(f"units: {summary.units}", markup=False)
        stdout.print(f"report: {summary.report}", markup=False)
    return summary.exit_status


def bench(
    *,
    settings: Annotated[speed.BenchSettings, Parameter(name="*")],
    data: Annotated[Path, Parameter(help="A folder of images.")],
    as_json: AsJson = False,
) -> None:
    """Measure images per second: the bare engine, end to end, their ratio; and peak memory."""
    figures = speed.bench([data], settings).to_dict()
    (print_json if as_json else print_figures)(figures)


def info(
    name: Annotated[str, Parameter(help="A model's name in the zoo, an .onnx file or a network.")],
    /,
    *,
    neck: Annotated[
        Literal["elan", "slim", "coord"], Parameter(help="Of network yolov7-tiny.")
    ] = "elan",
    backbone: Annotated[
        Literal["yolov7-tiny", "efficientnet-lite0"], Parameter(help="Of network yolov7-tiny.")
    ] = "yolov7-tiny",
    classes: Annotated[int, Parameter(help="Of a network, how many.")] = 80,
    as_json: AsJson = False,
) -> None:
    """Tell what a model file or a network is: size, work, classes, data, metrics, licence."""
    if name in ("yolov7-tiny", "yolov5n", "yolov5n-seg", "yolov5s-seg"):
        import torch

        from semiscope.compress.profile import profile
        from semiscope.nets.yolov5 import YOLOV5
        from semiscope.nets.yolov7_tiny import YoloV7Tiny

        figures: dict[str, Any] = {"network": name, "classes": classes}
        if name in YOLOV5:
            network: torch.nn.Module = YOLOV5[name](classes)
        else:
            network = YoloV7Tiny(classes, neck, backbone)
            figures |= {"neck": neck, "backbone": backbone}
        size = profile(network, [torch.zeros(1, 3, 640, 640)])
        figures |= {
            "parameters": {"training": size.training, "deployed": size.deployed},
            "gflops": round(size.gflops, 2),
        }
    else:
        kinds: dict[str | None, type[Model | Segmenter | Promptable | Classifier]] = {
            "class-map": Segmenter,
            "classify": Classifier,
            "prompt": Promptable,
        }
        model = kinds.get(read_task(locate(name)), Model).load(name)
        figures = model.meta.model_dump(mode="json")
        if isinstance(model, Classifier):
            figures["held_out"] = len(model.meta.held_out)
            figures["known_examples"] = 0 if model.known is None else len(model.known.names)
        figures["file_bytes"] = model.path.stat().st_size
    (print_json if as_json else print_figures)(figures)
