"""What a tower gave, checked against what a head reads."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.towers import TowerFeatures


def checked_features(features: TowerFeatures, config: DepthHeadConfig, *, like: Tensor) -> TowerFeatures:
    """The features that a head of this config reads and no others, in the dtype and on the device of `like`."""
    hidden = {tap: _checked_map(features, tap, width) for tap, width in config.width_of.items()}
    first, *_ = hidden
    shape = tuple(hidden[first].shape)
    for tap, value in hidden.items():
        several_grids = config.tap_widths is not None
        if value.shape[0] != shape[0] or (not several_grids and tuple(value.shape) != shape):
            raise CaptureError(
                f"hidden state {tap} has shape {tuple(value.shape)}, hidden state {first} has {shape}; a head reads "
                "maps of one batch and one grid"
            )
    context = None
    if config.options.uses_context:
        context = _checked_context(features, (shape[0], config.width)).to(like)
    pixels = _checked_pixels(features, shape[0]).to(like) if config.options.pixels_per_patch else None
    return dataclasses.replace(
        features, hidden={tap: value.to(like) for tap, value in hidden.items()}, context=context, pixels=pixels
    )


def _checked_map(features: TowerFeatures, tap: int, width: int) -> Tensor:
    if tap not in features.hidden:
        raise CaptureError(f"the head reads hidden state {tap}, the features hold {sorted(features.hidden)}")
    patch_map = features.hidden[tap]
    if patch_map.ndim != 4 or patch_map.shape[1] != width or 0 in patch_map.shape:
        raise CaptureError(
            f"hidden state {tap} must be a non-empty map (B, {width}, h, w), got shape {tuple(patch_map.shape)}"
        )
    return patch_map


def _checked_pixels(features: TowerFeatures, batch: int) -> Tensor:
    """The part of the images that the patches cover."""
    pixels = features.pixels
    if pixels is None:
        raise CaptureError("the head reads the pixels of the tower's image too, but the features hold none")
    if tuple(pixels.shape) != (batch, 3, *features.image_hw):
        raise CaptureError(
            f"the pixels must have shape {(batch, 3, *features.image_hw)}, the image that the patch maps are of, got "
            f"{tuple(pixels.shape)}"
        )
    return pixels if features.seen is None else features.seen.cropped(pixels)


def _checked_context(features: TowerFeatures, shape: tuple[int, int]) -> Tensor:
    if features.context is None:
        raise CaptureError("the head reads the tower's context (FiLM), but the features hold none")
    # FiLM broadcasts: a context of another batch would pass unnoticed and modulate the wrong images.
    if tuple(features.context.shape) != shape:
        raise CaptureError(
            f"the context must have shape {shape}, one vector per image, got {tuple(features.context.shape)}"
        )
    return features.context
