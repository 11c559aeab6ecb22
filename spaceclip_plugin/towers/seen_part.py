"""What part of an image a tower reads, and where its patches lie: SigLIP with patches of 14 reads 378 of 384 pixels.

Places are in pixels of the tower's image, in the corner convention: the centre of the first pixel is at 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from spaceclip_plugin.depth.resampling import AxisPlaces, Places
from spaceclip_plugin.errors import ConfigError

_EXACT = 1e-6  # of a pixel: rounding errors of a float64 at any size of image


@dataclass(frozen=True)
class SeenPart:
    """The part of an image that a tower reads, where that is not all of it, or where its patches do not fill it.

    Attributes:
        image_hw: size of the tower's image, (H, W) pixels.
        grid: (top, left, bottom, right) of the grid of patches, each patch reaching half way to its neighbours; it may
            end inside the image or beyond it.
        seen: (top, left, bottom, right) of the pixels that are read; of the others there is no depth.

    Raises:
        ConfigError: an empty grid, or pixels beyond the image.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.towers import SeenPart
        >>> patches = torch.nn.Conv2d(3, 8, kernel_size=14, stride=14)
        >>> print(SeenPart.of_convolution(patches, (384, 384)))
        rows 0 to 378 of 384 and columns 0 to 378 of 384
    """

    image_hw: tuple[int, int]
    grid: tuple[float, float, float, float]
    seen: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        (height, width), (top, left, bottom, right) = self.image_hw, self.seen
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ConfigError(f"seen is (top, left, bottom, right) inside an image {height}x{width}, got {self.seen}")
        if not (all(map(math.isfinite, self.grid)) and self.grid[0] < self.grid[2] and self.grid[1] < self.grid[3]):
            raise ConfigError(f"grid is (top, left, bottom, right) around some patches, got {self.grid}")

    @classmethod
    def of_convolution(cls, convolution: nn.Conv2d, image_hw: tuple[int, int]) -> SeenPart | None:
        """What a convolution that cuts an image into patches reads of it; None where its patches just fill it.

        A patch lies where its receptive field has its centre. Where fields overlap and the image is padded so that
        strides add up to it, as in hierarchical towers, the grid is taken to fill the image.

        Raises:
            ConfigError: the image is smaller than one patch.
        """
        axes = [_axis(convolution, image_hw[i], i) for i in (0, 1)]
        if all(axis is None for axis in axes):
            return None
        (top, bottom, first_row, last_row), (left, right, first_column, last_column) = (
            (0.0, float(side), 0, side) if axis is None else axis for axis, side in zip(axes, image_hw, strict=True)
        )
        return cls(image_hw, (top, left, bottom, right), (first_row, first_column, last_row, last_column))

    @classmethod
    def of_grid(cls, grid_px: tuple[int, int], image_hw: tuple[int, int]) -> SeenPart | None:
        """That of whole patches from the top left, (height, width) in pixels together; None where they just fill it.

        Of patches that reach beyond the image, the image's own pixels are read.
        """
        if grid_px == image_hw:
            return None
        (height, width), (rows, columns) = image_hw, grid_px
        return cls(image_hw, (0.0, 0.0, float(rows), float(columns)), (0, 0, min(rows, height), min(columns, width)))

    @staticmethod
    def grid_of(convolution: nn.Conv2d, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what a convolution gives for an input of this size."""
        rows, columns = (_count(convolution, side, axis) for axis, side in enumerate(image_hw))
        return rows, columns

    def grid_size(self, output_hw: tuple[int, int]) -> tuple[int, int]:
        """Pixels (h, w) of the grid alone in depth of size `output_hw` over the whole image, rounded up."""
        extents = (self.grid[2] - self.grid[0], self.grid[3] - self.grid[1])
        height, width = (
            max(1, math.ceil(extent * count / side - _EXACT))
            for extent, count, side in zip(extents, output_hw, self.image_hw, strict=True)
        )
        return height, width

    def places(self, output_hw: tuple[int, int], *, grid_hw: tuple[int, int], like: Tensor) -> Places:
        """Where the pixels of a map of size `output_hw` over the whole image lie in one of size `grid_hw` of the grid.

        Places beyond the grid are drawn to its edge. `shown` tells which pixels have their centre in what is seen.
        """
        rows, columns = (self._along(i, output_hw[i], grid_hw[i], like) for i in (0, 1))
        return Places(rows, columns)

    def laid_out(self, values: Tensor, output_hw: tuple[int, int]) -> Tensor:
        """Maps of the grid over the whole image: bilinear between pixel centres, 0 where nothing is seen.

        Args:
            values: (B, h, w) floating point, of the grid alone.
            output_hw: (H, W) of the result.

        Returns:
            (B, H, W), in the dtype of `values`.
        """
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        places = self.places(output_hw, grid_hw=(values.shape[1], values.shape[2]), like=exact)
        return places.bilinear(exact).masked_fill(~places.shown, 0).to(values.dtype)

    def cropped(self, pixels: Tensor) -> Tensor:
        """The pixels (B, C, H, W) of an image that the grid lies over, to the nearest pixel; 0 beyond the image."""
        (height, width), (top, left, bottom, right) = self.image_hw, map(round, self.grid)
        return pad(pixels, (-left, right - width, -top, bottom - height))

    def mask(self, output_hw: tuple[int, int]) -> Tensor:
        """(H, W) bool on the CPU: which pixels of a map over the whole image have their centre in what is seen."""
        return self.places(output_hw, grid_hw=(1, 1), like=torch.empty(0)).shown

    def continued(self, values: Tensor) -> Tensor:
        """(B, H, W) maps over the whole image, with the values at the edge of what is seen where nothing is."""
        mask = self.mask((values.shape[1], values.shape[2]))
        for axis, along in ((1, mask.any(dim=1)), (2, mask.any(dim=0))):
            shown = along.nonzero()
            if len(shown):
                nearest = torch.arange(len(along)).clamp(int(shown[0]), int(shown[-1]))
                values = values.index_select(axis, nearest.to(values.device))
        return values

    def __str__(self) -> str:
        (height, width), (top, left, bottom, right) = self.image_hw, self.seen
        return f"rows {top} to {bottom} of {height} and columns {left} to {right} of {width}"

    def _along(self, axis: int, count: int, cells: int, like: Tensor) -> AxisPlaces:
        start, end = self.grid[axis], self.grid[axis + 2]
        # Made where it is used: a CUDA graph takes no copies from the CPU. MPS has no float64.
        device = torch.device("cpu") if like.device.type == "mps" else like.device
        centres = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (self.image_hw[axis] / count)
        shown = (centres >= self.seen[axis] - _EXACT) & (centres < self.seen[axis + 2] - _EXACT)
        return AxisPlaces.at((centres - start) * (cells / (end - start)), shown, count=cells, like=like)


