"""Depth between the pixels of a depth map: interpolated within a surface, never between two.

Plain bilinear depth hangs points in the air behind objects; plain nearest depth makes stairs of slanted surfaces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

_ONE_SURFACE = 1.05
"""Neighbours that differ by more than this factor are taken to lie on two surfaces."""


def pixel_centres(count: int, extent: float) -> Tensor:
    """(count,) float64 centres of that many pixels along a side of length `extent`, in its unit."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (extent / count)


def within(places: Tensor, first: float | Tensor, last: float | Tensor) -> Tensor:
    """Which places lie in [first, last), bool."""
    return (places >= first) & (places < last)


@dataclass(frozen=True, eq=False)
class AxisPlaces:
    """N places along one axis of a depth map; each field is (N,)."""

    nearest: Tensor  # index of the pixel each lies in
    lower: Tensor  # indices of the pixels whose centres it lies between
    upper: Tensor
    weight: Tensor  # of the upper one, 0 to 1
    shown: Tensor  # bool, whether the depth map shows it at all

    @classmethod
    def at(cls, place_px: Tensor, shown: Tensor, *, count: int, like: Tensor) -> Self:
        """Places in pixels of an axis of that many, as tensors of the device and dtype of `like`."""
        lower = (place_px - 0.5).floor()
        nearest, below, above = (
            index.long().clamp(0, count - 1).to(like.device) for index in (place_px.floor(), lower, lower + 1)
        )
        return cls(nearest, below, above, (place_px - 0.5 - lower).to(like), shown.to(like.device))


@dataclass(frozen=True, eq=False)
class Places:
    """A rectangular grid (H, W) of places in depth maps (B, h, w)."""

    rows: AxisPlaces
    columns: AxisPlaces

    @property
    def shown(self) -> Tensor:
        """(H, W) bool, whether the depth maps show a place at all."""
        return self.rows.shown[:, None] & self.columns.shown

    def nearest(self, values: Tensor) -> Tensor:
        """(B, H, W) values of the pixels the places lie in."""
        return values[:, self.rows.nearest][:, :, self.columns.nearest]

    def bilinear(self, values: Tensor) -> Tensor:
        """(B, H, W) values between the four pixels around each place."""
        rows, columns = self.rows, self.columns
        values = torch.lerp(values[:, rows.lower], values[:, rows.upper], rows.weight[:, None])
        return torch.lerp(values[:, :, columns.lower], values[:, :, columns.upper], columns.weight)

    def either(self, values: Tensor, smooth: Tensor) -> Tensor:
        """(B, H, W) bilinear values where `smooth`, the nearest ones elsewhere."""
        return torch.where(smooth, self.bilinear(values), self.nearest(values))

    def on_one_surface(self, depth_m: Tensor, known: Tensor) -> Tensor:
        """(B, H, W) bool: whether the four pixels around each place are `known` and agree within 5 %."""
        rows, columns = self.rows, self.columns
        far = depth_m.masked_fill(~known, math.inf)
        near = torch.minimum(depth_m[:, rows.lower], depth_m[:, rows.upper])
        far = torch.maximum(far[:, rows.lower], far[:, rows.upper])
        near = torch.minimum(near[:, :, columns.lower], near[:, :, columns.upper])
        far = torch.maximum(far[:, :, columns.lower], far[:, :, columns.upper])
        return far <= _ONE_SURFACE * near
