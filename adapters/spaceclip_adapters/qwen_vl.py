"""The native-resolution towers of Qwen 2, 2.5 and 3 VL in transformers; Qwen 3's is the eye of GR00T N1.7 too.

All images of a call, and all frames of a video, lie in one sequence (ΣN, C). Patches are ordered so that those merged
into one language token, 2x2, are neighbours; Qwen 2.5 further orders these units by attention window. Both orders
are undone here. Nothing pools: the context is the mean patch of each image after the last block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from spaceclip_adapters.clip import OPENAI_CLIP
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers import ImageCall, ImageStatistics, PackedReader, RawFrame, Tower, TowerParts

_STATISTICS = {
    "Qwen2VisionTransformerPretrainedModel": OPENAI_CLIP,
    "Qwen2_5_VisionTransformerPretrainedModel": OPENAI_CLIP,
    "Qwen3VLVisionModel": ImageStatistics.SYMMETRIC,
    "Qwen3VLMoeVisionModel": ImageStatistics.SYMMETRIC,
}
_USUAL_SIDE = 448


class QwenVLAdapter(PackedReader):
    """One sequence for all images, in merge order, and for Qwen 2.5 in window order."""

    name = "qwen-vl"
    tower_classes = tuple(_STATISTICS)
    gives_pixels = True

    def parts(self, module: nn.Module) -> TowerParts | None:
        """The patch convolution over frames and the blocks; the tower itself is told the grids."""
        blocks, embedding = self.stack_at(module, "blocks"), self.attribute_at(module, "patch_embed.proj")
        if blocks is None or not isinstance(embedding, nn.Conv3d):
            return None
        family = next(cls.__name__ for cls in type(module).__mro__ if cls.__name__ in _STATISTICS)
        return TowerParts(
            entry=module,
            blocks=blocks,
            context="raw-mean",
            context_source=blocks[-1],
            width=embedding.out_channels,
            patch_size=embedding.stride[1],
            image_hw=(_USUAL_SIDE, _USUAL_SIDE),
            statistics=_STATISTICS[family],
        )

    def image_call(self, tower: Tower, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ImageCall:
        """The patches and grids (frames, rows, columns) that the tower is called with."""
        patches = args[0] if args else kwargs.get("hidden_states")
        grids = args[1] if len(args) > 1 else kwargs.get("grid_thw")
        if not isinstance(grids, Tensor):
            raise CaptureError(f"the {tower.spec} takes grid_thw, got {type(grids).__name__}")
        return ImageCall(None, None, None, layout=grids, patches=patches if isinstance(patches, Tensor) else None)

    def run(self, tower: Tower, pixels: Tensor) -> None:
        """Cut images of one size into patches, as the processor does for still images, and run the tower."""
        patch, merge = tower.spec.patch_size, self._merge(tower)
        rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
        whole = (rows // merge * merge * patch, columns // merge * merge * patch)
        if pixels.shape[2:] != whole or 0 in whole:
            raise CaptureError(
                f"the {tower.spec} takes sides that are multiples of {patch * merge}, got {tuple(pixels.shape)}"
            )
        frames = self.attribute_at(tower.module, "config.temporal_patch_size")
        patches = rearrange(pixels, "b c (h m p) (w n q) -> (b h w m n) c p q", m=merge, n=merge, p=patch, q=patch)
        packed = repeat(patches, "n c p q -> n (c t p q)", t=frames)
        tower.module(packed, grid_thw=torch.tensor([[1, rows, columns]] * len(pixels), device=pixels.device))

    def grids(self, frame: RawFrame, tower: Tower) -> list[tuple[int, int]]:
        """`grid_thw`, every frame of a video an image of its own."""
        rows = self.grid_sizes(frame.call.layout, 3)
        return [(height, width) for frames, height, width in rows for _ in range(frames)]

    def unpack(self, raw: Tensor, grids: Sequence[tuple[int, int]], tower: Tower) -> list[Tensor]:
        """Units back from window order, patches back from merge order, images apart."""
        merge = self._merge(tower)
        units = self._units(raw, merge)
        window = self.attribute_at(tower.module, "window_size")
        if isinstance(window, int):
            order = _window_order(grids, merge, window // merge // tower.spec.patch_size)
            if len(order) == len(units):  # else the split below names the sizes
                units = units[torch.argsort(order).to(raw.device)]
        return _images(units, grids, merge)

    def patch_pixels(self, patches: Tensor, grids: Sequence[tuple[int, int]], tower: Tower) -> list[Tensor]:
        """Patches come in merge order, before any window; of the frames that one patch spans, the last is shown."""
        merge, patch = self._merge(tower), tower.spec.patch_size
        images = _images(self._units(patches, merge), grids, merge)
        return [
            rearrange(image, "h w (c t p q) -> h w c t p q", c=3, p=patch, q=patch)[..., -1, :, :] for image in images
        ]

    @staticmethod
    def _units(patches: Tensor, merge: int) -> Tensor:
        """Patches (ΣN, C) as those that become one language token (ΣN/m², m², C)."""
        return patches.reshape(-1, merge * merge, patches.shape[-1])

    def _merge(self, tower: Tower) -> int:
        merge = self.attribute_at(tower.module, "spatial_merge_size")
        return merge if isinstance(merge, int) else 1


def _images(units: Tensor, grids: Sequence[tuple[int, int]], merge: int) -> list[Tensor]:
    """Units (ΣN/m², m², C) in merge order as the patches (h, w, C) of every image."""
    images = torch.split(units, [height * width // merge**2 for height, width in grids])
    return [
        rearrange(image, "(h w) (m n) c -> (h m) (w n) c", h=height // merge, m=merge)
        for image, (height, _) in zip(images, grids, strict=True)
    ]


def _window_order(grids: Sequence[tuple[int, int]], merge: int, side: int) -> Tensor:
    """The order in which Qwen 2.5 feeds merged units to its blocks: image by image, window by window, row by row.

    Args:
        grids: patch grid (h, w) of every image.
        merge: patches along a side of a unit.
        side: units along a side of a window; windows at the right and lower edge may be smaller.
    """
    order, first = [], 0
    for height, width in grids:
        units = torch.arange(first, first + (height // merge) * (width // merge)).reshape(height // merge, -1)
        order += [
            units[y : y + side, x : x + side].reshape(-1)
            for y in range(0, units.shape[0], side)
            for x in range(0, units.shape[1], side)
        ]
        first += units.numel()
    return torch.cat(order)


adapter = QwenVLAdapter()
