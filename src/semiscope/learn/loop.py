"""The only training loop. A task knows what is learned; the loop owns time.

It stands on Accelerate, so one process, several GPUs and several machines are the same code. Every
random choice is a function of the seed and the step, so that a killed run continues exactly.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn

from semiscope.config import Settings
from semiscope.errors import SemiscopeError
from semiscope.learn import checkpoint
from semiscope.learn.loader import Batches, Examples, Loader
from semiscope.learn.memory import keep_freed_memory

_LOG_STEPS = 20
_MOST_BAD_STEPS = 20


class LoopSettings(Settings):
    """How long and how a training runs."""

    epochs: int = Field(300, ge=1, description="Passes over the training set")
    batch: int = Field(16, ge=1, description="Images a step and process")
    accumulate: int = Field(1, ge=1, description="Steps whose gradients are added before an update")
    warmup_epochs: float = Field(3.0, ge=0, description="Epochs of rising learning rate")
    warmup_steps: int = Field(0, ge=0, description="The warm-up lasts at least so many steps")
    final_rate: float = Field(0.01, ge=0, le=1, description="Learning rate at the end, a share")
    clip_norm: float = Field(10.0, gt=0, description="Largest norm of the whole gradient")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="Of the averaged weights")
    ema_ramp: float = Field(2000.0, gt=0, description="Updates in which the average slows down")
    precision: Literal["no", "fp16", "bf16"] = Field("no", description="Mixed precision")
    balanced: bool = Field(False, description="Draw images so that every class is met as often")
    workers: int = Field(2, ge=0, description="Processes that prepare batches; 0 for none")
    evaluate_every: int = Field(1, ge=1, description="Epochs between evaluations")
    checkpoint_steps: int = Field(200, ge=1, description="Steps between checkpoints")
    seed: int = Field(0, ge=0, description="Same seed, same weights")


class Task(Protocol):
    """A way of learning."""

    def network(self) -> nn.Module:
        """A fresh network; called with torch seeded."""

    def spec(self) -> dict[str, Any]:
        """Plain values from which the trained network can be rebuilt and exported."""

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Parameter groups with their peak ``lr``; ``warmup_lr`` is where a group starts."""

    def examples(self) -> Examples:
        """What it trains on."""

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise and its parts; moves the batch to the network's device."""

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Figures on held-out data; "fitness" decides which weights are kept as the best."""


@runtime_checkable
class Timed(Protocol):
    """A task whose loss depends on how far the training has come."""

    def tell(self, epochs: float) -> None:
        """Called before each step with the epochs since the beginning."""


Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with how many are done, how many there are and the latest figures."""


