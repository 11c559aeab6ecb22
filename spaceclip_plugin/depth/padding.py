"""The padding that a tower's images show, and whether it is what a mapping says. Padding is of one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from spaceclip_plugin.depth.image_mapping import Anchor, ImageMapping
from spaceclip_plugin.depth.resampling import pixel_centres, within

Borders: TypeAlias = tuple[int, int, int, int]
"""Rows or columns of one value at the (top, left, bottom, right) of an image, in pixels."""

Verdict = Literal["as declared", "more", "less"]


def blank_and_borders(pixels: Tensor, anchor: Anchor) -> tuple[Tensor, Tensor]:
    """Which images (B, C, H, W) are of one value throughout, (B,) bool, and the `Borders` of each, (B, 4) int64.

    They are of the value of the corner that the anchor would have padded. Nothing is asked of the device.
    """
    corner = pixels[:, :, -1:, -1] if anchor == "top-left" else pixels[:, :, :1, 0]  # (B, C, 1)
    borders: dict[str, Tensor] = {}
    lowest = highest = corner
    for before, after, along in (("top", "bottom", 3), ("left", "right", 2)):
        lowest, highest = pixels.amin(dim=along), pixels.amax(dim=along)  # (B, C, H) or (B, C, W)
        alike = ((lowest == corner) & (highest == corner)).all(dim=1).long()
        borders[before] = alike.cumprod(dim=1).sum(dim=1)
        borders[after] = alike.flip(1).cumprod(dim=1).sum(dim=1)
    blank = lowest.flatten(1).amin(dim=1) == highest.flatten(1).amax(dim=1)
    return blank, torch.stack([borders[side] for side in ("top", "left", "bottom", "right")], dim=1)


def declared_borders(mapping: ImageMapping) -> Borders:
    """The padding of whole pixels that a mapping says."""
    (height, width), (top, left, bottom, right) = mapping.tower_hw, mapping.shown
    return round(top), round(left), round(height - bottom), round(width - right)


def verdict(borders: Borders, mapping: ImageMapping, anchor: Anchor) -> Verdict:
    """How an image's borders compare with a mapping's padding: otherwise if the camera's image is of another shape.

    "more" is what such an image, padded alike, would have; a dark edge of a scene looks the same.
    """
    declared = declared_borders(mapping)
    if any(seen < said for seen, said in zip(borders, declared, strict=True)):
        return "less"
    more = any(_more(borders[i::2], declared[i::2], anchor) for i in (0, 1))
    return "more" if more else "as declared"


def inside(borders: Sequence[Borders], image_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """(B, H, W) bool: which pixels of a map of size `hw` over the image lie inside the borders of each image."""
    axes = []
    for i in (0, 1):
        first = torch.tensor([one[i] for one in borders])[:, None]
        last = torch.tensor([image_hw[i] - one[i + 2] for one in borders])[:, None]
        axes.append(within(pixel_centres(hw[i], image_hw[i]), first, last))
    return axes[0][:, :, None] & axes[1][:, None, :]


def _more(seen: tuple[int, ...], said: tuple[int, ...], anchor: Anchor) -> bool:
    """Whether an axis shows more padding than declared, on the sides where this anchor puts it."""
    if anchor == "centre":
        return sum(seen) > sum(said) and abs(seen[0] - seen[1]) <= 1
    side = 0 if anchor == "bottom-right" else 1
    return seen[side] > said[side]
