"""Towers of (B, N, C) tokens, prefix tokens first and patches in raster order: one adapter, all data.

Most vision transformers keep this layout and differ only in where their parts are. `TokenAdapter` takes those places
as data, relative to the tower: the way from a host down to its tower changes with versions and wrappers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from spaceclip_plugin.towers.adapter import TowerParts, is_patch_embedding
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.spec import Tower
from spaceclip_plugin.towers.token_reader import TokenReader


@dataclass(kw_only=True, eq=False)
class TokenAdapter(TokenReader):
    """An adapter that is data: class names of the tower, and the paths of its parts relative to the tower.

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
