"""Where the things of a task are, as every source of depth says it of the same looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
from spaceclip_worlds.metaworld.belief import Array, Sight
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.sighting import Sighting, fused

TRUE, PREDICTED, STEADY, TABLE, FUSED, RAYS, NONE = "true", "predicted", "steady", "table", "fused", "rays", "none"
SOURCES = (TRUE, PREDICTED, STEADY, TABLE, FUSED, RAYS, NONE)
"""Depth of the first look: exact; by the head; by the head, steadied over all looks, of the last one; and scaled by
where the table is known to be. What all looks together say with that depth, each weighed by how far off it may be and
in which direction; what they say without depth, where their rays cross; and depth of an empty table."""
HEAD = "embedded:metaworld-deit-tiny"

_ACROSS_PX = 0.5
_LEAST_SHARE = 0.03  # standard deviation of distance, as a share of it, that no look is taken to be surer than
_UNKNOWN = 100.0  # the same where nothing is known of it
_DOUBTED = 2.0  # standard deviations off where rays cross from which on a look's distance is not believed

Places = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Depths:
    """What a head says of looks, map for map.

    Attributes:
        alone: of each look alone.
        steady: steadied over it and those before it.
    """

    alone: Sequence[DepthMap]
    steady: Sequence[DepthMap]


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

    def depths(self, looks: Sequence[LookAt]) -> Depths:
        """Depth of every look, of the size of its picture."""
        alone = []
        for look in looks:
            self._begin_anew()
            alone.append(self._depth(look))
        self._begin_anew()
        return Depths(alone, [self._depth(look) for look in looks])

    def _begin_anew(self) -> None:
        if self._attachment.steady is not None:
            self._attachment.steady.reset()  # the last looks were of another episode

    def _depth(self, look: LookAt) -> DepthMap:
        hw = (look.frame.depth_m.shape[0], look.frame.depth_m.shape[1])
        with torch.inference_mode():
            self._attachment.place(look.frame.camera_to_world)
            return predict(self._attachment, [look.frame.image], output_hw=hw, intrinsics=look.frame.intrinsics)


def told(task: DepthTask, looks: Sequence[LookAt], depths: Depths) -> dict[str, Places]:
    """Where every one of `SOURCES` puts the places of a task.

    Args:
        task: whose places.
        looks: at the beginning of an episode.
        depths: of the looks, as `Teller.depths` gives them.

    Raises:
        DataError: no pixel of a part has depth.
    """
    alone = [depth.depth_m[0].numpy() for depth in depths.alone]
    first, last, steady_m = looks[0], looks[-1], depths.steady[-1].depth_m[0].numpy()
    scaled = [scaled_by_table(each, look.frame) for each, look in zip(alone, looks, strict=True)]
    each = [_places(task, look, depth_m) for look, depth_m in zip(looks, scaled, strict=True)]
    shares = [
        {slot: _share_of(depth, look.sights[slot]) for slot in task.parts}
        for depth, look in zip(depths.alone, looks, strict=True)
    ]
    return {
        TRUE: _places(task, first, first.frame.depth_m),
        PREDICTED: _places(task, first, alone[0]),
        STEADY: _places(task, last, steady_m),
        TABLE: each[0],
        FUSED: {slot: _together(looks, each, shares, slot).place_m for slot in task.parts},
        RAYS: {slot: _crossing(looks, each, slot).place_m for slot in task.parts},
        NONE: _places(task, first, table_m(first.frame)),
    }


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


def _share_of(depth: DepthMap, sight: Sight) -> float:
    """How unsure of a thing's distance the head says it is, as a share of it."""
    if depth.uncertainty_m is None:
        return _LEAST_SHARE
    shares = (depth.uncertainty_m / depth.depth_m)[0].numpy()[sight.pixels]
    return max(float(np.median(shares)), _LEAST_SHARE)


def _together(
    looks: Sequence[LookAt], each: Sequence[Places], shares: Sequence[Mapping[str, float]], slot: str
) -> Sighting:
    """What all looks say of a place, of its direction and of its distance.

    Looks at one thing err alike, so that together their distances count as one; and a distance that is far from where
    the rays cross is left out, as innovation gates do.
    """
    crossing, sightings = _crossing(looks, each, slot), []
    spread = np.linalg.inv(crossing.information)
    for look, places, share in zip(looks, each, shares, strict=True):
        along = share[slot] * math.sqrt(len(looks))
        camera_m = look.sights[slot].camera_m
        distance_m = float(np.linalg.norm(places[slot] - camera_m))
        ray = (places[slot] - camera_m) / distance_m
        sd_m = math.sqrt(float(ray @ spread @ ray) + (along * distance_m) ** 2)
        believed = abs(float(ray @ (crossing.place_m - places[slot]))) < _DOUBTED * sd_m
        sightings.append(_sighting(look, places[slot], slot, along if believed else _UNKNOWN))
    return fused(sightings)


def _crossing(looks: Sequence[LookAt], each: Sequence[Places], slot: str) -> Sighting:
    """Where the rays of all looks cross, whatever their depth says."""
    return fused([_sighting(look, places[slot], slot, _UNKNOWN) for look, places in zip(looks, each, strict=True)])


def _sighting(look: LookAt, place_m: Array, slot: str, along: float) -> Sighting:
    across = _ACROSS_PX / look.frame.intrinsics.fy_px
    return Sighting.of_look(look.sights[slot].camera_m, place_m, along=along, across=across)
