"""The SigLIP-like towers of Molmo 2 in transformers and of LeRobot's MolmoAct2: crops cut into patches beforehand.

The patch embedding is a linear layer on packed patches (B, N, p·p·3). MolmoAct2 bypasses the tower's own call; the
patch embedding and the blocks are still called. Every crop has the same square grid. Nothing is pooled or normalised
at the end: the context is the mean patch after the last block. Crops of one value fill up smaller samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.spec import RAW_MEAN, ImageCall, Tower, TowerSpec
from spaceclip_plugin.towers.token_adapter import (
    SYMMETRIC,
    attribute_at,
    declared_statistics,
    is_named,
    is_stack,
    size_at,
)
from spaceclip_plugin.towers.token_reader import TokenReader

_CLASSES = ("Molmo2VisionModel", "MolmoAct2VisionTransformer")
_STACKS = ("layers", "transformer.resblocks")
_PATCH_SIZES = ("config.patch_size", "config.image_patch_size")


class MolmoAdapter(TokenReader):
    """Tokens without prefix; the grid is the tower's own, for packed patches do not tell it."""

    name = "molmo"

    def find(self, host: nn.Module) -> list[Tower]:
        """Every Molmo tower in `host`; runs nothing and changes nothing."""
        modules = ((path, module) for path, module in host.named_modules() if is_named(module, _CLASSES))
        return [tower for path, module in modules if (tower := self._read(host, path, module)) is not None]

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """The crops that the patch embedding is called with."""
        patches = args[0] if args else kwargs.get("input")
        if not isinstance(patches, Tensor) or patches.ndim != 3:
            raise CaptureError(f"the {tower.spec} takes packed patches (B, N, p·p·3)")
        return ImageCall(len(patches), tower.spec.grid_hw, tower.spec.image_hw, patches)

    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Cut images of the tower's size into patches, as the processor does, and run the tower on them."""
        if pixels.shape[2:] != tower.spec.image_hw:
            raise CaptureError(f"the {tower.spec} takes {tower.spec.image_hw} pixels, got {tuple(pixels.shape)}")
        patch = tower.spec.patch_size
        tower.module(rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch))

    def _read(self, host: nn.Module, path: str, module: nn.Module) -> Tower | None:
        embedding = attribute_at(module, "patch_embedding")
        stack = next((part for name in _STACKS if is_stack(part := attribute_at(module, name))), None)
        patch = next((size for name in _PATCH_SIZES if isinstance(size := attribute_at(module, name), int)), None)
        grid = _grid_hw(module)
        if not isinstance(embedding, nn.Linear) or stack is None or patch is None or grid is None:
            return None
        statistics = declared_statistics(host, path) or SYMMETRIC
        spec = TowerSpec(
            adapter=self.name,
            path=path,
            width=embedding.out_features,
            blocks=len(stack),
            patch_size=patch,
            image_hw=(grid[0] * patch, grid[1] * patch),
            context=RAW_MEAN,
            image_mean=statistics.mean,
            image_std=statistics.std,
        )
        return Tower(spec, self, module, entry=embedding, blocks=tuple(stack), context_source=stack[-1])


def _grid_hw(module: nn.Module) -> tuple[int, int] | None:
    """The patch grid of a crop: declared, or else that of the positions."""
    declared = size_at(module, ("config.image_num_patch",))
    positions = attribute_at(module, "config.num_position_embeddings")
    if declared is None and isinstance(positions, int):
        declared = (int(positions**0.5),) * 2
    return declared


adapter = MolmoAdapter()
