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
from spaceclip_plugin.towers.packed_reader import PackedReader, grid_sizes
from spaceclip_plugin.towers.spec import ATTENTION_POOL, MEAN, ImageCall, RawFrame, Tower, TowerSpec
from spaceclip_plugin.towers.token_adapter import SYMMETRIC, attribute_at, declared_statistics, is_named, is_stack

_CLASSES = ("Siglip2VisionTransformer", "Siglip2VisionModel")


class Siglip2Adapter(PackedReader):
    """Sequences with a padded tail; the call's `spatial_shapes` tell the grid of every image."""

    name = "siglip2"

    def find(self, host: nn.Module) -> list[Tower]:
        """Every NaFlex tower in `host`; runs nothing and changes nothing."""
        modules = [(path, module) for path, module in host.named_modules() if is_named(module, _CLASSES)]
        towers = [tower for path, module in modules if (tower := self._read(host, path, module)) is not None]
        # Up to transformers 5.5 the model holds the transformer, and both are named: the outer forwards no attribute.
        return [tower for i, tower in enumerate(towers) if all(tower.entry is not other.entry for other in towers[:i])]

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """The grids that the embeddings are called with."""
        shapes = args[1] if len(args) > 1 else kwargs.get("spatial_shapes")
        if not isinstance(shapes, Tensor):
            raise CaptureError(f"the embeddings of the {tower.spec} take spatial_shapes, got {type(shapes).__name__}")
        return ImageCall(len(shapes), None, None, layout=shapes)

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
        return [(rows, columns) for rows, columns in grid_sizes(frame.call.layout, 2)]

    def unpack(self, raw: Tensor, grids: Sequence[tuple[int, int]], tower: Tower) -> list[Tensor]:
        """The head of every sequence; its tail is padding."""
        return [tokens[: h * w].unflatten(0, (h, w)) for tokens, (h, w) in zip(raw, grids, strict=True)]

    def pooled(self, raw: Tensor, grids: Sequence[tuple[int, int]], tower: Tower) -> Tensor:
        """The pooling head's vector, or the mean of the normalised patches."""
        return super().pooled(raw, grids, tower) if tower.spec.context == MEAN else raw

    def _read(self, host: nn.Module, path: str, module: nn.Module) -> Tower | None:
        embeddings, stack = attribute_at(module, "embeddings"), attribute_at(module, "encoder.layers")
        linear = attribute_at(embeddings, "patch_embedding")
        match attribute_at(module, "config.patch_size"), attribute_at(module, "config.num_patches"):
            case int(patch), int(patches):
                side = patch * int(patches**0.5)
            case _:
                return None
        if not isinstance(embeddings, nn.Module) or not is_stack(stack) or not isinstance(linear, nn.Linear):
            return None
        head, norm = attribute_at(module, "head"), attribute_at(module, "post_layernorm")
        source = head if isinstance(head, nn.Module) else norm
        statistics = declared_statistics(host, path) or SYMMETRIC
        spec = TowerSpec(
            adapter=self.name,
            path=path,
            width=linear.out_features,
            blocks=len(stack),
            patch_size=patch,
            image_hw=(side, side),
            context=ATTENTION_POOL if isinstance(head, nn.Module) else MEAN,
            image_mean=statistics.mean,
            image_std=statistics.std,
        )
        return Tower(spec, self, module, embeddings, tuple(stack), source if isinstance(source, nn.Module) else None)


adapter = Siglip2Adapter()
