r"""Images per second of networks and model files, without preparation and decoding.

    python benchmarks/fps.py yolov7-tiny yolov7-tiny:slim yolov7-tiny:coord runs/mine mine.onnx

The protocol is that of Wong 2023, 3.3.2.2.5: images of random values, 1000 iterations to warm up,
1000 that count, the device waited for before the clock is stopped, batches of 1 and of 16. Each
name is a network, with its neck after a colon (fresh weights), a run's folder, or a model file.
Networks and runs are measured in torch, batch norm folded, and through ONNX Runtime; model files
through ONNX Runtime. All take turns in one run, and the ratios are the medians of the turns' own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from torch import nn

from semiscope.compress.export import DEPLOYMENTS, trained_network
from semiscope.compress.fuse import fuse
from semiscope.evaluate.speed import Work, steady_rates
from semiscope.infer.decode import Placement
from semiscope.infer.model import Model, Prepared, locate

CLASSES = 2
# the others need more than classes to be built
FRESH = [net for net in DEPLOYMENTS if net.startswith("yolo")]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="network[:neck], run folder or model file")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--side", type=int, default=640, help="of the images of fresh networks")
    parser.add_argument("--warm-up", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    works: dict[tuple[str, str], list[Work]] = {}
    for name in given.names:
        if locate(name).suffix == ".onnx":
            model = Model.load(name, given.threads)
            works[name, "ONNX Runtime"] = [_of_model(model, b) for b in given.batches]
            continue
        network, shape, net = _network(name, given.side)
        random = [torch.randn(b, *shape) for b in given.batches]
        graph = DEPLOYMENTS[net].graph(network, torch.zeros(2, *shape)).SerializeToString()
        works[name, f"torch, {DEVICE}"] = [_in_torch(network, images) for images in random]
        works[name, "ONNX Runtime"] = [in_onnx(graph, images, given.threads) for images in random]
    # a batch at a time: all its works take turns
    columns = [
        steady_rates(
            [of[i] for of in works.values()],
            warm_up=given.warm_up,
            iterations=given.iterations,
            turns=given.turns,
            synchronise=torch.cuda.synchronize if DEVICE == "cuda" else lambda: None,
        )
        for i in range(len(given.batches))
    ]
    heads = [f"batch {b}: images/s | x the first row" for b in given.batches]
    print(f"| network | engine | {' | '.join(heads)} |")
    print("|---" * (2 + 2 * len(heads)) + "|")
    for row, (name, engine) in enumerate(works):
        cells = []
        for rates in columns:
            ratio = median(a / b for a, b in zip(rates[row], rates[0], strict=True))
            cells.append(f"{median(rates[row]):.2f} | {ratio:.2f}")
        print(f"| {name} | {engine} | {' | '.join(cells)} |")
    print(
        f"\n{given.threads} core(s), torch {torch.__version__} on {DEVICE}, ONNX Runtime "
        f"{onnxruntime.__version__}; {given.warm_up} iterations to warm up, {given.iterations} in "
        f"each of {given.turns} turn(s); fresh networks at {given.side} px, {CLASSES} classes."
    )


def _network(name: str, side: int) -> tuple[nn.Module, tuple[int, int, int], str]:
    """A network as it infers, batch norm folded, the shape of its images, its name."""
    if Path(name).is_dir():
        network, state = trained_network(Path(name))
        spec = state["spec"]
        shape = (spec["input"]["channels"], spec["input"]["height"], spec["input"]["width"])
        return fuse(network, implicit=True), shape, spec["net"]
    net, _, neck = name.partition(":")
    if net not in FRESH:
        raise SystemExit(f"{name}: expected a run, a model file or one of {', '.join(FRESH)}")
    deployment = DEPLOYMENTS[net]
    built = deployment.build(CLASSES, neck) if neck else deployment.build(CLASSES)
    return fuse(deployment.inference(built), implicit=True), (3, side, side), net


def _in_torch(network: nn.Module, images: torch.Tensor) -> Work:
    network, images = network.to(DEVICE), images.to(DEVICE)

    def work() -> int:
        with torch.inference_mode():
            network(images)
        return len(images)

    return work


def in_onnx(graph: bytes, images: torch.Tensor, threads: int) -> Work:
    """A graph with one input, by ONNX Runtime, on a GPU where there is one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    session = onnxruntime.InferenceSession(graph, options, providers=wanted)
    # a diffusion model has further inputs; benchmarks/sem_diffusion.py measures it
    (given,) = session.get_inputs()
    array = images.numpy()

    def work() -> int:
        session.run(None, {given.name: array})
        return len(array)

    return work


def _of_model(model: Model, batch: int) -> Work:
    spec = model.meta.input
    shape = (batch, spec.channels, spec.height, spec.width)
    random = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    placement = Placement(1.0, 0, 0)
    images = [Prepared(tensor, placement) for tensor in random]

    def work() -> int:
        model.run(images)
        return batch

    return work


if __name__ == "__main__":
    main()
