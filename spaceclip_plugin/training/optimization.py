"""The optimisation of a head over cached features: one recipe, step by step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.evaluation.protocols import Protocol
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.training.feature_cache import FeatureCache
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.recipe import Recipe


class HeadOptimizer:
    """AdamW on a head, as the recipe says.

    Attributes:
        average: the averaged weights, which are validated and saved.
        learning_rate: that of the last step.
    """

    def __init__(self, head: DepthHead, recipe: Recipe, protocol: Protocol, cached: FeatureCache) -> None:
        from accelerate import Accelerator

        self._recipe = recipe
        self._protocol = protocol
        self._cached = cached
        self._order = torch.Generator().manual_seed(recipe.seed)
        self._loss = LOSSES[recipe.loss]()
        # The head stays where it is: accelerate's own device is one per process and not always the host's.
        self._device = next(head.parameters()).device
        self._accelerator = Accelerator(cpu=self._device.type == "cpu", device_placement=False)
        head.to(memory_format=torch.channels_last)
        self.average = AveragedHead(head, recipe.ema_decay)
        optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self._head, self._optimizer = self._accelerator.prepare(head, optimizer)
        self._plain_head = head
        self._step = 0
        self.learning_rate = 0.0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self._recipe.epochs * -(-len(self._cached) // self._recipe.batch_size)

    def epoch(self) -> Iterator[float]:
        """One pass in a fresh random order; yields the loss of each step."""
        self._head.train()
        order = torch.randperm(len(self._cached), generator=self._order)
        for indices in torch.split(order, self._recipe.batch_size):
            yield self._advance(indices.tolist(), self._drawn_views(len(indices)))

    def _drawn_views(self, count: int) -> list[int]:
        views = self._cached.views
        if views == 1:
            return [0] * count
        # Counted from the last view, so that of two the mirrored one is drawn below a half, as it always was.
        drawn = views - 1 - (torch.rand(count, generator=self._order) * views).long()
        return [int(view) for view in drawn]

    def _advance(self, indices: list[int], views: list[int]) -> float:
        self.learning_rate = self._recipe.learning_rate_at(self._step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        batch = self._cached.batch(indices, views)
        target = batch.target_m.to(self._device)
        # Not accelerate's own autocast: its precision is one per process, a recipe's is one per run.
        with torch.autocast(target.device.type, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
            output = self._head(batch.features.to(target.device), self._cached.target_hw, auxiliary=True)
        valid = (target > self._protocol.min_depth_m) & (target < self._protocol.max_depth_m)
        auxiliary = [depth.float() for depth in output.auxiliary_m]
        uncertainty = None if output.uncertainty_m is None else output.uncertainty_m.float()
        loss: Tensor = self._loss(
            output.depth_m.float(), auxiliary, target_m=target, valid=valid, uncertainty_m=uncertainty
        ).total
        value = float(loss.detach())
        if not math.isfinite(value):
            names = ", ".join(self._cached.names[i] for i in indices[:4])
            raise TrainingError(
                f"the loss is {value} at step {self._step} on {names}…; lower the learning rate or check those images"
            )
        self._optimizer.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._head.parameters(), self._recipe.gradient_norm)
        self._optimizer.step()
        self._step += 1
        self.average.update(self._plain_head, self._step)
        return value


class AveragedHead:
    """Exponential moving average of a head's weights and running statistics."""

    def __init__(self, head: DepthHead, decay: float) -> None:
        self.head = copy.deepcopy(head).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, head: DepthHead, step: int) -> None:
        """Move towards `head` after step `step` (from 1)."""
        # A short run would otherwise validate mostly its random start.
        decay = min(self._decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.head.state_dict().values(), head.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)
