"""Parts of an image that count, in pixels of one size or as fractions of any."""

from __future__ import annotations

from dataclasses import dataclass

from spaceclip_plugin.errors import DataError


@dataclass(frozen=True)
class PixelRegion:
    """Rows [top, bottom) and columns [left, right) of an image of exactly `image_hw`."""

    top: int
    bottom: int
    left: int
    right: int
    image_hw: tuple[int, int]

    def slices(self, image_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns; DataError for an image of another size, where the region has no meaning."""
        if image_hw != self.image_hw:
            raise DataError(
                f"this protocol's mask is defined on {self.image_hw[0]}x{self.image_hw[1]} (HxW) images, "
                f"got {image_hw[0]}x{image_hw[1]}; use the original images or a protocol without a fixed size"
            )
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class FractionRegion:
    """Rows [top, bottom) and columns [left, right) as fractions of the image's height and width."""

    top: float
    bottom: float
    left: float
    right: float

    def slices(self, image_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns, each edge rounded down to a pixel as in the published evaluations."""
        height, width = image_hw
        rows = slice(int(self.top * height), int(self.bottom * height))
        return rows, slice(int(self.left * width), int(self.right * width))
