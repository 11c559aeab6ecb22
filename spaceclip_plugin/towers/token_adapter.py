"""Towers of (B, N, C) tokens, prefix tokens first and patches in raster order: how they are read, and found by data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spaceclip_plugin.towers.adapter import Adapter, TowerParts, is_patch_embedding
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.seen_part import SeenPart
from spaceclip_plugin.towers.spec import (
    ATTENTION_POOL,
    CLS,
    MEAN,
    RAW_CLS,
    RAW_MEAN,
    ImageCall,
    RawFrame,
    Tower,
    TowerFeatures,
)


class TokenReader(Adapter):
    """The half of an adapter that reads tokens: what an image call was, and what its activations mean.

    A subclass says where the parts of its towers are (`parts`); `TokenAdapter` does so by data alone.

    Every map is a view of what was captured, in the memory order the host left. That is channels last where prefix
    tokens were joined to the patches, and channels first where there are none: then the order of the patch
    convolution's output survives every residual addition.

    Example:
        >>> import timm, torch
        >>> from spaceclip_plugin.towers import find_towers
        >>> [tower] = find_towers(timm.create_model("vit_tiny_patch16_224", depth=2))
        >>> tower.adapter.image_call(tower, (torch.zeros(2, 3, 224, 224),), {}).grid_hw
        (14, 14)
    """

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """Batch and grid of the pixels that a patch convolution is called with; see `Adapter.image_call`."""
        return ImageCall.of_convolution(tower.entry, args[0] if args else kwargs.get("input"))

    def convolution(self, tower: Tower) -> nn.Module:
        """What cuts images into patches; override where it is not the tower's entry."""
        return tower.entry

    def seen(self, tower: Tower, image_hw: tuple[int, int]) -> SeenPart | None:
        """What the tower reads of images of that size, and where its patches lie; None where they just fill them."""
        convolution = self.convolution(tower)
        return SeenPart.of_convolution(convolution, image_hw) if isinstance(convolution, nn.Conv2d) else None

    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Run the tower alone on images (B, 3, H, W); override where it takes something else."""
        tower.module(pixels)

    def features(self, frame: RawFrame, tower: Tower) -> TowerFeatures:
        """The patch maps and context of a captured frame.

        Raises:
            CaptureError: an activation has no room for the patch grid, or the context is not a vector per image.
        """
        valid = self.valid(frame, tower)
        grid_hw, image_hw = frame.call.sizes()
        hidden = {}
        for index, raw in frame.hidden.items():
            tokens = self.batch_first(raw, frame, tower)
            patches = self._patches(tokens, f"hidden state {index}", frame, tower)
            hidden[index] = patches.reshape(patches.shape[0], *grid_hw, patches.shape[2]).permute(0, 3, 1, 2)
        context = None if frame.context is None else self._context(frame.context, frame, tower, valid)
        return TowerFeatures(hidden, context, image_hw, valid, seen=self.seen(tower, image_hw))

    def batch_first(self, raw: Tensor, frame: RawFrame, tower: Tower) -> Tensor:
        """The raw activation of a block as (B, N, C); override where blocks carry another layout."""
        return raw

    def min_prefix(self, tower: Tower) -> int:
        """How many tokens surely precede the patches; a tower that shows fewer has lost patches."""
        return 0

    def valid(self, frame: RawFrame, tower: Tower) -> Tensor | None:
        """(B, h, w) bool, False where a patch is padding; None where every patch is real."""
        return None

    def _patches(self, tokens: Tensor, tap: str, frame: RawFrame, tower: Tower) -> Tensor:
        """The patch tokens (B, h*w, C) of a sequence (B, N, C)."""
        batch, ((height, width), _) = frame.call.batch, frame.call.sizes()
        minimum = self.min_prefix(tower)
        expected = f"(B={batch}, N>={minimum}+{height}*{width}, C={tower.spec.width})"
        if tokens.ndim != 3 or (tokens.shape[0], tokens.shape[2]) != (batch, tower.spec.width):
            raise tower.unexpected(tap, tokens, expected, "A layout of its own needs an adapter of its own.")
        prefix = tokens.shape[1] - height * width
        if prefix < minimum:
            advice = (
                f"That leaves {tokens.shape[1]} - {height * width} = {prefix} prefix tokens where there are at least "
                f"{minimum}: switch off whatever drops or merges patches (patch dropout: host.eval())."
            )
            if prefix == 0:
                advice += (
                    " Where nothing drops any, its class token joins only after this block (as in ConViT): such a "
                    "tower needs an adapter that says so (prefix_tokens=0, see adapters/README.md)."
                )
            raise tower.unexpected(tap, tokens, expected, advice)
        return tokens[:, prefix:]

    def _context(self, raw: Tensor, frame: RawFrame, tower: Tower, valid: Tensor | None) -> Tensor:
        """The global vector (B, C) out of what the context source gave."""
        kind = tower.spec.context
        if tower.context_source is tower.blocks[-1]:
            raw = self.batch_first(raw, frame, tower)
        vector = raw
        if raw.ndim == 3 and kind in (MEAN, RAW_MEAN):
            vector = _mean_of_valid(self._patches(raw, "the context", frame, tower), valid)
        elif raw.ndim == 3 and (kind in (CLS, RAW_CLS) or raw.shape[1] == 1):
            vector = raw[:, 0]
        if tuple(vector.shape) != (frame.call.batch, tower.spec.width):
            sequence = "1" if kind == ATTENTION_POOL else "N"
            expected = f"(B={frame.call.batch}, C={tower.spec.width}) or (B, {sequence}, C)"
            raise tower.unexpected("the context", raw, expected, "The host may pool differently; see its adapter.")
        return vector


@dataclass(kw_only=True, eq=False)
class TokenAdapter(TokenReader):
    """An adapter that is data: class names of the tower, and the paths of its parts relative to the tower.

    The way from a host down to its tower changes with versions and wrappers.
    Subclass it and override a method where one family needs more than data. Instances hold no state.

    Attributes:
        name: unique name, also its entry point.
        tower_classes: class names of the tower module; base classes count, for wrappers rename classes.
        patch_embedding: path of the convolution that cuts the image into patches.
        blocks: paths of the stack of transformer blocks, first match wins (libraries move it between versions).
        context_source: path of the module whose output holds the context.
        context: kind of that context: "cls", "attention-pool", "mean", "raw-cls" or "raw-mean".
        prefix_tokens: tokens that surely precede the patches.
        image_size: attribute paths, first match wins, that hold the input size in pixels: an int or (H, W).
        statistics: image statistics of the family, for hosts that declare none.

    Example:
        >>> from torch import nn
        >>> from spaceclip_plugin.towers import ImageStatistics, TokenAdapter, find_towers
        >>> class LabEye(nn.Module):
        ...     side = 64
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.cut, self.norm = nn.Conv2d(3, 8, 16, 16), nn.LayerNorm(8)
        ...         self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
        >>> adapter = TokenAdapter(name="lab-eye", tower_classes=("LabEye",), patch_embedding="cut",
        ...                        blocks=("layers",), context_source="norm", context="mean", prefix_tokens=0,
        ...                        image_size=("side",), statistics=ImageStatistics.IMAGENET)
        >>> [tower] = find_towers(nn.Sequential(LabEye()), adapter=adapter)
        >>> print(tower.spec)
        tower at '0' (adapter 'lab-eye', width 8, 1 blocks, patch 16, context 'mean')
    """

    name: str
    tower_classes: tuple[str, ...]
    patch_embedding: str
    blocks: tuple[str, ...]
    context_source: str
    context: str
    prefix_tokens: int
    image_size: tuple[str, ...]
    statistics: ImageStatistics

    def parts(self, module: nn.Module) -> TowerParts | None:
        """The parts at the known paths, or None where one is missing."""
        embedding = self.attribute_at(module, self.patch_embedding)
        blocks, image_hw = self.stack_at(module, *self.blocks), self.size_at(module, *self.image_size)
        if not is_patch_embedding(embedding) or blocks is None or image_hw is None:
            return None
        context, source = self.context_of(module)
        return TowerParts(
            entry=self.entry_of(module, embedding),
            blocks=blocks,
            context=context,
            context_source=source,
            width=embedding.out_channels,
            patch_size=embedding.stride[0],
            image_hw=image_hw,
            statistics=self.statistics,
        )

    def entry_of(self, module: nn.Module, embedding: nn.Conv2d) -> nn.Module:
        """The module whose call starts a frame; override where the convolution's arguments do not tell enough."""
        return embedding

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """Kind and source of the context of one tower; override where it depends on how the tower was built."""
        return self.context, self.module_at(module, self.context_source)

    def min_prefix(self, tower: Tower) -> int:
        """How many tokens surely precede the patches: `prefix_tokens`, unless overridden."""
        return self.prefix_tokens


def _mean_of_valid(patches: Tensor, valid: Tensor | None) -> Tensor:
    """The mean patch (B, C) of tokens (B, N, C) over the valid ones of a mask (B, h, w); zero where none is."""
    if valid is None:
        return patches.mean(dim=1)
    weight = valid.flatten(1).to(patches.dtype)[:, :, None]
    summed = torch.where(weight > 0, patches, 0).sum(dim=1)
    return summed / weight.sum(dim=1).clamp_min(1)
