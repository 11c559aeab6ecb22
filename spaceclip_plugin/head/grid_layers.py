"""What decoders work with on a patch grid: maps (B, h, w, C), channels last as towers leave them, and their padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, interpolate

KERNEL = 5
EXPANSION = 2


class Block(nn.Module):
    """A depthwise convolution and two layers per pixel (Liu et al., "A ConvNet for the 2020s", 2022, figure 4)."""

    def __init__(self, channels: int, drop: float, *, kernel: int = KERNEL) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, EXPANSION * channels)
        self.narrow = nn.Linear(EXPANSION * channels, channels)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to the same shape."""
        mixed = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        change = self.narrow(gelu(self.widen(self.norm(mixed))))
        return added(x, dropped(change, self.drop, self.training))


def added(x: Tensor, change: Tensor) -> Tensor:
    """`x + change`, in the memory of the change: no layer that gives one needs it for its gradient."""
    return change.add_(x) if x.dtype == change.dtype else x + change


def dropped(change: Tensor, probability: float, training: bool) -> Tensor:
    """(B, h, w, C) with some channels of every image dropped as a whole, in training."""
    if not (training and probability):
        return change
    return change * dropout(change.new_ones(len(change), 1, 1, change.shape[-1]), probability)


def patch_mask(valid: Tensor | None, like: Tensor) -> Tensor | None:
    """(B, h, w, 1): one where a patch is real, zero where it is padding."""
    if valid is None:
        return None
    return interpolate(valid[:, None].to(like), size=like.shape[1:3], mode="nearest-exact").permute(0, 2, 3, 1)


def kept(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x`, zero in padding."""
    # As it is beyond the border: an image beside a larger one gets the depth it gets alone.
    return x if mask is None else x * mask


def doubled(x: Tensor) -> Tensor:
    """(B, h, w, 4C) to (B, 2h, 2w, C): a pixel shuffle whose channels lie last."""
    batch, h, w, channels = x.shape
    cells = x.view(batch, h, w, 2, 2, channels // 4).transpose(2, 3)
    return cells.reshape(batch, 2 * h, 2 * w, channels // 4)


def sized(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """(B, C, h, w) to (B, C, H, W), bilinear between pixel centres."""
    if x.shape[-2:] == torch.Size(hw):
        return x
    return interpolate(x, size=hw, mode="bilinear", align_corners=False)
