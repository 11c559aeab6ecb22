"""Where the things of a task are, as every source of depth says it of the same looks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from typing_extensions import Self

from spaceclip_plugin import DepthHead, DepthMap, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.depth import Plane, align_to_plane
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import predict
from spaceclip_worlds.metaworld.acting import DepthTask, LookAt, place_of, table_m
from spaceclip_worlds.metaworld.belief import Array
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.sighting import Sighting, fused

TRUE, PREDICTED, STEADY, TABLE, FUSED, RAYS, NONE = "true", "predicted", "steady", "table", "fused", "rays", "none"
SOURCES = (TRUE, PREDICTED, STEADY, TABLE, FUSED, RAYS, NONE)
"""Depth of the first look: exact; by the head; by the head, steadied over all looks, of the last one; and scaled by
where the table is known to be. What all looks together say with that depth, weighed by how far off each may be and in
which direction; what they say without depth, where their rays cross; and depth of an empty table."""
HEAD = "embedded:metaworld-deit-tiny"

_ALONG, _UNKNOWN = 0.05, 100.0  # standard deviation of distance as a share of it: the head's for small things, and none
_ACROSS_PX = 0.5

Places = dict[str, Array]


class Teller(AbstractContextManager["Teller"]):
    """A head on a frozen tower that looks at the beginnings of episodes.

    Attributes:
        head_digest: SHA-256 (hex) of the head's weights.
    """

    def __init__(self, host: nn.Module, head: str | DepthHead = HEAD) -> None:
        """Attach the head.

        Args:
            host: with the tower of the head.
            head: as `attach_depth_head` takes it.

        Raises:
            SpaceClipError: as `attach_depth_head`.
        """
        self._attachment = attach_depth_head(host, head).keep_steady()
        self.head_digest = module_digest(self._attachment.head)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attachment.close()

    def depths(self, looks: Sequence[LookAt]) -> list[DepthMap]:
        """Steady depth of every look, of the size of its picture, with what each look alone says in `steady`."""
        if self._attachment.steady is not None:
            self._attachment.steady.reset()  # the last looks were of another episode
        found = []
        with torch.inference_mode():
            for look in looks:
                self._attachment.place(look.frame.camera_to_world)
                hw = (look.frame.depth_m.shape[0], look.frame.depth_m.shape[1])
                found.append(
                    predict(self._attachment, [look.frame.image], output_hw=hw, intrinsics=look.frame.intrinsics)
                )
        return found


def told(task: DepthTask, looks: Sequence[LookAt], depths: Sequence[DepthMap]) -> dict[str, Places]:
    """Where every one of `SOURCES` puts the places of a task.

    Args:
        task: whose places.
        looks: at the beginning of an episode.
        depths: of the looks, as `Teller.depths` gives them.

    Raises:
        DataError: no pixel of a part has depth.
    """
    alone = [alone_m(depth) for depth in depths]
    scaled = [scaled_by_table(each, look.frame) for each, look in zip(alone, looks, strict=True)]
    first, last = looks[0], looks[-1]
    steady_m = depths[-1].depth_m[0].numpy()
    each = [_places(task, look, depth_m) for look, depth_m in zip(looks, scaled, strict=True)]
    return {
        TRUE: _places(task, first, first.frame.depth_m),
        PREDICTED: _places(task, first, alone[0]),
        STEADY: _places(task, last, steady_m),
        TABLE: each[0],
        FUSED: {slot: _together(looks, each, slot, _ALONG) for slot in task.parts},
        RAYS: {slot: _together(looks, each, slot, _UNKNOWN) for slot in task.parts},
        NONE: _places(task, first, table_m(first.frame)),
    }


def alone_m(depth: DepthMap) -> npt.NDArray[np.float32]:
    """(H, W) what the frame of a steady map says alone."""
    [steady] = depth.steady or ()
    return steady.alone_m[0].numpy()


def scaled_by_table(depth_m: npt.NDArray[np.float32], frame: Frame) -> npt.NDArray[np.float32]:
    """(H, W) depth at the scale at which the table lies where it is; unchanged where that cannot be told."""
    values = torch.from_numpy(depth_m)[None]
    hw = (depth_m.shape[0], depth_m.shape[1])
    depth = DepthMap(values, values > 0.0, camera=None, frame=0, image_hw=hw, trained=True)
    x, y, z = frame.camera_to_world[2, :3].tolist()
    plane = Plane((x, y, z), -float(frame.camera_to_world[2, 3]))
    try:
        scale = align_to_plane(depth, frame.intrinsics, plane=plane).scale
    except DataError:  # too little of it is seen
        return depth_m
    return np.asarray(depth_m * np.float32(scale))


def _places(task: DepthTask, look: LookAt, depth_m: npt.NDArray[np.floating]) -> Places:
    return {slot: place_of(slot, task, look.sights[slot], depth_m) for slot in task.parts}


def _together(looks: Sequence[LookAt], each: Sequence[Places], slot: str, along: float) -> Array:
    """(3,) where all looks together put a place, whose distance each says to within a share `along`."""
    sightings = []
    for look, places in zip(looks, each, strict=True):
        camera_m, across = look.sights[slot].camera_m, _ACROSS_PX / look.frame.intrinsics.fy_px
        sightings.append(Sighting.of_look(camera_m, places[slot], along=along, across=across))
    return fused(sightings).place_m
