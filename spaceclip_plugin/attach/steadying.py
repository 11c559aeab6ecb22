"""Steady depth of an attachment: which looks are taken, where its cameras are said to be, what its maps become."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.depth.pose import checked_poses
from spaceclip_plugin.depth.values import is_captured
from spaceclip_plugin.errors import CaptureError, ConfigError, nearest
from spaceclip_plugin.head import DepthHead
from spaceclip_plugin.steady import Look, SteadyDepth

_logger = logging.getLogger(__name__)

Places = Mapping[str | None, Tensor]
"""Of the cameras whose places were told: (B, 4, 4) camera to world, of every image of a call or one of all; under None
those of the only camera."""


class Steadying:
    """What an attachment does for a `SteadyDepth`.

    Attributes:
        steady: what is fed.
        look_tap: hidden state whose tokens are matched: of the head's taps the one in the middle of the tower, where
            tokens tell what they show and still where.
    """

    def __init__(self, steady: SteadyDepth, head: DepthHead, cameras: Sequence[str]) -> None:
        middle = (head.config.blocks or head.taps[-1]) / 2
        self.steady = steady
        self.look_tap = min(head.taps, key=lambda tap: abs(tap - middle))
        self._cameras = tuple(cameras)
        self._places: dict[str | None, Tensor] = {}
        self._warned = False

    def tell(self, places: Any) -> None:
        """Keep where cameras are until the next read; see `DepthAttachment.place`."""
        if not isinstance(places, Mapping):
            if len(self._cameras) > 1:
                raise ConfigError(
                    f"there are {len(self._cameras)} cameras: give their places by name, as {{{self._cameras[0]!r}: …}}"
                )
            places = {self._cameras[0] if self._cameras else None: places}
        for name in places:
            if self._cameras and name not in self._cameras:
                raise ConfigError(f"no camera is called {name!r}{nearest(str(name), self._cameras)}")
        self._places = {name: checked_poses(place) for name, place in places.items() if place is not None}

    def take(self) -> Places:
        """The places that were told since the last read; of the next frames none are known."""
        places, self._places = self._places, {}
        return places

    def applied(self, depth: DepthMap, look: Look | None, places: Places) -> DepthMap:
        """A depth map as all frames of its camera say."""
        if look is None:
            raise CaptureError("the adapter gave no image of the tower to follow; read it unsteadied")
        if is_captured(depth.depth_m.device):
            raise CaptureError(
                "steady depth is kept outside of CUDA graphs: read an attachment that is not steady there"
            )
        if depth.image_sizes is not None:
            if not self._warned:
                self._warned = True
                _logger.warning(
                    "images of several sizes in one call are not followed: their depth is that of each frame alone "
                    "(DepthMap.steady is empty)"
                )
            return depth
        return self.steady.update(depth, look, places.get(depth.camera))