class Average:
    """Exponential moving average of weights and statistics, fast at first."""

    def __init__(self, network: nn.Module, decay: float, ramp: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay, self._ramp = decay, ramp

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Takes in the network after its ``updates``-th update."""
        share = 1 - self._decay * (1 - math.exp(-updates / self._ramp))
        own, new = self.network.state_dict(), network.state_dict()
        floats = [k for k, v in own.items() if v.is_floating_point()]
        torch._foreach_lerp_([own[k] for k in floats], [new[k] for k in floats], share)
        for key in own.keys() - set(floats):
            own[key].copy_(new[key])


def rate(step: int, steps: int, warmup: int, final: float) -> float:
    """Share of the peak learning rate: cosine from 1 to ``final``, the warm-up apart."""
    if step < warmup:
        return 1.0
    return final + (1 - final) * (1 + math.cos(math.pi * step / max(steps, 1))) / 2


def train(
    task: Task, settings: LoopSettings, run: Path, progress: Progress | None = None
) -> dict[str, float]:
    """Trains until the last epoch, from the newest checkpoint of the run when there is one.

    The run folder gets ``metrics.jsonl``, ``checkpoints/`` and ``best/`` (the averaged weights of
    the best evaluation with the task's spec).

    Args:
        task: What is learned.
        settings: How long and how.
        run: The run folder.
        progress: Told of every step.

    Returns:
        The figures of the best evaluation.

    Raises:
        SemiscopeError: The loss stays infinite or NaN, or the folder cannot be written.
    """
    return _Training(task, settings, run, progress or (lambda *_: None)).run()


class _Training:
    def __init__(self, task: Task, settings: LoopSettings, run: Path, progress: Progress) -> None:
        self.task, self.settings, self.folder, self.progress = task, settings, run, progress
        precision = None if settings.precision == "no" else settings.precision
        self.accelerator = Accelerator(mixed_precision=precision)
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(settings.seed)
        bare = task.network().to(self.accelerator.device)
        self.average = Average(bare, settings.ema_decay, settings.ema_ramp)
        self.optimiser_bare = task.optimiser(bare)
        for group in self.optimiser_bare.param_groups:
            group["peak_lr"] = group["lr"]
        self.bare = bare
        self.network, self.optimiser = self.accelerator.prepare(bare, self.optimiser_bare)
        examples = task.examples()
        self.batches = Batches(
            examples,
            settings.batch,
            settings.seed,
            settings.balanced,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.loader = Loader(examples, self.batches, settings.seed, settings.workers)
        self.steps = len(self.batches)
        self.warmup = max(round(settings.warmup_epochs * self.steps), settings.warmup_steps)
        self.warmup = min(self.warmup, settings.epochs * self.steps // 2)
        self.epoch, self.step, self.updates, self.bad = 0, 0, 0, 0
        self.best: dict[str, float] = {}
        self.logged: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.board = _tensorboard(run) if self.accelerator.is_main_process else None
        self._resume()
        self.saved = self.total

    @property
    def total(self) -> int:
        """Steps since the beginning."""
        return self.epoch * self.steps + self.step

    def run(self) -> dict[str, float]:
        while self.epoch < self.settings.epochs:
            self._epoch()
            last = self.epoch + 1 == self.settings.epochs
            if last or (self.epoch + 1) % self.settings.evaluate_every == 0:
                self._evaluate()
            self.epoch, self.step = self.epoch + 1, 0
            self._checkpoint()
        if self.board:
            self.board.close()
        return self.best

    def _epoch(self) -> None:
        self.network.train()
        self.batches.epoch, self.batches.start = self.epoch, self.step
        for batch in self.loader:
            # dropout and the like must not depend on what ran before a resume
            torch.manual_seed(hash((self.settings.seed, self.total)) % 2**63)
            self._set_rates()
            done = self.step + 1
            update = done % self.settings.accumulate == 0 or done == self.steps
            if isinstance(self.task, Timed):
                self.task.tell(self.total / self.steps)
            with self.accelerator.autocast():
                loss, parts = self.task.loss(self.network, batch)
            if update:
                self.accelerator.backward(loss / self.settings.accumulate)
                self._update()
            else:
                with self.accelerator.no_sync(self.network):
                    self.accelerator.backward(loss / self.settings.accumulate)
            self.step += 1
            for name, value in parts.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
            if self.step % _LOG_STEPS == 0 or self.step == self.steps:
                count = (self.step - 1) % _LOG_STEPS + 1
                self._log({k: v / count for k, v in self.sums.items()})
                self.sums = {}
            self.progress(self.total, self.settings.epochs * self.steps, self.logged)
            if update and self.total - self.saved >= self.settings.checkpoint_steps:
                self._checkpoint()

    def _set_rates(self) -> None:
        share = rate(
            self.total,
            self.settings.epochs * self.steps,
            self.warmup,
            self.settings.final_rate,
        )
        for group in self.optimiser_bare.param_groups:
            group["lr"] = group["peak_lr"] * share
            if self.total < self.warmup:
                start = group.get("warmup_lr", 0.0)
                group["lr"] = start + (group["peak_lr"] - start) * self.total / self.warmup

    def _update(self) -> None:
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        if norm is not None and not torch.isfinite(norm) and self.settings.precision != "fp16":
            self.bad += 1
            self.optimiser.zero_grad()
            if self.bad >= _MOST_BAD_STEPS:
                raise SemiscopeError(
                    f"{self.folder}: expected finite gradients, found {self.bad} steps in a row "
                    f"without (epoch {self.epoch}). Lower the learning rate, or train with "
                    "precision 'no'."
                )
            return
        self.bad = 0
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.updates += 1
        self.average.update(self.accelerator.unwrap_model(self.network), self.updates)

    def _evaluate(self) -> None:
        if not self.accelerator.is_main_process:
            return
        figures = self.task.evaluate(self.average.network)
        self._log(figures)
        if figures["fitness"] >= self.best.get("fitness", -math.inf):
            self.best = figures
            checkpoint.save(
                self.folder / "best",
                {"model": self.average.network.state_dict()},
                {"spec": self.task.spec(), "metrics": figures, "epoch": self.epoch},
            )

    def _log(self, figures: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.logged = {**self.logged, **figures}
        total = self.total
        row = {"epoch": self.epoch, "step": total, "lr": self.optimiser_bare.param_groups[0]["lr"]}
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **figures}) + "\n")
        if self.board:
            for name, value in figures.items():
                self.board.add_scalar(name, value, total)

    def _checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        log = self.folder / "metrics.jsonl"
        folder = self.folder / "checkpoints" / f"step-{self.total:09d}"
        scaler = self.accelerator.scaler
        checkpoint.save(
            folder,
            {
                "network": self.bare.state_dict(),
                "average": self.average.network.state_dict(),
                "optimiser": checkpoint.optimiser_tensors(self.optimiser_bare),
            },
            {
                "epoch": self.epoch,
                "step": self.step,
                "updates": self.updates,
                "bad": self.bad,
                "best": self.best,
                "logged": self.logged,
                "sums": self.sums,
                "log_bytes": log.stat().st_size if log.exists() else 0,
                "scaler": scaler.state_dict() if scaler else None,
            },
        )
        checkpoint.keep_only(folder)
        self.saved = self.total

    def _resume(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        found = checkpoint.newest(self.folder / "checkpoints")
        if found is None:
            return
        tensors, state = checkpoint.load(found)
        self.bare.load_state_dict(tensors["network"])
        self.average.network.load_state_dict(tensors["average"])
        checkpoint.restore_optimiser(self.optimiser_bare, tensors["optimiser"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.updates, self.bad = state["updates"], state["bad"]
        self.best, self.logged, self.sums = state["best"], state["logged"], state["sums"]
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        # what was logged after the checkpoint will be logged again
        log = self.folder / "metrics.jsonl"
        if log.exists() and self.accelerator.is_main_process:
            with log.open("r+b") as file:
                file.truncate(state["log_bytes"])


def _tensorboard(run: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"))
