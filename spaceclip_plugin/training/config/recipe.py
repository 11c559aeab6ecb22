"""How a head is trained: the recommended recipe as defaults, and the published ones (arXiv 2601.17657)."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated

from spaceclip_plugin.data.augmentation import AUGMENTATIONS
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.config.settings import Config, choice, real, whole
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.tower_precision import OWN, TOWER_PRECISIONS

LIVE = "none"  # features that are not kept: the tower runs at every step


@dataclass(frozen=True)
class Recipe(Config):
    """How a head is trained; the defaults are the recommended settings, found on 695 images of NYU with a ViT-Tiny.

    The optimizer is AdamW. A step's images are those of all processes and micro-batches. The loss is always float32.

    Raises:
        ConfigError: a value that cannot be, or more micro-batches than images.

    Example:
        >>> Recipe(epochs=5).learning_rate_at(0, steps=100)
        0.0004
    """

    epochs: Annotated[int, whole(1, 100_000, "passes over the training images")] = 20
    batch_size: Annotated[int, whole(1, 65_536, "images per step")] = 8
    accumulation: Annotated[
        int, whole(1, 65_536, "micro-batches a step is computed in, one after the other; more need less memory")
    ] = 1
    learning_rate: Annotated[
        float, real(1e-9, 10.0, "peak learning rate, between a linear warm-up and a cosine decay", flag="--lr")
    ] = 2e-3
    final_learning_rate: Annotated[float, real(0.0, 10.0, "learning rate at the end", flag=None)] = 1e-6
    warmup: Annotated[float, real(0.0, 1.0, "share of steps in which the learning rate rises", flag=None)] = 0.05
    weight_decay: Annotated[float, real(0.0, 10.0, "AdamW's weight decay")] = 0.05
    gradient_norm: Annotated[float, real(1e-6, 1e6, "norm that gradients are scaled down to", flag=None)] = 1.0
    ema_decay: Annotated[
        float, real(0.0, 1.0, "decay per step of the averaged weights, which are validated and saved")
    ] = 0.995
    augmentation: Annotated[str, choice(AUGMENTATIONS, "what versions of an image differ in")] = "recommended"
    views: Annotated[
        int,
        whole(
            1,
            100_000,
            "versions of an image, one of which is drawn in every epoch: 1 as photographed, 2 also mirrored, more also "
            "random ones; a cache grows with their number",
        ),
    ] = 4
    cache: Annotated[
        str,
        choice(
            ("fp16", "int8", LIVE),
            "what the tower's features are kept as; int8: half the bytes; none: not kept, the tower runs at every step",
            flag="--features",
        ),
    ] = "fp16"
    target_side: Annotated[
        int | None, whole(1, 16_384, "learn from depth maps of at most this many pixels a side; 0: as they are")
    ] = 320
    loss: Annotated[str, choice(LOSSES, "what is minimised")] = "relative"
    precision: Annotated[str, choice(("fp32", "bf16"), "of the head's arithmetic")] = "fp32"
    tower_precision: Annotated[
        str,
        choice(
            TOWER_PRECISIONS,
            "of the tower's arithmetic where it makes training features; bf16: faster on CPUs with AMX or AVX512-BF16, "
            "and on GPUs; validation keeps the tower's own",
        ),
    ] = OWN
    seed: Annotated[int, whole(0, 2**31 - 1, "of weights, order, versions and dropout")] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulation > self.batch_size:
            raise ConfigError(
                f"accumulation must be at most batch_size, one image a micro-batch; got {self.accumulation} "
                f"micro-batches of {self.batch_size} images"
            )

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        span = self.learning_rate - self.final_learning_rate
        return self.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done))


# The published recipes draw anew in each epoch, which a cache of two versions (as photographed and mirrored) cannot:
# for their own augmentation set `views` to many and `cache` to "none", at the price of the tower at every step.
PUBLISHED = Recipe(
    batch_size=32,
    learning_rate=1e-4,
    weight_decay=0.01,
    ema_decay=0.996,
    augmentation="published-nyu",
    views=2,
    target_side=None,
    loss="published",
)
RECIPES = {
    "recommended": Recipe(),
    "published": PUBLISHED,
    "published-kitti": dataclasses.replace(PUBLISHED, batch_size=64, augmentation="published-kitti"),
}
