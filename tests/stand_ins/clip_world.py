"""A small CLIP host, a head for it, and what the attachment's tests do with them."""

from __future__ import annotations

import pytest
import torch
import transformers
from fresh_heads import fresh_head
from torch import Tensor, nn

from spaceclip_plugin import DepthHead

SMALL = {
    "architecture": "space-clip",
    "channels": (8, 6),
    "semantic_taps": (3, 1),
    "structural_taps": (0,),
    "film_hidden": 4,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def clip_host(**overrides: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**{**VISION, **overrides})).eval()


@pytest.fixture
def host() -> nn.Module:
    return clip_host()


@pytest.fixture
def head(host: nn.Module) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(host, **SMALL).eval()


def images(seed: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def see(host: nn.Module, *seeds: int, batch: int = 1) -> None:
    with torch.no_grad():
        for seed in seeds:
            host(images(seed, batch))


def hook_count(host: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in host.modules())


class TwoEyes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = clip_host(), clip_host()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.left(pixels).last_hidden_state + self.right(2 * pixels).last_hidden_state