def _axis(convolution: nn.Conv2d, side: int, axis: int) -> tuple[float, float, int, int] | None:
    """Start and end of the grid, first pixel read and the one after the last; None where patches just fill the side."""
    stride, reach, padding = convolution.stride[axis], _reach(convolution, axis), _padding(convolution, axis)[0]
    count = _count(convolution, side, axis)
    if count < 1:
        raise ConfigError(f"an image of {side} pixels along a side is smaller than a patch of {reach}")
    start = (reach - stride) / 2 - padding
    first, last = max(0, -padding), min(side, (count - 1) * stride - padding + reach)
    fills = (start, start + count * stride) == (0, side)
    overlaps = reach > stride and padding > 0 and count * stride == side
    return None if fills or overlaps else (start, start + count * stride, first, last)


def _count(convolution: nn.Conv2d, side: int, axis: int) -> int:
    """Patches along a side of an image."""
    return (side + sum(_padding(convolution, axis)) - _reach(convolution, axis)) // convolution.stride[axis] + 1


def _reach(convolution: nn.Conv2d, axis: int) -> int:
    """Pixels from the first to the last that one patch is made of."""
    return convolution.dilation[axis] * (convolution.kernel_size[axis] - 1) + 1


def _padding(convolution: nn.Conv2d, axis: int) -> tuple[int, int]:
    """Pixels put before and after the image."""
    padding = convolution.padding
    if isinstance(padding, str):  # "valid", or "same" at a stride of one, with the odd pixel behind
        total = _reach(convolution, axis) - 1 if padding == "same" else 0
        return total // 2, total - total // 2
    return padding[axis], padding[axis]
