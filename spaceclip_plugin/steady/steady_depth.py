"""SteadyDepth: depth of a video that does not flicker, from what a tower computes anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spaceclip_plugin._checks import shown
from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.depth.pose import matrices_of_images
from spaceclip_plugin.depth.steadiness import Steadiness
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.steady.fusion import FusedDepth, offset_of, uncertainty_of
from spaceclip_plugin.steady.grid import Cells
from spaceclip_plugin.steady.look import Look
from spaceclip_plugin.steady.scale_belief import ScaleBelief
from spaceclip_plugin.steady.video import CAMERA, CUT, Video, View

FIRST = "the first frame"
NOT_FINITE = "the image holds NaN or infinity"

_Name = tuple[str | None, int]  # of a video: the camera, and which of the images of its image calls


class SteadyDepth:
    """Depth of video: what earlier frames saw of the same surfaces, and what the camera's motion tells of the scale.

    Fused per surface on a grid of 56 cells with the head's own uncertainty, so that edges stay those of the newest
    frame, and nothing is run but a few small operations (no network). Where the camera was is taken from whoever knows
    (kinematics, odometry); else from how the tower's tokens moved. Of each camera, and of each image of a batch, there
    is one video; cameras with known places share what they learn of the scale.

    `DepthAttachment.keep_steady` has every depth map come out steady; or feed one by hand.

    Example:
        Two frames of a camera at rest whose head is of two minds:

        >>> pixels, hidden = torch.randn(1, 3, 224, 224), torch.randn(1, 192, 14, 14)
        >>> steady = SteadyDepth()
        >>> for metres in (2.0, 2.2):
        ...     depth_m = torch.full((1, 224, 224), metres)
        ...     depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(224, 224), trained=True)
        ...     depth = steady.update(depth, Look.of(pixels, hidden))
        ...     print(f"{depth.depth_m[0, 100, 100]:.2f} m,", depth.steady[0].reset or "goes on")
        2.00 m, the first frame
        2.10 m, goes on
    """

    def __init__(self) -> None:
        self._videos: dict[_Name, Video] = {}

    def update(self, depth: DepthMap, look: Look, place: Any = None) -> DepthMap:
        """The depth of a camera's newest image call, as all its frames say; `DepthMap.steady` tells what they did.

        Args:
            depth: as the head gives it; with its `intrinsics`, motion is that of a camera in space.
            look: of the same images.
            place: where the camera was, (4, 4) camera to world, or (B, 4, 4) of each image's: rigid, in metres, of
                camera axes x right, y down, z forward. None: not known. What images contradict is not believed, and
                `Steadiness.doubt` says so.

        Raises:
            ConfigError: images of several sizes, a look of others, or a place that is not rigid.
        """
        if depth.image_sizes is not None or len(look.grey) != len(depth):
            sizes = "several sizes" if depth.image_sizes is not None else f"{len(depth)}, and {len(look.grey)} looks"
            raise ConfigError(f"steady depth is of images of one size with a look of each, got images of {sizes}")
        given = [None] * len(depth) if place is None else matrices_of_images(place, len(depth))
        if len(depth) == 0:
            return depth
        with np.errstate(all="ignore"):  # what is not known may be infinite on the way
            views = zip(View.several(depth, look, given), depth.depth_m[:, None], strict=True)
            done = [self._updated((depth.camera, at), *view) for at, view in enumerate(views)]
        metres, sds, told = zip(*done, strict=True)
        sd_m = None if depth.uncertainty_m is None else _as_map(sds, depth)
        return depth.steadied(_as_map(metres, depth), sd_m, told)

    def reset(self, camera: str | None = None) -> None:
        """Forget a camera's frames, or all cameras': in a new place, or at the beginning of an episode."""
        self._videos = {} if camera is None else {name: one for name, one in self._videos.items() if name[0] != camera}

    def state_dict(self) -> dict[str, Any]:
        """All that is kept, as strings, numbers and tensors by name; `torch.save` keeps it."""
        return {
            "videos": [{"name": name, "index": at, **video.state_dict()} for (name, at), video in self._videos.items()]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, from a `state_dict`.

        Raises:
            ConfigError: it is none; what is kept stays as it was.
        """
        try:
            self._videos = {(one["name"], int(one["index"])): Video.from_state(one) for one in state["videos"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"a state is a SteadyDepth's state_dict(), got {shown(state)} ({error!r})") from error

    def _updated(self, name: _Name, view: View, alone_m: Tensor) -> tuple[Cells, Cells | None, Steadiness]:
        """What an image's depth and its uncertainty become, (H, W) metres each, and what is told of that."""
        video, doubt = self._videos.get(name), None
        if not view.image.is_finite():
            reset: str | None = NOT_FINITE
        elif video is None:
            reset = FIRST
        else:
            reset, doubt = video.go_on(view, self._others(name))
        if video is None or reset is not None:
            # What was learnt of the scale outlives a pause, but not another scene or camera.
            belief = video.belief if video is not None and reset not in (CAMERA, CUT) else None
            video = self._videos[name] = Video.begun(view, belief)
        log_scale, scale_sd = video.scale(view, self._others(name))
        if reset == NOT_FINITE:
            del self._videos[name]
        depth_m = video.fine_m * np.float32(math.exp(-log_scale))
        sd_m = uncertainty_of(view.pixels, depth_m, view.grid, scale_sd)
        change = offset_of(FusedDepth.alone(view.grid), video.whole)
        log_change = 0.0 if change is None else change - log_scale
        return depth_m, sd_m, Steadiness(alone_m, video.frames, reset, video.carried, log_change, scale_sd, doubt)

    def _others(self, name: _Name) -> list[ScaleBelief]:
        """What the other cameras of the same robot have learnt of the scale."""
        return [one.belief for other, one in self._videos.items() if other[0] != name[0] and other[1] == name[1]]


def _as_map(values: Sequence[Cells], depth: DepthMap) -> Tensor:
    """(B, H, W) of an array each, where a map is."""
    stacked = values[0][None] if len(values) == 1 else np.stack(values)
    return torch.from_numpy(stacked).to(depth.depth_m.device)
