"""The SigLIP-like eye of Idefics 2 and 3 and SmolVLM in transformers, and of LeRobot's SmolVLA.

Images of one batch are padded to one size, and a mask says which patches are real; masked patches stay in the
sequence. There is no pooled vector: the context is the mean of the real patches after the final norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers import ImageCall, ImageStatistics, RawFrame, TokenAdapter, Tower


class IdeficsAdapter(TokenAdapter):
    """The embeddings, not the convolution inside, are told which patches are real."""

    def entry_of(self, module: nn.Module, embedding: nn.Conv2d) -> nn.Module:
        """The embeddings around the convolution."""
        return self.module_at(module, "embeddings") or embedding

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """The padded pixels, and the mask of their patches."""
        pixels = args[0] if args else kwargs.get("pixel_values")
        mask = args[1] if len(args) > 1 else kwargs.get("patch_attention_mask")
        call = ImageCall.of_convolution(self.convolution(tower), pixels)
        return dataclasses.replace(call, layout=mask) if isinstance(mask, Tensor) else call

    def convolution(self, tower: Tower) -> nn.Module:
        """The convolution inside the embeddings."""
        return self.module_at(tower.entry, "patch_embedding") or tower.entry

    def valid(self, frame: RawFrame, tower: Tower) -> Tensor | None:
        """The patch mask (B, h, w), or None where it masks nothing."""
        mask = frame.call.layout
        if mask is None:
            return None
        if mask.shape[1:] != frame.call.grid_hw or len(mask) != frame.call.batch:
            raise CaptureError(f"the patch mask has shape {tuple(mask.shape)}, the grid is {frame.call.grid_hw}")
        mask = mask.bool()
        return None if bool(mask.all()) else mask


adapter = IdeficsAdapter(
    name="idefics",
    tower_classes=("Idefics2VisionTransformer", "Idefics3VisionTransformer", "SmolVLMVisionTransformer"),
    patch_embedding="embeddings.patch_embedding",
    blocks=("encoder.layers",),
    context_source="post_layernorm",
    context="mean",
    prefix_tokens=0,
    image_size=("config.image_size",),
    statistics=ImageStatistics.SYMMETRIC,
)
