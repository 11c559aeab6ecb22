"""DaViT, the eye of Florence-2 and X-VLA: four stages of blocks, each with a width and a stride of its own.

Hidden states are numbered through all stages; state i is what block i gave, before the convolution that leads to the
next stage. Blocks work on maps (B, C, h, w) in transformers, and on (tokens, size) in the original code. Nothing is
pooled or normalised at the end: the context is the mean of the last map.

A side that is no multiple of a stage's stride is rounded up by its convolution, so maps of several stages reach beyond
the image by different amounts. They are continued to where the coarsest ends, and `SeenPart` tells where the image is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from spaceclip_plugin.towers import (
    Adapter,
    ImageCall,
    ImageStatistics,
    RawFrame,
    SeenPart,
    Tower,
    TowerFeatures,
    TowerParts,
)

_USUAL_SIDE = 224
_Stack = nn.ModuleList | nn.Sequential


class DavitAdapter(Adapter):
    """Maps of several widths and strides; the grid of each stage follows from the convolutions before it."""

    name = "davit"
    tower_classes = ("Florence2VisionBackbone", "DaViT")

    def parts(self, module: nn.Module) -> TowerParts | None:
        """The convolution that opens each stage, and the blocks of all stages."""
        stages = self._stages(module)
        if not stages:
            return None
        widths = [convolution.out_channels for convolution, blocks in stages for _ in blocks]
        blocks = [block for _, stage in stages for block in stage]
        return TowerParts(
            entry=stages[0][0],
            blocks=blocks,
            context="raw-mean",
            context_source=blocks[-1],
            width=widths[-1],
            patch_size=math.prod(convolution.stride[0] for convolution, _ in stages),
            image_hw=(_USUAL_SIDE, _USUAL_SIDE),
            statistics=ImageStatistics.IMAGENET,
            widths=(widths[0], *widths),
        )

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """Batch and first grid of the pixels that the first convolution is called with."""
        return ImageCall.of_convolution(tower.entry, args[0] if args else kwargs.get("input"))

    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Run the tower alone on images (B, 3, H, W)."""
        forward = getattr(tower.module, "forward_features_unpool", tower.module)
        forward(pixels)

    def features(self, frame: RawFrame, tower: Tower) -> TowerFeatures:
        """The maps of a captured frame, each of its stage's width and grid, all over the same part of the image."""
        _, image_hw = frame.call.sizes()
        grids = self._grids(image_hw, tower)
        hidden = {
            index: _as_map(f"hidden state {index}", raw, frame, tower, index, grids[index])
            for index, raw in frame.hidden.items()
        }
        context = frame.context
        if context is not None:
            last = tower.spec.blocks
            context = _as_map("the context", context, frame, tower, last, grids[last]).mean(dim=(2, 3))
        seen = self.seen(tower, image_hw)
        if seen is not None:
            strides = self._strides(tower)
            hidden = {index: _continued(one, seen, strides[index]) for index, one in hidden.items()}
        return TowerFeatures(hidden, context, image_hw, seen=seen)

    def seen(self, tower: Tower, image_hw: tuple[int, int]) -> SeenPart | None:
        """The whole strides that the maps of all stages reach over; None where those are the image."""
        strides = self._strides(tower)
        coarsest, grids = strides[-1], self._grids(image_hw, tower)
        reached = [max(grid[i] * stride for grid, stride in zip(grids, strides, strict=True)) for i in (0, 1)]
        height, width = (-(-side // coarsest) * coarsest for side in reached)
        return SeenPart.of_grid((height, width), image_hw)

    def _grids(self, image_hw: tuple[int, int], tower: Tower) -> list[tuple[int, int]]:
        """The grid of every hidden state, for images of that size."""
        size, grids = image_hw, []
        for convolution, blocks in self._stages(tower.module):
            size = SeenPart.grid_of(convolution, size)
            grids += [size] * len(blocks)
        return [grids[0], *grids]

    def _strides(self, tower: Tower) -> list[int]:
        """Pixels of the image between two cells of every hidden state's grid."""
        stride, strides = 1, []
        for convolution, blocks in self._stages(tower.module):
            stride *= convolution.stride[0]
            strides += [stride] * len(blocks)
        return [strides[0], *strides]

    def _stages(self, module: nn.Module) -> list[tuple[nn.Conv2d, _Stack]]:
        """The convolution and the blocks of each stage; empty where one is missing."""
        openings, stacks = list(self.stack_at(module, "convs") or ()), list(self.stack_at(module, "blocks") or ())
        convolutions = [self.module_at(part, "conv") or self.module_at(part, "proj") for part in openings]
        stages = [
            (convolution, blocks)
            for convolution, blocks in zip(convolutions, stacks, strict=False)
            if isinstance(convolution, nn.Conv2d) and isinstance(blocks, _Stack) and len(blocks)
        ]
        return stages if len(stages) == len(convolutions) == len(stacks) else []


def _continued(values: Tensor, seen: SeenPart, stride: int) -> Tensor:
    """A map (B, C, h, w), its last rows and columns repeated to the end of the grid of all stages."""
    rows, columns = (round(seen.grid[i + 2]) // stride - values.shape[i + 2] for i in (0, 1))
    return pad(values, (0, columns, 0, rows), mode="replicate") if rows or columns else values


def _as_map(tap: str, raw: Tensor, frame: RawFrame, tower: Tower, index: int, grid_hw: tuple[int, int]) -> Tensor:
    if raw.ndim == 3 and raw.shape[1] == grid_hw[0] * grid_hw[1]:
        raw = rearrange(raw, "b (h w) c -> b c h w", h=grid_hw[0])
    wanted = (frame.call.batch, tower.spec.width_of(index), *grid_hw)
    if tuple(raw.shape) != wanted:
        raise tower.unexpected(tap, raw, str(wanted), "A layout of its own needs an adapter of its own.")
    return raw


adapter = DavitAdapter()
