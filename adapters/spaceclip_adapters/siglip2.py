"""SigLIP 2 of transformers with native resolution (NaFlex): images of any size, cut into patches by the processor.

The patch embedding is a linear layer on packed patches (B, N, 3·p·p); every sequence is padded at its end to the
batch's longest. Fixed-resolution SigLIP 2 checkpoints use the SigLIP classes and their adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers import ImageCall, ImageStatistics, PackedReader, RawFrame, Tower, TowerParts


class Siglip2Adapter(PackedReader):
    """Sequences with a padded tail; the call's `spatial_shapes` tell the grid of every image."""

    name = "siglip2"
    tower_classes = ("Siglip2VisionTransformer", "Siglip2VisionModel")
    gives_pixels = True

    def parts(self, module: nn.Module) -> TowerParts | None:
        """The embeddings, which are told the grids, and the blocks; None for a model around the transformer."""
        embeddings, blocks = self.module_at(module, "embeddings"), self.stack_at(module, "encoder.layers")
        linear = self.attribute_at(embeddings, "patch_embedding")
        patch, patches = (self.attribute_at(module, f"config.{name}") for name in ("patch_size", "num_patches"))
        if not isinstance(patch, int) or not isinstance(patches, int):
            return None
        if embeddings is None or blocks is None or not isinstance(linear, nn.Linear):
            return None
        head, side = self.module_at(module, "head"), patch * int(patches**0.5)
        return TowerParts(
            entry=embeddings,
            blocks=blocks,
            context="mean" if head is None else "attention-pool",
            context_source=self.module_at(module, "post_layernorm") if head is None else head,
            width=linear.out_features,
            patch_size=patch,
            image_hw=(side, side),
            statistics=ImageStatistics.SYMMETRIC,
        )

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """The patches and grids that the embeddings are called with."""
        patches = args[0] if args else kwargs.get("pixel_values")
        shapes = args[1] if len(args) > 1 else kwargs.get("spatial_shapes")
        if not isinstance(shapes, Tensor):
            raise CaptureError(f"the embeddings of the {tower.spec} take spatial_shapes, got {type(shapes).__name__}")
        return ImageCall(
            len(shapes), None, None, layout=shapes, patches=patches if isinstance(patches, Tensor) else None
        )

    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Cut images of one size into patches, as the processor does, and run the tower on them."""
        patch = tower.spec.patch_size
        rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
        if pixels.shape[2:] != (rows * patch, columns * patch) or not rows or not columns:
            raise CaptureError(f"the {tower.spec} takes sides that are multiples of {patch}, got {tuple(pixels.shape)}")
        patches = rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        shapes = torch.tensor([[rows, columns]] * len(pixels), device=pixels.device)
        tower.module(patches, mask, shapes)

    def grids(self, frame: RawFrame, tower: Tower) -> list[tuple[int, int]]:
        """`spatial_shapes`, row by row."""
        return [(rows, columns) for rows, columns in self.grid_sizes(frame.call.layout, 2)]

    def unpack(self, raw: Tensor, grids: Sequence[tuple[int, int]], tower: Tower) -> list[Tensor]:
        """The head of every sequence; its tail is padding."""
        return [tokens[: h * w].unflatten(0, (h, w)) for tokens, (h, w) in zip(raw, grids, strict=True)]

    def patch_pixels(self, patches: Tensor, grids: Sequence[tuple[int, int]], tower: Tower) -> list[Tensor]:
        """The processor puts the channels of a pixel side by side."""
        patch = tower.spec.patch_size
        return [
            rearrange(image, "h w (p q c) -> h w c p q", p=patch, q=patch)
            for image in self.unpack(patches, grids, tower)
        ]

    def pooled(self, raw: Tensor, grids: Sequence[tuple[int, int]], tower: Tower) -> Tensor:
        """The pooling head's vector, or the mean of the normalised patches."""
        return super().pooled(raw, grids, tower) if tower.spec.context == "mean" else raw


adapter = Siglip2Adapter()
