"""Captured activations into features, for towers that take images of several sizes at once, packed into sequences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.adapter import Adapter
from spaceclip_plugin.towers.spec import RawFrame, Tower, TowerFeatures

Grids = Sequence[tuple[int, int]]


class PackedReader(Adapter):
    """The half of an adapter that reads packed sequences: a subclass says where each image's patches are.

    Images are unpacked into the upper left corner of a grid as large as the largest; cells outside are zero, as a
    convolution pads, and not valid. Such towers take whole patches alone, so that they see all of an image.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.towers import PackedReader
        >>> PackedReader.grid_sizes(torch.tensor([[4, 6], [2, 2]]), columns=2)
        [[4, 6], [2, 2]]
    """

    gives_pixels = False  # unless a subclass knows how a patch is made of pixels, see `patch_pixels`

    @abstractmethod
    def grids(self, frame: RawFrame, tower: Tower) -> list[tuple[int, int]]:
        """The patch grid (h, w) of every image of the call, in order."""

    @abstractmethod
    def unpack(self, raw: Tensor, grids: Grids, tower: Tower) -> list[Tensor]:
        """The patches (h, w, C) of every image, rows and columns as in the image."""

    def patch_pixels(self, patches: Tensor, grids: Grids, tower: Tower) -> list[Tensor]:
        """The patches (h, w, 3, p, p) of every image out of what the tower was given; with `gives_pixels`."""
        raise NotImplementedError

    def pixels(self, frame: RawFrame, tower: Tower) -> Tensor:
        """The images of a frame (B, 3, H, W), each in the upper left corner, zero elsewhere.

        Raises:
            CaptureError: the host wrote over them since, or they are not the images' patches.
        """
        taken, grids = self.taken(frame, tower), self.grids(frame, tower)
        try:
            images = self.patch_pixels(taken, grids, tower)
            return _on_canvas([rearrange(image, "h w c p q -> (h p) (w q) c") for image in images])
        except (RuntimeError, ValueError, IndexError) as error:
            raise tower.unexpected("the image", taken, f"the pixels of grids {grids}", str(error)) from error

    def pooled(self, raw: Tensor, grids: Grids, tower: Tower) -> Tensor:
        """The global vectors (B, C) out of what the context source gave; the mean patch of each image by default."""
        return torch.stack([image.flatten(0, 1).mean(dim=0) for image in self.unpack(raw, grids, tower)])

    def features(self, frame: RawFrame, tower: Tower) -> TowerFeatures:
        """The patch maps and context of a captured frame.

        Raises:
            CaptureError: an activation that is not the images' patches, or a context that is not a vector per image.
        """
        grids = self.grids(frame, tower)
        hidden = {index: self._map(f"hidden state {index}", raw, grids, tower) for index, raw in frame.hidden.items()}
        context = None if frame.context is None else self._context(frame.context, grids, tower)
        patch = tower.spec.patch_size
        sizes = tuple((rows * patch, columns * patch) for rows, columns in grids)
        image_hw = (max(height for height, _ in sizes), max(width for _, width in sizes))
        if len(set(grids)) == 1:
            return TowerFeatures(hidden, context, image_hw)
        like = next(iter(hidden.values()), context)
        device = None if like is None else like.device
        valid = _on_canvas([torch.ones(*grid, 1, dtype=torch.bool, device=device) for grid in grids])[:, 0]
        return TowerFeatures(hidden, context, image_hw, valid, sizes)

    @staticmethod
    def grid_sizes(layout: Tensor | None, columns: int) -> list[list[int]]:
        """The rows of a tensor (B, columns) of grid sizes as integers; a read from the device.

        Raises:
            CaptureError: the call had none, or one of another shape.
        """
        if layout is None or layout.ndim != 2 or len(layout) == 0 or layout.shape[1] != columns:
            given = None if layout is None else tuple(layout.shape)
            raise CaptureError(f"this family's towers are called with grid sizes (B, {columns}), got {given}")
        rows: list[list[int]] = layout.tolist()
        return rows

    def _context(self, raw: Tensor, grids: Grids, tower: Tower) -> Tensor:
        wanted = f"(B={len(grids)}, C={tower.spec.width})"
        try:
            context = self.pooled(raw, grids, tower)
        except (RuntimeError, ValueError, IndexError) as error:
            raise tower.unexpected("the context", raw, wanted, str(error)) from error
        if tuple(context.shape) != (len(grids), tower.spec.width):
            raise tower.unexpected("the context", context, wanted, "The host may pool differently; see its adapter.")
        return context

    def _map(self, tap: str, raw: Tensor, grids: Grids, tower: Tower) -> Tensor:
        try:
            images = self.unpack(raw, grids, tower)
        except (RuntimeError, ValueError, IndexError) as error:
            raise tower.unexpected(tap, raw, f"the patches of grids {grids}", str(error)) from error
        if {image.shape[2] for image in images} != {tower.spec.width}:
            raise tower.unexpected(tap, raw, f"tokens of width {tower.spec.width}", "See the family's adapter.")
        return _on_canvas(images)


def _on_canvas(images: Sequence[Tensor]) -> Tensor:
    """Patch maps (h, w, C) of several sizes as one (B, C, H, W), each in the upper left corner, zero elsewhere."""
    height, width = max(len(image) for image in images), max(image.shape[1] for image in images)
    if all(image.shape[:2] == (height, width) for image in images):
        return torch.stack(list(images)).permute(0, 3, 1, 2)
    canvas = images[0].new_zeros(len(images), height, width, images[0].shape[2])
    for cell, image in zip(canvas, images, strict=True):
        cell[: len(image), : image.shape[1]] = image
    return canvas.permute(0, 3, 1, 2)
