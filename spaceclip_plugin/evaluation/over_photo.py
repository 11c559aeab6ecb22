"""Depth of a photo where its pixels are, whatever was done to the photo before the tower saw it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from spaceclip_plugin.depth import DepthMap, ImageMapping
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers import SeenPart


def over_photo(depth: DepthMap, output_hw: tuple[int, int]) -> DepthMap:
    """Depth of a tower's image that tells its mapping, over the photo in so many pixels, as `DepthMap.in_camera`.

    What is not `valid`, such as sky, keeps the head's number for whoever scores it; what the tower was not shown has
    none.
    """
    mapping = depth.mapping
    if mapping is None:
        raise ConfigError("depth is laid over a photo by its mapping, and this has none; read it with one")
    map_hw = (depth.valid.shape[1], depth.valid.shape[2])
    shown = mapping.valid_tower_pixels(map_hw, device=depth.valid.device).expand_as(depth.valid)
    placed = dataclasses.replace(depth, valid=shown).in_camera(size=output_hw)
    known = mapping.places(output_hw, depth.depth_m).nearest(depth.valid)
    return dataclasses.replace(placed, valid=placed.valid & known)


def seen_of_photo(mapping: ImageMapping | None, seen: SeenPart | None, output_hw: tuple[int, int]) -> Tensor | None:
    """(H, W) bool on the CPU: which pixels of a photo, of that size, the tower was shown and read; None: all.

    `mapping` is that to the tower's image (None: the photo is stretched to it), of which `seen` was read (None: all).
    """
    if mapping is None:
        return None if seen is None else seen.mask(output_hw)
    if seen is not None:
        mapping = mapping.clipped(seen.seen)
    return mapping.places(output_hw, torch.empty(1, *output_hw)).shown
