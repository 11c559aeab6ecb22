"""How a head is trained: the published recipe as defaults (arXiv 2601.17657)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_plugin.head import fields
from spaceclip_plugin.training.losses import LOSSES

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step; the published one is 32 on NYU and 64 on KITTI.
        learning_rate: peak of AdamW's, after a linear warm-up over `warmup` of all steps, then cosine to
            `final_learning_rate`.
        weight_decay: AdamW's.
        gradient_norm: gradients are scaled down to this norm.
        ema_decay: decay per step of the averaged weights that are validated and saved.
        mirror: train on mirrored images as well, each with probability one half.
        loss: a name in `LOSSES`.
        precision: "fp32", or "bf16" for the head's forward and backward; the loss is always float32.
        seed: of weights, order and dropout.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    warmup: float = 0.05
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    ema_decay: float = 0.996
    mirror: bool = True
    loss: str = "published"
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        fields.whole("epochs", self.epochs, 1, 100_000)
        fields.whole("batch_size", self.batch_size, 1, 65_536)
        fields.whole("seed", self.seed, 0, 2**31 - 1)
        fields.real("learning_rate", self.learning_rate, 1e-9, 10.0)
        fields.real("final_learning_rate", self.final_learning_rate, 0.0, 10.0)
        fields.real("warmup", self.warmup, 0.0, 1.0)
        fields.real("weight_decay", self.weight_decay, 0.0, 10.0)
        fields.real("gradient_norm", self.gradient_norm, 1e-6, 1e6)
        fields.real("ema_decay", self.ema_decay, 0.0, 1.0)
        if self.loss not in LOSSES:
            hint = nearest(str(self.loss), LOSSES)
            raise ConfigError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}{hint}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        span = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done))
