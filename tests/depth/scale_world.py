"""A flat wall half a metre away by its head, and evidence that it is not."""

from __future__ import annotations

import torch
from alignment_world import depth_map

from spaceclip_plugin.depth import DepthMap, Intrinsics, KnownObject, Plane, Ranges, ScaleFilter

CAMERA = Intrinsics(50.0, 50.0, 30.0, 20.0, (40, 60))
FLAT = depth_map(torch.full((40, 60), 0.5))
WALL = Plane((0.0, 0.0, 1.0), distance_m=0.6)


def ranges(uv: list[list[float]], metres: list[float], sd: float = 0.01) -> Ranges:
    return Ranges(torch.tensor(uv).reshape(-1, 2), torch.tensor(metres), sd)


def later(depth: DepthMap, step: int) -> DepthMap:
    """The same depth in another host step."""
    return DepthMap(depth.depth_m, depth.valid, depth.camera, step, depth.image_hw, True, step=step)


def believed(scale: ScaleFilter, step: int) -> float:
    """What the flat depth is in that step, by the scale alone."""
    return float(scale.apply(later(FLAT, step), near_evidence=False).depth_m[0, 0, 0])


def kriged(*evidence: tuple[DepthMap, Ranges], **settings: float) -> ScaleFilter:
    scale = ScaleFilter(**settings)
    for depth, one in evidence:
        assert scale.observe(depth, one).used
    return scale


ONE = ranges([[10.0, 10.0]], [0.6])


def kriged_object(known: KnownObject) -> ScaleFilter:
    scale = ScaleFilter()
    scale.observe(FLAT.with_intrinsics(CAMERA), known)
    return scale
