"""Towers whose patches do not divide their image, and a head whose depth tells where each patch is."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spaceclip_plugin import DepthHead
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.towers.spec import TowerFeatures


def siglip(side: int = 48, patch: int = 14) -> nn.Module:
    """A SigLIP tower: with patches of 14 it reads 42 of 48 pixels, as the published one reads 378 of 384."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=side,
            patch_size=patch,
        )
        return transformers.SiglipVisionModel(config).eval()


class Ramp(nn.Module):
    """Depth is 10 + row and uncertainty 1 + column, in patches: patch (i, j) has 10.5 + i and 1.5 + j at its centre."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.asked: list[tuple[int, int]] = []

    def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        """The ramps, resized as decoders do."""
        self.asked.append(output_hw)
        batch, _, rows, columns = next(iter(features.hidden.values())).shape
        down = (torch.arange(rows) + 10.5)[None, None, :, None].expand(batch, 1, rows, columns)
        right = (torch.arange(columns) + 1.5).expand(batch, 1, rows, columns)
        depth, spread = (
            interpolate(ramp, output_hw, mode="bilinear", align_corners=False)[:, 0] for ramp in (down, right)
        )
        return HeadOutput(self.gain * depth, (self.gain * depth,) if auxiliary else (), spread)


def ramp_head(host: nn.Module) -> DepthHead:
    head = DepthHead.for_tower(host, architecture="tap-mixer")
    head.decoder = Ramp()
    return head.eval()


def pixels(hw: tuple[int, int], batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *hw, generator=torch.Generator().manual_seed(0))


def places(side: int, count: int) -> Tensor:
    """Centres of `count` pixels along a side, in pixels of the tower's image."""
    return (torch.arange(count) + 0.5) * (side / count)
