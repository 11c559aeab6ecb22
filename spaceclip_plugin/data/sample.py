"""One RGB-D sample, and what every data source is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.depth.camera import Intrinsics


@dataclass(frozen=True, eq=False)
class DepthSample:
    """An image and its metric depth.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        depth_m: (h, w) float32 metres along the optical axis, of the same view, at any resolution; it is compared and
            learnt at its own. 0 where unknown, never NaN.
        name: where it comes from, for messages ("train.txt:12 rgb/00012.jpg").
        intrinsics: of `depth_m`, where known.
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    name: str
    intrinsics: Intrinsics | None = None


class DepthSource(Protocol):
    """Random access to RGB-D samples.

    A source may also have `fingerprint(index)` (see `data/fingerprint.py`) and `units_per_metre` of its integer depth
    maps (see `data/depth_units.py`); those that can leave out bad samples are in `data/selective.py`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> DepthSample:
        """Raises IndexError past the end, and DataError, naming the sample, where it cannot be read."""
        ...
