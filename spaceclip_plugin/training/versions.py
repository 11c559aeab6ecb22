"""What training takes from a sample: the part of the image that the host sees, and the depth that is known of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.evaluation.protocol import Protocol


def seen_image(sample: DepthSample, protocol: Protocol) -> npt.NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB of the protocol's crop, once the sample is known to be usable.

    Raises:
        DataError: no pixel is known under the protocol, or the image is too small for it; names the sample.
    """
    protocol.check(sample)
    return protocol.input_image(sample)


def known_depth(sample: DepthSample, protocol: Protocol) -> npt.NDArray[np.float32]:
    """(h, w) metres of the protocol's crop; 0 where unknown or outside the protocol's range.

    Beyond the range a sensor gives the range's end: a zoomed view would scale that into it.
    """
    depth_m = protocol.training_target(sample)
    inside = (depth_m > protocol.min_depth_m) & (depth_m < protocol.max_depth_m)
    return np.where(inside, depth_m, np.float32(0))
