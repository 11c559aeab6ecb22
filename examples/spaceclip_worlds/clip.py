"""One frame of a clip: what a camera sees at one moment, the truth behind it, and what has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import Intrinsics

FRAME_S = 0.05
"""Seconds between frames: 20 a second."""


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """A frame of a clip.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        depth_m: (H, W) float32 metres along the optical axis at pixel centres, infinite where nothing is.
        moved: (H, W) bool, True where a thing is seen that has moved in the world since the frame before. What came
            into sight because something before it moved away has not.
        intrinsics: of all three.
        camera_to_world: (4, 4) float64 pose in metres: camera axes x right, y down, z forward; world axes z up.
        time_s: seconds since the first frame.
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    moved: npt.NDArray[np.bool_]
    intrinsics: Intrinsics
    camera_to_world: npt.NDArray[np.float64]
    time_s: float
