"""What the numbers of a depth file mean: metres, and which of them stand for unknown depth, 0 in every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

COMMON_UNITS_PER_METRE: dict[float, str] = {
    1: "metres",
    100: "centimetres",
    256: "KITTI",
    1000: "millimetres: NYU, ScanNet, ROS, RealSense D400",
    4000: "RealSense L515, Matterport3D",
    5000: "TUM RGB-D",
    6553.5: "Replica",
    8000: "RealSense SR300",
    10000: "tenths of a millimetre",
}
"""Units in which integer depth is found, and where."""

SATURATED_16 = 65535
BEYOND_M = 1e6  # renderers write this, 1e10 or the largest float for the sky
_SATURATED_M = np.array([SATURATED_16 / units for units in COMMON_UNITS_PER_METRE] + [65504.0], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class StoredDepth:
    """A depth map as its file holds it: not turned, and not yet in metres where the file keeps integers.

    The saturated value is written for whatever lies beyond, by a sensor, a cast or a clipped range: it is unknown, too.
    """

    values: npt.NDArray[Any]  # (H, W), integers in some unit, or metres in floating point
    orientation: int | None = None  # what the file's own EXIF tag says, 1 to 8; None without a tag
    saturated: int | None = None  # the largest integer that the file can hold; None for floating point

    @property
    def hw(self) -> tuple[int, int]:
        """Size as stored."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def in_units(self) -> bool:
        """Whether the values are integers, which need `units_per_metre`."""
        return self.saturated is not None

    def metres(self, units_per_metre: float) -> npt.NDArray[np.float32]:
        """(H, W) float32 metres as stored; 0 where unknown. The unit is that of integers alone."""
        if self.saturated is None:
            return _known_metres(self.values)
        depth_m: npt.NDArray[np.float32] = self.values.astype(np.float32) / np.float32(units_per_metre)
        depth_m[self.values == self.saturated] = 0
        return depth_m


def _known_metres(depth: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Float32, with 0 where a value stands for unknown depth."""
    with np.errstate(over="ignore", invalid="ignore"):
        depth_m = depth.astype(np.float32)
        known = np.isfinite(depth_m) & (depth_m > 0) & (depth_m < BEYOND_M)
    depth_m = np.where(known, depth_m, np.float32(0))
    if depth_m.size:
        # Unknown, too, is the value of saturated integers in a common unit (65.535 m is 65535 mm) or of half precision.
        furthest = depth_m == depth_m.max()
        within = float(np.finfo(np.float16 if depth.dtype == np.float16 else np.float32).eps)  # however it was divided
        saturated = np.isclose(_SATURATED_M, depth_m[furthest][0], rtol=within, atol=0).any()
        if saturated and np.count_nonzero(furthest) > 1:
            depth_m[furthest] = 0
    return depth_m
