"""Multi-task DiT: images normalised by the statistics of its data set, then resized and their middle cut out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spaceclip_plugin.bridges.lerobot.families.family import (
    Family,
    Laying,
    Middle,
    Step,
    Stretch,
    pair,
    setting,
    visual_mode,
)
from spaceclip_plugin.towers import ImageStatistics
from spaceclip_plugin.towers.image_statistics import declared

_EPS = 1e-8  # what LeRobot's normalizer adds to a deviation


class MultiTaskDiT(Family):
    """See `Family`."""

    prepares = "observation_encoder.center_crop"

    def laying(self, policy: nn.Module) -> Laying | None:
        """See `Family`."""
        resized, cut = (pair(setting(policy, f"image_{what}_shape")) for what in ("resize", "crop"))
        steps: list[Step] = [] if resized is None else [Stretch(resized)]
        if cut is None:
            return Laying("stretch", steps) if steps else None
        before = "" if resized is None else f":{resized[0]}x{resized[1]}"
        return Laying(f"centre-crop{before}" if before else "middle, unscaled", [*steps, Middle(cut)])

    def show(self, policy: nn.Module, key: str, image: Tensor) -> object:
        """See `Family`."""
        encoder: Any = policy.get_submodule("observation_encoder")
        known = _statistics(policy)
        if known is not None:
            mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (known.mean, known.std))
            image = (image - mean) / (std + _EPS)
        image = encoder.resize(image) if encoder.do_resize else image
        return encoder.center_crop(image) if encoder.do_crop else image  # as it acts: to learn, it crops at random

    def lacking(self, policy: nn.Module) -> str:
        """See `Family`."""
        mode = visual_mode(policy)
        if mode == "IDENTITY" or (mode == "MEAN_STD" and _statistics(policy) is not None):
            return ""
        if mode != "MEAN_STD":
            return f"its normalizer treats images by {mode}, which no mean and deviation say"
        return (
            "the statistics that its normalizer has for images are not known: load it by name (lerobot:FOLDER) with "
            "its preprocessor beside it, or declare them (--image-mean, --image-std, ImageStatistics.declare)"
        )


def _statistics(policy: nn.Module) -> ImageStatistics | None:
    """What images are normalised with, as was declared of the policy."""
    return None if visual_mode(policy) == "IDENTITY" else declared([policy])
