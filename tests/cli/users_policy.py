"""A module a user might have: `python:users_policy:build` gives the host."""

from __future__ import annotations

import timm
import torch
from torch import nn


def build() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=0
        )


def not_a_module() -> str:
    return "policy"


def two_eyes() -> nn.Module:
    return nn.ModuleDict({"left": build(), "right": build()})


def known_and_unknown_eye() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).layers
    return nn.ModuleDict(
        {"known": build(), "unknown": nn.ModuleDict({"cut": nn.Conv2d(3, 16, 8, 8), "blocks": blocks})}
    )


def blind() -> nn.Module:
    return nn.Linear(2, 2)
