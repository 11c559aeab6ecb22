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
from spaceclip_plugin.towers import ImageCall, ImageStatistics, RawFrame, TokenReader, Tower, TowerParts

_STACKS = ("layers", "transformer.resblocks")
_PATCH_SIZES = ("config.patch_size", "config.image_patch_size")


class MolmoAdapter(TokenReader):
    """Tokens without prefix; the grid is the tower's own, for packed patches do not tell it."""

    name = "molmo"
    tower_classes = ("Molmo2VisionModel", "MolmoAct2VisionTransformer")

    def parts(self, module: nn.Module) -> TowerParts | None:
        """The linear patch embedding and the blocks; the grid of a crop is declared, or else that of the positions."""
        embedding, blocks = self.attribute_at(module, "patch_embedding"), self.stack_at(module, *_STACKS)
        sizes = (self.attribute_at(module, path) for path in _PATCH_SIZES)
        patch = next((size for size in sizes if isinstance(size, int)), None)
        grid = self.size_at(module, "config.image_num_patch")
        positions = self.attribute_at(module, "config.num_position_embeddings")
        if grid is None and isinstance(positions, int):
            grid = (int(positions**0.5),) * 2
        if not isinstance(embedding, nn.Linear) or blocks is None or patch is None or grid is None:
            return None
        return TowerParts(
            entry=embedding,
            blocks=blocks,
            context="raw-mean",
            context_source=blocks[-1],
            width=embedding.out_features,
            patch_size=patch,
            image_hw=(grid[0] * patch, grid[1] * patch),
            statistics=ImageStatistics.SYMMETRIC,
        )

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """The crops that the patch embedding is called with."""
        patches = args[0] if args else kwargs.get("input")
        if not isinstance(patches, Tensor) or patches.ndim != 3:
            raise CaptureError(f"the {tower.spec} takes packed patches (B, N, p·p·3)")
        return ImageCall(len(patches), tower.spec.grid_hw, tower.spec.image_hw, patches)

    def pixels(self, frame: RawFrame, tower: Tower) -> Tensor:
        """The crops (B, 3, H, W); the processor puts the channels of a pixel side by side."""
        patches, patch, (rows, columns) = self.taken(frame, tower), tower.spec.patch_size, tower.spec.grid_hw
        if tuple(patches.shape[1:]) != (rows * columns, 3 * patch**2):
            wanted = f"(B, {rows * columns}, {3 * patch**2})"
            raise tower.unexpected("the image", patches, wanted, "Use a head that reads no pixels.")
        return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch, q=patch)

    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Cut images of the tower's size into patches, as the processor does, and run the tower on them."""
        if pixels.shape[2:] != tower.spec.image_hw:
            raise CaptureError(f"the {tower.spec} takes {tower.spec.image_hw} pixels, got {tuple(pixels.shape)}")
        patch = tower.spec.patch_size
        tower.module(rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch))


adapter = MolmoAdapter()
