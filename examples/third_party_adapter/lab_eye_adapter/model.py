"""A tower of a lab's own: patches row by row, then two task tokens behind them instead of a class token in front."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LabEye(nn.Module):
    """Images (B, 3, 64, 64) → task vectors (B, 2, width)."""

    image_size = 64

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 16, stride=16)
        self.positions = nn.Parameter(torch.randn(1, 16 + 2, width))
        self.task_tokens = nn.Parameter(torch.randn(1, 2, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Run the tower."""
        patches = self.cut(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([patches, self.task_tokens.expand(len(pixels), -1, -1)], dim=1) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)[:, -2:]


def build() -> nn.Module:
    """For the command line: `spaceclip inspect python:lab_eye_adapter.model:build`."""
    return LabEye().eval()
