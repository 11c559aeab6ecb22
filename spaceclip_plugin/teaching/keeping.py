"""Which pixels of a teacher's depth are learnt from: not the doubtful ones, and not those of a mask (a gripper)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import _checks
from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.data.files.images import read_rgb
from spaceclip_plugin.data.files.pairs import sizes_agree
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.teaching.shards import TaughtPhoto

KEEP = 0.8
RANGE_M = (0.05, 100.0)


@dataclass(frozen=True)
class Keeping:
    """What is kept of a photo's depth.

    Attributes:
        keep: share of the pixels that the teacher knows: those that both views agree on most.
        range_m: metres beyond which depth is left out.

    Raises:
        ConfigError: a share of nothing, or a range that does not rise.
    """

    keep: float = KEEP
    range_m: tuple[float, float] = RANGE_M

    def __post_init__(self) -> None:
        _checks.real("keep", self.keep, 0.01, 1.0)
        low_m, high_m = _checks.reals("range_m", self.range_m, 1e-6, 1e5, length=2)
        if low_m >= high_m:
            raise ConfigError(f"range_m must rise, got {self.range_m}")
        object.__setattr__(self, "range_m", (low_m, high_m))

    def pixels(self, photo: TaughtPhoto, mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """(H, W) whether a pixel is kept, whatever metres it turns out to have."""
        known: npt.NDArray[np.bool_] = photo.depth > 0
        if mask is not None:
            known = known & ~resized_mask(mask, (known.shape[0], known.shape[1]), photo.name)
        if not known.any():
            return known
        doubt = photo.doubt.astype(np.float32)
        limit = np.quantile(doubt[known], self.keep, method="lower")
        kept: npt.NDArray[np.bool_] = known & (doubt <= limit)
        return kept

    def within(self, depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Whether metres lie in the range."""
        low_m, high_m = self.range_m
        inside: npt.NDArray[np.bool_] = (depth_m >= low_m) & (depth_m <= high_m)
        return inside


def read_mask(path: Path) -> tuple[npt.NDArray[np.bool_], str]:
    """A picture whose bright pixels are left out of every photo, (H, W), and the SHA-256 of what it says.

    Raises:
        DataError: it cannot be read, or leaves out nothing or everything.
    """
    mask: npt.NDArray[np.bool_] = read_rgb(path).max(axis=2) > 127
    if mask.all() or not mask.any():
        what = "everything" if mask.all() else "nothing"
        raise DataError(f"{path}: this mask leaves out {what}; paint white what is not to be learnt, black the rest")
    return mask, sha256_of(f"{mask.shape}", np.packbits(mask).tobytes())


def resized_mask(mask: npt.NDArray[np.bool_], hw: tuple[int, int], name: str) -> npt.NDArray[np.bool_]:
    """The mask at a photo's size; DataError where it is of another shape."""
    if not sizes_agree((mask.shape[0], mask.shape[1]), hw):
        raise DataError(
            f"{name}: the photo is {hw[0]}x{hw[1]} (HxW), and the mask {mask.shape[0]}x{mask.shape[1]}: it is of other "
            "photos"
        )
    rows, columns = (
        ((np.arange(side) + 0.5) * whole / side).astype(np.int64) for side, whole in zip(hw, mask.shape, strict=True)
    )
    resized: npt.NDArray[np.bool_] = mask[rows[:, None], columns]
    return resized
