"""How a head is trained: the recommended recipe as defaults, and the published ones (arXiv 2601.17657)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spaceclip_plugin import _checks
from spaceclip_plugin.data.augmentation import AUGMENTATIONS
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.losses.registry import LOSSES

PRECISIONS = ("fp32", "bf16")
LIVE = "none"
CACHES = ("fp16", "int8", LIVE)


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; the defaults are the recommended ones, found on 695 images of NYU with a frozen ViT-Tiny.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of one whole step, over all processes and micro-batches.
        accumulation: micro-batches that a step is computed in, one after the other, each of at least one image; more
            need less memory.
        learning_rate: peak of AdamW's, after a linear warm-up over `warmup` of all steps, then cosine to
            `final_learning_rate`.
        weight_decay: AdamW's.
        gradient_norm: gradients are scaled down to this norm.
        ema_decay: decay per step of the averaged weights that are validated and saved.
        augmentation: what the versions of an image differ in, a name in `data.augmentation.AUGMENTATIONS`.
        views: versions of an image, one of which is drawn in every epoch; 1: as photographed, 2: also mirrored, more:
            also what `augmentation` draws. A cache grows with their number.
        cache: what the tower's features are kept as: "fp16", "int8" (half the bytes, rounded), or "none": they are not
            kept, and the tower runs at every step.
        target_side: depth maps with a longer side than this, in pixels, are learnt from at this size; None: as they
            are.
        loss: a name in `LOSSES`.
        precision: "fp32", or "bf16" for the head's forward and backward; the loss is always float32.
        seed: of weights, order, views and dropout, from 0 to 2**31 - 1.
    """

    epochs: int = 20
    batch_size: int = 8
    accumulation: int = 1
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-6
    warmup: float = 0.05
    weight_decay: float = 0.05
    gradient_norm: float = 1.0
    ema_decay: float = 0.995
    augmentation: str = "recommended"
    views: int = 8
    cache: str = "fp16"
    target_side: int | None = 320
    loss: str = "relative"
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        _checks.whole("epochs", self.epochs, 1, 100_000)
        _checks.whole("batch_size", self.batch_size, 1, 65_536)
        _checks.whole("accumulation", self.accumulation, 1, 65_536)
        if self.accumulation > self.batch_size:
            raise ConfigError(
                f"accumulation must be at most batch_size, one image a micro-batch; got {self.accumulation} "
                f"micro-batches of {self.batch_size} images"
            )
        _checks.whole("views", self.views, 1, 100_000)
        _checks.whole("seed", self.seed, 0, 2**31 - 1)
        _checks.real("learning_rate", self.learning_rate, 1e-9, 10.0)
        _checks.real("final_learning_rate", self.final_learning_rate, 0.0, 10.0)
        _checks.real("warmup", self.warmup, 0.0, 1.0)
        _checks.real("weight_decay", self.weight_decay, 0.0, 10.0)
        _checks.real("gradient_norm", self.gradient_norm, 1e-6, 1e6)
        _checks.real("ema_decay", self.ema_decay, 0.0, 1.0)
        if self.target_side is not None:
            _checks.whole("target_side", self.target_side, 1, 16_384)
        _checks.choice("augmentation", self.augmentation, AUGMENTATIONS)
        _checks.choice("cache", self.cache, CACHES)
        _checks.choice("loss", self.loss, LOSSES)
        _checks.choice("precision", self.precision, PRECISIONS)

    @classmethod
    def published(cls, **overrides: Any) -> Recipe:
        """The published recipe for NYU.

        It draws anew in each epoch, which a cache of two views (as photographed and mirrored) cannot: for its own
        augmentation set `views` to many and `cache` to "none", at the price of the tower at every step.

        Args:
            overrides: fields to set otherwise.

        Raises:
            ConfigError: an unknown field or an impossible value.
        """
        published: dict[str, Any] = {
            "epochs": 20,
            "batch_size": 32,
            "learning_rate": 1e-4,
            "final_learning_rate": 1e-6,
            "warmup": 0.05,
            "weight_decay": 0.01,
            "gradient_norm": 1.0,
            "ema_decay": 0.996,
            "augmentation": "published-nyu",
            "views": 2,
            "target_side": None,
            "loss": "published",
        }
        return _checks.build(cls, {**published, **overrides}, where="recipe")

    @classmethod
    def published_kitti(cls, **overrides: Any) -> Recipe:
        """The published recipe for KITTI: NYU's, but batches of 64 images and crops of KITTI's shape.

        Args:
            overrides: fields to set otherwise.

        Raises:
            ConfigError: an unknown field or an impossible value.
        """
        return cls.published(**{"batch_size": 64, "augmentation": "published-kitti", **overrides})

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        span = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done))


RECIPES: dict[str, Callable[..., Recipe]] = {
    "recommended": Recipe,
    "published": Recipe.published,
    "published-kitti": Recipe.published_kitti,
}
