"""A tiny frozen host, a head for it and rendered scenes: enough of a world to train in a second."""

from __future__ import annotations

import timm
import torch
from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.tabletop import TabletopScenes
from spaceclip_plugin.evaluation.protocols import Protocol

PROTOCOL = Protocol(name="tabletop", description="every pixel", depth_scale=1000.0, max_depth_m=10.0)
SMALL = {
    "architecture": "space-clip",
    "channels": (8, 6),
    "semantic_taps": (2, 1),
    "structural_taps": (0,),
    "film_hidden": 4,
}


def tiny_host() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0
        )


def tiny_head(host: nn.Module, **overrides: object) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return DepthHead.for_tower(host, **{**SMALL, **overrides})


def scenes(count: int, seed: int = 0) -> list[DepthSample]:
    source = TabletopScenes(count, image_hw=(32, 32), seed=seed)
    return [source[i] for i in range(count)]
