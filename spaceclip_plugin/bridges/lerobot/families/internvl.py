"""Evo-1: the module of its InternVL stretches images, one tile each."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from spaceclip_plugin.bridges.lerobot.families.family import Family, Laying, Stretch

_FAMILYS_OWN = ("IMAGENET_MEAN", "IMAGENET_STD")


class Evo1(Family):
    """See `Family`."""

    prepares = "_batched_pixel_values"

    def laying(self, policy: nn.Module) -> Laying | None:
        """See `Family`."""
        side = _embedder(policy).image_size
        return Laying("stretch", (Stretch((int(side), int(side))),))

    def show(self, policy: nn.Module, key: str, image: Tensor) -> object:
        """See `Family`."""
        embedder = _embedder(policy)
        module: Any = sys.modules[type(embedder).__module__]
        to = {"device": embedder.device, "dtype": embedder.model_dtype}
        mean, std = (torch.tensor(getattr(module, name), **to) for name in _FAMILYS_OWN)
        prepare = getattr(module, self.prepares)
        return prepare([image], 1, embedder.image_size, mean, std, embedder.model_dtype, embedder.device)


def _embedder(policy: nn.Module) -> Any:
    return policy.get_submodule("model.embedder")
