"""A thin path from the tower's own image into a decoder's finest grid: where edges are, pixels tell better than tokens.

What SPACE-CLIP's structural path stands for, from the source: two strided convolutions instead of early hidden states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from spaceclip_plugin.head.grid_layers import Block, added, doubled, kept, sized

STEM_CHANNELS = 16
STRIDES = 2  # convolutions that halve the image
_SMALL = 1e-3  # shares of an image in a pixel below it are padding's


class PixelPath(nn.Module):
    """Twice as fine a grid as `x` has, and what the image shows there."""

    def __init__(self, below: int, channels: int, drop: float) -> None:
        super().__init__()
        self.climb = nn.Sequential(nn.LayerNorm(below), nn.Linear(below, 4 * channels))
        self.edges = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, padding=1)
        self.shapes = nn.Conv2d(STEM_CHANNELS, channels, 3, stride=2, padding=1)
        self.block = Block(channels, drop, kernel=3)

    def forward(self, x: Tensor, pixels: Tensor, mask: Tensor | None) -> Tensor:
        """Join the image to the map below.

        Args:
            x: (B, h, w, C), zero in padding.
            pixels: (B, 3, H, W) of what the map covers, of any size; seen at 4 pixels a cell of the finer grid.
            mask: (B, 2h, 2w, 1), zero in padding; None where there is none.

        Returns:
            (B, 2h, 2w, channels)
        """
        x = doubled(self.climb(x))
        _, height, width, _ = x.shape
        image = _resized(pixels, (2**STRIDES * height, 2**STRIDES * width), mask)
        image = image.contiguous(memory_format=torch.channels_last)  # as x lies; convolutions keep it
        edges = _kept(gelu(self.edges(image)), mask)
        x = kept(added(x, self.shapes(edges).permute(0, 2, 3, 1)), mask)
        refined: Tensor = self.block(x)
        return refined


def _resized(pixels: Tensor, hw: tuple[int, int], mask: Tensor | None) -> Tensor:
    """(B, 3, H, W) at another size, zero in padding, of which nothing is mixed into what is beside it."""
    if mask is None:
        return sized(pixels, hw)
    real = _at(mask, pixels)
    return _kept(sized(pixels * real, hw) / sized(real, hw).clamp_min(_SMALL), mask)


def _kept(image: Tensor, mask: Tensor | None) -> Tensor:
    """(B, C, H, W), zero where the coarser mask is: as it is beyond the border of an image that is alone."""
    return image if mask is None else image * _at(mask, image)


def _at(mask: Tensor, image: Tensor) -> Tensor:
    """(B, h, w, 1) as (B, 1, H, W), of the image's size."""
    return interpolate(mask.permute(0, 3, 1, 2), size=image.shape[2:], mode="nearest-exact")
