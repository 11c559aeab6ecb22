"""The optimizer of a head over a stream of features: one recipe, step by step, by one process or several."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from spaceclip_plugin.errors import CheckpointError, ConfigError, TrainingError
from spaceclip_plugin.head import DepthHead, HeadOutput
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.data_order import DataOrder, MicroBatch
from spaceclip_plugin.training.features import Batch, FeatureStream, Loaded
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.losses.terms import emptiness_loss
from spaceclip_plugin.training.processes import Processes
from spaceclip_plugin.training.reading_ahead import read_ahead

Tensors = dict[str, Tensor]
_ROUNDING = 1e-9  # of the sum of the weights of a step's micro-batches, which is one


class HeadOptimizer:
    """AdamW on a head: each process decodes its part of a batch, the loss is of all of it, and gradients are summed.
    Unknown depth weighs nothing: a step that knows none changes neither weights nor moments, and counts."""

    def __init__(
        self,
        head: DepthHead,
        recipe: Recipe,
        stream: FeatureStream,
        *,
        order: DataOrder,
        processes: Processes,
    ) -> None:
        """Nothing is drawn or read yet; ConfigError where processes could not share the head's batch statistics."""
        self._recipe = recipe
        self._stream = stream
        self._order = order
        self.processes = processes
        self._loss = LOSSES[recipe.loss]()
        head.to(memory_format=torch.channels_last)
        self._head = head
        self._trained = _synchronised(head, processes, order)
        self.average = copy.deepcopy(head).eval().requires_grad_(False)  # what is validated and saved
        self._adamw = torch.optim.AdamW(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self._images: list[int] = []
        self._known = 0.0
        self.step = 0
        self.learning_rate = 0.0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self._recipe.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self._order.steps_per_epoch

    def epoch(self, number: int) -> Iterator[float]:
        """The steps of epoch `number` (from 0) that are not done yet; yields the loss of each, 0 of one without depth.
        At a loss or gradient that is not finite, a TrainingError, the weights are those before the step."""
        processes, device = self.processes, self.processes.device
        first = self.step - number * self.steps_per_epoch
        plan = list(self._order.micro_batches(number, first=first, rank=processes.rank, processes=processes.count))
        self._trained.train()
        total = 0.0
        read = functools.partial(_load, self._stream)
        loaded = read_ahead(read, plan, workers=processes.workers, pinned=device.type == "cuda")
        for micro in plan:
            batch = processes.together(lambda: self._stream.decode(next(loaded), device))
            total += micro.weight * self._accumulate(micro, batch)
            if micro.last:
                share = self._share
                self._update()
                yield total / share if 0.0 < share < 1.0 else total
                total = 0.0

    def state(self) -> dict[str, Tensors]:
        """Everything a later process needs to go on from here, but for random numbers: tensors by kind and name."""
        moments = {
            f"{name}.{kind}": value
            for name, parameter in self._head.named_parameters()
            for kind, value in self._adamw.state[parameter].items()
        }
        weights = {"head": dict(self._head.state_dict()), "average": dict(self.average.state_dict())}
        return {**weights, "optimizer": moments}

    def load(self, state: Mapping[str, Tensors], *, step: int) -> None:
        """Go on from what `state` gave after step `step`."""
        _fill(self._head.state_dict(), state["head"], "head")
        _fill(self.average.state_dict(), state["average"], "average")
        # Moments keep the memory format of their weights: kernels round in the order in which they find values.
        for name, parameter in self._head.named_parameters():
            moments = {}
            for kind in ("step", "exp_avg", "exp_avg_sq"):
                value = state["optimizer"].get(f"{name}.{kind}")
                if value is not None:
                    own = torch.zeros((), dtype=value.dtype) if kind == "step" else torch.zeros_like(parameter)
                    moments[kind] = own.copy_(value)
            if moments:
                self._adamw.state[parameter] = moments
        self.step = step

    def _accumulate(self, micro: MicroBatch, batch: Batch) -> float:
        """Add a micro-batch's share to the gradients; returns its loss over all processes, 0 without known depth."""
        # Not accelerate's own autocast: its precision is one per process, a recipe's is one per run.
        half = self._recipe.precision == "bf16"
        with torch.autocast(batch.target_m.device.type, torch.bfloat16) if half else contextlib.nullcontext():
            output: HeadOutput = self._trained(batch.features, self._stream.target_hw, auxiliary=True)
        loss = self._whole_loss(output, batch.target_m, micro)
        self._images += micro.indices
        if loss is None:  # in every process: the targets of all were asked
            return 0.0
        self._known += micro.weight
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.step} on {self._named(micro.indices)}; lower the learning rate or "
                "check those images"
            )
        torch.autograd.backward(micro.weight * loss)
        return value

    def _whole_loss(self, output: HeadOutput, target_m: Tensor, micro: MicroBatch) -> Tensor | None:
        """The loss of the micro-batch of all processes; None where nothing is known of any of its pixels."""

        def joined(values: Tensor) -> Tensor:
            return self.processes.joined(values.float(), micro.sizes)

        target_m = joined(target_m)
        nothing = target_m.isinf()
        target_m = target_m.masked_fill(nothing, 0)  # where nothing is, there is no depth to learn
        valid = target_m > 0  # what is beyond the protocol's range is 0; crops and other lenses scale the rest
        whole = output.changed(joined)
        loss = self._loss(whole, target_m, valid=valid) if bool(valid.any()) else None
        if whole.empty is None or not bool((known := valid | nothing).any()):
            return loss
        of_nothing = emptiness_loss(whole.empty, nothing, known=known)
        return of_nothing if loss is None else loss + of_nothing

    @property
    def _share(self) -> float:
        """The weight of the step's micro-batches so far in which depth was known; 1 where it was in all of a step."""
        return self._known if self._known < 1.0 - _ROUNDING else 1.0

    def _update(self) -> None:
        self.learning_rate = self._recipe.learning_rate_at(self.step, self.steps)
        for group in self._adamw.param_groups:
            group["lr"] = self.learning_rate
        if self._known > 0.0:
            self._move(self._share)
        self._images, self._known = [], 0.0
        self.step += 1
        # A short run would otherwise validate mostly its random start.
        decay = min(self._recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mine, theirs in zip(self.average.state_dict().values(), self._head.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(theirs, 1 - decay)
                else:
                    mine.copy_(theirs)

    def _move(self, share: float) -> None:
        """Sum the gradients of all processes and take them, as those of a step of weight one."""
        parameters = list(self._head.parameters())
        self.processes.sum_gradients(parameters)
        if share < 1.0:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(share)
        norm = float(nn.utils.clip_grad_norm_(parameters, self._recipe.gradient_norm))
        if not math.isfinite(norm):  # in every process: all have the same gradients
            names = "; ".join(self.processes.gathered(self._named(self._images)))
            raise TrainingError(
                f"the loss is finite but the norm of its gradient is {norm} at step {self.step} on {names}; lower the "
                "learning rate or check those images"
            )
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def _named(self, indices: Sequence[int]) -> str:
        """The first images of a batch, for messages."""
        return ", ".join(self._stream.name(i) for i in indices[:4]) + ("…" if len(indices) > 4 else "")


def _load(stream: FeatureStream, micro: MicroBatch) -> Loaded:
    return stream.load(micro.indices, micro.versions)


def _synchronised(head: DepthHead, processes: Processes, order: DataOrder) -> nn.Module:
    """The head with batch statistics over all processes; the same weights."""
    normalised = [name for name, part in head.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if processes.count == 1 or not normalised:
        return head
    if processes.device.type == "cpu":
        raise ConfigError(
            f"{processes.count} processes on the CPU cannot share the batch statistics of {normalised[0]!r}: each "
            "would train another head. Train this architecture in one process or on GPUs, or take 'tap-mixer'"
        )
    if order.smallest_micro_batch < processes.count:
        raise ConfigError(
            f"some steps have {order.smallest_micro_batch} images for {processes.count} processes, and a process "
            f"without one would spoil the batch statistics of {normalised[0]!r}; choose another batch size"
        )
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(head)  # type: ignore[no-untyped-call]
    return converted


@torch.no_grad()
def _fill(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    if mine.keys() != theirs.keys() or any(mine[name].shape != theirs[name].shape for name in mine):
        raise CheckpointError(f"the checkpoint holds the {what} of another architecture; resume the run it belongs to")
    for name, value in mine.items():
        value.copy_(theirs[name])
