r"""Detections of a model file against those of the torch network that it was exported from.

    python benchmarks/parity.py --run runs/wafer-die \
        --data ../shared/data/wafer_die_optical/test/images

Both sides share preparation and decoding. The file is exported afresh in 32 bits; with --half the
weights are rounded on both sides.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from semiscope.compress.export import export, trained_network
from semiscope.compress.fuse import fuse
from semiscope.compress.graph import round_weights
from semiscope.infer.model import Model
from semiscope.infer.sampling import Dial
from semiscope.io.image import read_image


def main() -> None:
    """Prints a table row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=int, choices=(32, 16, 8), default=32)
    parser.add_argument("--min-score", type=float, default=0.05)
    given = parser.parse_args()
    network = fuse(trained_network(given.run)[0], implicit=True)
    round_weights(network, given.weights)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export(given.run, file, weights=given.weights)
        model = Model.load(file)
    further = [torch.from_numpy(v) for v in model.meta.decoder.inputs(Dial()).values()]
    images = boxes = different = 0
    score = place = 0.0
    for path in sorted(given.data.iterdir()):
        pixels = read_image(path).specimen
        prepared, size = model.prepare(pixels), pixels.shape[:2]
        with torch.no_grad():
            image = torch.from_numpy(prepared.tensor)[None]
            maps = [m.numpy() for m in network(image, *further)]
        (ours,) = model.decode(model.run([prepared]), [prepared], [size], given.min_score)
        (theirs,) = model.decode(maps, [prepared], [size], given.min_score)
        images, boxes = images + 1, boxes + len(theirs)
        if len(ours) != len(theirs) or (ours.class_id != theirs.class_id).any():
            different += 1
        elif len(ours):
            score = max(score, float(np.abs(ours.score - theirs.score).max()))
            place = max(place, float(np.abs(ours.xyxy - theirs.xyxy).max()))
    print(
        f"| {images} images, {boxes} detections from score {given.min_score} | images that differ "
        f"in number or class {different} | largest difference: score {score:.1e}, "
        f"box {place:.1e} px |"
    )


if __name__ == "__main__":
    main()
