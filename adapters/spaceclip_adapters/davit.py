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

from spaceclip_plugin.towers.seen_part import SeenPart, convolved_size
from spaceclip_plugin.towers.spec import RAW_MEAN, ImageCall, RawFrame, Tower, TowerFeatures, TowerSpec
from spaceclip_plugin.towers.token_adapter import IMAGENET, attribute_at, declared_statistics, is_named, is_stack
from spaceclip_plugin.towers.token_reader import convolution_call, known, unexpected

_CLASSES = ("Florence2VisionBackbone", "DaViT")
_USUAL_SIDE = 224


class DavitAdapter:
    """Maps of several widths and strides; the grid of each stage follows from the convolutions before it."""

    name = "davit"

    def find(self, host: nn.Module) -> list[Tower]:
        """Every DaViT in `host`; runs nothing and changes nothing."""
        modules = ((path, module) for path, module in host.named_modules() if is_named(module, _CLASSES))
        return [tower for path, module in modules if (tower := self._read(host, path, module)) is not None]

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """Batch and first grid of the pixels that the first convolution is called with."""
        return convolution_call(tower.entry, args[0] if args else kwargs.get("input"))

    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Run the tower alone on images (B, 3, H, W)."""
        forward = getattr(tower.module, "forward_features_unpool", tower.module)
        forward(pixels)

    def features(self, frame: RawFrame, tower: Tower) -> TowerFeatures:
        """The maps of a captured frame, each of its stage's width and grid, all over the same part of the image."""
        grids = self._grids(known(frame.call.image_hw, "image size"), tower)
        hidden = {
            index: _as_map(f"hidden state {index}", raw, frame, tower, index, grids[index])
            for index, raw in frame.hidden.items()
        }
        context = frame.context
        if context is not None:
            last = tower.spec.blocks
            context = _as_map("the context", context, frame, tower, last, grids[last]).mean(dim=(2, 3))
        image_hw = known(frame.call.image_hw, "image size")
        seen = self.seen(tower, image_hw)
        if seen is not None:
            strides = _strides(tower.module)
            hidden = {index: _continued(one, seen, strides[index]) for index, one in hidden.items()}
        return TowerFeatures(hidden, context, image_hw, seen=seen)

    def seen(self, tower: Tower, image_hw: tuple[int, int]) -> SeenPart | None:
        """The whole strides that the maps of all stages reach over; None where those are the image."""
        strides = _strides(tower.module)
        coarsest, grids = strides[-1], self._grids(image_hw, tower)
        reached = [max(grid[i] * stride for grid, stride in zip(grids, strides, strict=True)) for i in (0, 1)]
        height, width = (-(-side // coarsest) * coarsest for side in reached)
        return SeenPart.of_grid((height, width), image_hw)

    def _grids(self, image_hw: tuple[int, int], tower: Tower) -> list[tuple[int, int]]:
        """The grid of every hidden state, for images of that size."""
        size, grids = image_hw, []
        for convolution, stage in zip(_convolutions(tower.module), _stages(tower.module), strict=True):
            size = convolved_size(convolution, size)
            grids += [size] * len(stage)
        return [grids[0], *grids]

    def _read(self, host: nn.Module, path: str, module: nn.Module) -> Tower | None:
        convolutions, depths = _convolutions(module), [len(stage) for stage in _stages(module)]
        if not convolutions or len(convolutions) != len(depths):
            return None
        widths = [conv.out_channels for conv, depth in zip(convolutions, depths, strict=True) for _ in range(depth)]
        blocks = tuple(block for stage in _stages(module) for block in stage)
        statistics = declared_statistics(host, path) or IMAGENET
        spec = TowerSpec(
            adapter=self.name,
            path=path,
            width=widths[-1],
            blocks=len(blocks),
            patch_size=math.prod(convolution.stride[0] for convolution in convolutions),
            image_hw=(_USUAL_SIDE, _USUAL_SIDE),
            context=RAW_MEAN,
            image_mean=statistics.mean,
            image_std=statistics.std,
            widths=(widths[0], *widths),
        )
        return Tower(spec, self, module, entry=convolutions[0], blocks=blocks, context_source=blocks[-1])


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """The convolution that opens each stage; empty where one is missing."""
    stages = attribute_at(module, "convs")
    found = [attribute_at(stage, "conv") or attribute_at(stage, "proj") for stage in stages] if is_stack(stages) else []
    convolutions = [part for part in found if isinstance(part, nn.Conv2d)]
    return convolutions if len(convolutions) == len(found) else []


def _stages(module: nn.Module) -> list[nn.ModuleList | nn.Sequential]:
    """The blocks of each stage; empty where one is no stack."""
    parts = attribute_at(module, "blocks")
    stages = [stage for stage in parts if is_stack(stage)] if is_stack(parts) else []
    return stages if is_stack(parts) and len(stages) == len(parts) else []


def _strides(module: nn.Module) -> list[int]:
    """Pixels of the image between two cells of every hidden state's grid."""
    stride, strides = 1, []
    for convolution, stage in zip(_convolutions(module), _stages(module), strict=True):
        stride *= convolution.stride[0]
        strides += [stride] * len(stage)
    return [strides[0], *strides]


def _continued(values: Tensor, seen: SeenPart, stride: int) -> Tensor:
    """A map (B, C, h, w), its last rows and columns repeated to the end of the grid of all stages."""
    rows, columns = (round(seen.grid[i + 2]) // stride - values.shape[i + 2] for i in (0, 1))
    return pad(values, (0, columns, 0, rows), mode="replicate") if rows or columns else values


def _as_map(tap: str, raw: Tensor, frame: RawFrame, tower: Tower, index: int, grid_hw: tuple[int, int]) -> Tensor:
    if raw.ndim == 3 and raw.shape[1] == grid_hw[0] * grid_hw[1]:
        raw = rearrange(raw, "b (h w) c -> b c h w", h=grid_hw[0])
    wanted = (frame.call.batch, tower.spec.width_of(index), *grid_hw)
    if tuple(raw.shape) != wanted:
        raise unexpected(tap, raw, str(wanted), tower, "A layout of its own needs an adapter of its own.")
    return raw


adapter = DavitAdapter()
