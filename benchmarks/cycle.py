r"""The labelling cycle of SeSAMI rehearsed: simulated device B labelled from what A has taught.

    python benchmarks/cycle.py [--rounds 5] [--images 4] [--epochs 3] [--view 512] [--side 1024]

A promptable model is adapted to the labelled images of device A, and the cycle starts from it.
Each round it proposes masks on some images of B that were not labelled yet, prompted with the
boxes of their true regions; their truth comes back as the correction; the model learns anew from
A's images and all of B's so far. Prints the labelling time that the proposals saved in each round
under the cost model (label/cost.py), the meaning of the paper's figure 9, and says where the curve
is. Both devices' test images are asked by boxes. What was killed goes on when the command is given
again; with other options it needs another --out.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch

from devices import device
from semiscope.cli.show import stderr, training_bar
from semiscope.io.files import write_atomic
from semiscope.label.cycle import RehearseSettings, rehearse
from semiscope.label.rounds import CURVE, Round, saved
from semiscope.learn.promptable import load_adapter, load_base
from semiscope.learn.run import SETTINGS_FILE, resume, start
from semiscope.learn.tasks.prompt import PromptLoopSettings, PromptTaskSettings
from semiscope.nets.lora import merge_lora


def main() -> None:
    """Runs the cycle and prints its rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("../shared/weights/mobile_sam.pt"))
    parser.add_argument("--made", type=Path, default=Path("runs/data"), help="of the devices")
    parser.add_argument("--out", type=Path, default=Path("runs/cycle"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4, help="of B that are labelled a round")
    parser.add_argument("--epochs", type=int, default=3, help="of A's training and of each round's")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--view", type=int, default=512, help="side of a training view, px")
    parser.add_argument("--side", type=int, help="of the network's input; its own when not given")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    here, there = (device(name, given.made) for name in ("A", "B"))
    loop = PromptLoopSettings(
        epochs=given.epochs,
        batch=given.batch,
        warmup_epochs=0.5,
        evaluate_every=given.epochs,
        checkpoint_steps=50,
        workers=0,
        seed=given.seed,
    )
    adapt = {"side": given.side, "view": given.view}
    base = given.out / "device-A.pt"
    if not base.exists():
        source = f"mobile-sam:{given.weights}"
        learned = PromptTaskSettings(data=(here,), base=source, **adapt)
        merge(source, train_run(learned, loop, given.out / "device-A"), base)
    settings = RehearseSettings(
        base=f"mobile-sam:{base}",
        data=there,
        labelled=here,
        devices=(here, there),
        rounds=given.rounds,
        images=given.images,
        **adapt,
    )
    folder = given.out / "rounds"
    with training_bar() as bar:
        rounds = rehearse(folder, settings, loop, bar)
    table(rounds, {str(here): "A", str(there): "B"})
    cost = ", ".join(f"{k} {v:g}" for k, v in settings.cost.model_dump().items())
    manual = sum(r.manual_s for r in rounds)
    print(
        f"\n{saved(rounds):.0f} of {manual:.0f} s of labelling saved, under the cost model {cost}; "
        f"curve: {folder / CURVE}"
    )


def train_run(learn: PromptTaskSettings, loop: PromptLoopSettings, run: Path) -> Path:
    """A run that is begun, continued, or left alone when it is finished."""
    stderr.print(f"{run}:", markup=False)
    with training_bar() as bar:
        if (run / SETTINGS_FILE).exists():
            resume(run, bar)
        else:
            start("prompt", learn, loop, run, bar)
    return run


def merge(source: str, run: Path, file: Path) -> None:
    """Writes what a run has learned as a checkpoint of its base's own architecture."""
    network = load_base(source)
    load_adapter(run / "best" / "model.safetensors", network)
    merge_lora(network)
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    write_atomic(file, content.getvalue())


def table(rounds: list[Round], names: dict[str, str]) -> None:
    """Prints a row a round; round 0 is what device A has taught."""
    devices = " | ".join(f"test images of {n}" for n in names.values())
    print(
        "| round | images | regions | IoU proposed | IoU learned | by hand, s | with proposals, s "
        f"| saved, s | computing, s | {devices} | worse than at first |"
    )
    print("|---" * (10 + len(names)) + "|")
    for r in rounds:
        cells = [r.number, len(r.images), r.regions, figure(r.before_iou), figure(r.after_iou)]
        seconds = (r.manual_s, r.assisted_s, r.manual_s - r.assisted_s, r.learning_s)
        cells += [f"{s:.0f}" for s in seconds]
        cells += [figure(r.devices.get(d)) for d in names]
        print(f"| {' | '.join(map(str, cells))} | {', '.join(names[d] for d in r.worse) or '-'} |")


def figure(value: float | None) -> str:
    """An IoU."""
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
