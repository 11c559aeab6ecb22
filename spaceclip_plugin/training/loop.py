"""The epochs of a run, with its checkpoints: stopped at any step, it goes on as if it had not been."""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.evaluation import DepthMetrics
from spaceclip_plugin.head import DepthHeadConfig
from spaceclip_plugin.training.estimate import StepClock
from spaceclip_plugin.training.interruption import Interruption
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes, rng_state, set_rng_state
from spaceclip_plugin.training.run.checkpoint import Checkpoint
from spaceclip_plugin.training.run.folder import RunFolder
from spaceclip_plugin.training.validation_set import ValidationSet

TRACKED_EVERY = 10
"""Steps between two losses that a tracker gets."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Best:
    """The best epoch so far."""

    epoch: int  # from 1
    metrics: DepthMetrics
    weights: Mapping[str, Tensor]  # of the averaged head then, on the CPU


@dataclass(eq=False)
class TrainingLoop:
    """Steps, validation after every epoch, the best head, and checkpoints."""

    optimizer: HeadOptimizer
    validation: ValidationSet
    folder: RunFolder
    trained: DepthHeadConfig  # that of the saved head
    save_every: int | None  # steps between two checkpoints; None saves after every epoch only
    history: list[dict[str, Any]] = field(default_factory=list, init=False)  # of epochs, as in `metrics.jsonl`
    best: Best | None = field(default=None, init=False)
    _losses: list[float] = field(default_factory=list, init=False)
    _resumed: bool = field(default=False, init=False)

    @property
    def _processes(self) -> Processes:
        return self.optimizer.processes

    def resume(self) -> int:
        """Go on from the newest checkpoint; returns its step, 0 where there is none. Each process reads it."""
        checkpoint = self.folder.checkpoints.newest()
        if checkpoint is None:
            _logger.info("the run has no checkpoint: it starts at step 0 of %d", self.optimizer.steps)
            return 0
        saved_by = sum(1 for stem in checkpoint.tensors if stem.startswith("rng-"))
        if saved_by != self._processes.count:
            raise CheckpointError(
                f"the run was made by {saved_by} processes and would be continued by {self._processes.count}; start as "
                "many as before, for each has random numbers of its own"
            )
        state: dict[str, Any] = checkpoint.state
        self.optimizer.load(checkpoint.tensors, step=checkpoint.step)
        self._losses = list(state["losses"])
        self.history = list(state["history"])
        if state["best_epoch"] is not None:
            metrics = DepthMetrics(**state["best_metrics"])
            self.best = Best(state["best_epoch"], metrics, checkpoint.tensors["best"])
        self._resumed = True
        set_rng_state(checkpoint.tensors[f"rng-{self._processes.rank}"], self._processes.device)
        _logger.info("continuing at step %d of %d", checkpoint.step, self.optimizer.steps)
        return checkpoint.step

    def run(self, interruption: Interruption, *, progress: bool) -> Best:
        """Do the steps that are left, and ask between any two whether to stop; `progress` shows a bar and says
        how long the steps will take.
        KeyboardInterrupt says that someone asked to; a checkpoint is saved."""
        optimizer = self.optimizer
        if not self._resumed:
            self._save()  # so that a continued run does not depend on how its head was made
        elif self.best is not None:
            self._write_best(self.best)
        clock = StepClock(optimizer.steps - optimizer.step, quiet=not progress)
        with tqdm(
            total=optimizer.steps, initial=optimizer.step, desc="training", unit="step", disable=not progress
        ) as bar:
            for epoch in range(len(self.history), optimizer.steps // optimizer.steps_per_epoch):
                started = time.perf_counter()
                for loss in optimizer.epoch(epoch):
                    bar.update(1)
                    clock.step()
                    self._losses.append(loss)
                    if optimizer.step % TRACKED_EVERY == 0:
                        figures = {"train/loss": loss, "train/learning_rate": optimizer.learning_rate}
                        self._processes.track(figures, optimizer.step)
                    if optimizer.step % optimizer.steps_per_epoch:
                        self._between_steps(interruption)
                self._end_epoch(started)
                bar.set_postfix(val_abs_rel=f"{self.history[-1]['val_abs_rel']:.4f}")
                self._save()
                if self._processes.any(interruption.asked):
                    raise KeyboardInterrupt
        if self.best is None:  # pragma: no cover - a recipe has at least one epoch
            raise CheckpointError("the run had no epoch")
        return self.best

    def _between_steps(self, interruption: Interruption) -> None:
        """Save a checkpoint where it is time for one or the run shall stop."""
        asked = self._processes.any(interruption.asked)
        if asked or (self.save_every is not None and self.optimizer.step % self.save_every == 0):
            self._save()
        if asked:
            raise KeyboardInterrupt

    def _end_epoch(self, started: float) -> None:
        average = self.optimizer.average
        metrics = self.validation.metrics(average)
        figures = dataclasses.asdict(metrics)
        record = {
            "epoch": len(self.history) + 1,
            "loss": sum(self._losses) / len(self._losses),
            "learning_rate": self.optimizer.learning_rate,
            "seconds": round(time.perf_counter() - started, 2),
            **{f"val_{name}": value for name, value in figures.items()},
        }
        self._losses = []
        self.history.append(record)
        self._processes.track({f"validation/{name}": value for name, value in figures.items()}, self.optimizer.step)
        if self.best is None or metrics.abs_rel < self.best.metrics.abs_rel:
            weights = {name: value.detach().cpu().clone() for name, value in average.state_dict().items()}
            self.best = Best(len(self.history), metrics, weights)
            self._write_best(self.best)

    def _write_best(self, best: Best) -> None:
        head = copy.deepcopy(self.optimizer.average)  # a new one would draw random numbers
        head.load_state_dict(dict(best.weights))
        head.config = self.trained
        self._processes.on_main(lambda: self.folder.save_best(head))

    def _save(self) -> None:
        random = self._processes.gathered(rng_state(self._processes.device))
        best = self.best
        state: dict[str, object] = {
            "losses": self._losses,
            "history": self.history,
            "best_epoch": None if best is None else best.epoch,
            "best_metrics": None if best is None else dataclasses.asdict(best.metrics),
        }
        tensors = self.optimizer.state()
        if best is not None:
            tensors["best"] = dict(best.weights)
        tensors |= {f"rng-{rank}": values for rank, values in enumerate(random)}
        checkpoint = Checkpoint(self.optimizer.step, state, tensors)

        def save() -> None:
            self.folder.checkpoints.save(checkpoint)
            self.folder.write_metrics(self.history)

        self._processes.on_main(save)
