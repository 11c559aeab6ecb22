"""Depth of a real clip through every host's preprocessing and back, seen again from another frame's camera.

The frames come from a HoloLens, whose poses are its own: a median error of 0.2 % between frames is what the data has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.image_mapping import ImageMapping

pytestmark = pytest.mark.real

CAMERA_HW = (360, 540)
PAIRS = [(first, first + 2) for first in range(0, 42, 6)]
WITHIN = 1.1


@dataclass(frozen=True, eq=False)
class Clip:
    """(N, 1, H, W) metres, 0 where unknown; (N, 4, 4) camera to world."""

    depth_m: Tensor
    poses: Tensor
    camera: Intrinsics


@pytest.fixture(scope="module")
def clip(real_data: Path) -> Clip:
    folder = real_data / "hololens"
    frames = sorted((folder / "depth").glob("*.png"))
    depth = np.stack([np.asarray(Image.open(frame)).astype(np.float32) / 1000 for frame in frames])
    poses = torch.from_numpy(np.loadtxt(folder / "poses.txt").reshape(-1, 4, 4))
    matrix = torch.from_numpy(np.loadtxt(folder / "K.txt"))
    matrix[:2, 2] += 0.5  # if it counts from the first pixel's centre; the errors are the same to 1 % if it does not
    assert depth.shape == (45, *CAMERA_HW)
    return Clip(torch.from_numpy(depth)[:, None], poses, Intrinsics.from_matrix(matrix, CAMERA_HW))


def resized(depth_m: Tensor, hw: tuple[int, int]) -> Tensor:
    return F.interpolate(depth_m, size=hw, mode="nearest-exact")


@dataclass(frozen=True)
class Host:
    """What a host does to an image, done to depth without any mapping, and the mapping that claims to undo it."""

    mapping: ImageMapping
    preprocess: Callable[[Tensor], Tensor]


HOSTS = {
    "stretch": Host(ImageMapping.stretched(CAMERA_HW, (224, 224)), lambda depth: resized(depth, (224, 224))),
    "centre crop": Host(
        ImageMapping.centre_cropped(CAMERA_HW, (224, 224)), lambda depth: resized(depth, (224, 336))[..., 56:280]
    ),
    "centred padding": Host(
        ImageMapping.letterboxed(CAMERA_HW, (224, 224)), lambda depth: F.pad(resized(depth, (149, 224)), (0, 0, 37, 38))
    ),
    "padding left and top": Host(
        ImageMapping.letterboxed(CAMERA_HW, (512, 512), anchor="bottom-right"),
        lambda depth: F.pad(resized(depth, (341, 512)), (0, 0, 171, 0)),
    ),
    "square, then resized": Host(
        ImageMapping.letterboxed(CAMERA_HW, (540, 540)).compose(ImageMapping.stretched((540, 540), (336, 336))),
        lambda depth: resized(F.pad(depth, (0, 0, 90, 90)), (336, 336)),
    ),
    "thumbnail": Host(ImageMapping.stretched(CAMERA_HW, (448, 448)), lambda depth: resized(depth, (448, 448))),
    "tile": Host(
        ImageMapping.letterboxed(CAMERA_HW, (672, 672), rounding="up").tiles((336, 336))[2],
        lambda depth: F.pad(resized(depth, (448, 672)), (0, 0, 112, 112))[..., 336:, :336],
    ),
}


def as_map(depth_m: Tensor) -> DepthMap:
    """(B, 1, H, W), known where positive."""
    height, width = depth_m.shape[-2:]
    return DepthMap(depth_m[:, 0], depth_m[:, 0] > 0, None, 0, (height, width), True)


def reprojection_error(clip: Clip, depth: DepthMap, camera: Intrinsics, pair: tuple[int, int]) -> Tensor:
    """Relative difference between points of frame `pair[0]` and the depth that frame `pair[1]` has where they fall."""
    first, second = pair
    points = depth.points(camera)[0][depth.valid[0]].double()
    move = torch.linalg.inv(clip.poses[second]) @ clip.poses[first]
    seen = points @ move[:3, :3].T + move[:3, 3]
    u, v = (seen @ clip.camera.matrix().T)[:, :2].div(seen[:, 2:]).floor().long().unbind(-1)
    inside = (seen[:, 2] > 0) & (u >= 0) & (u < CAMERA_HW[1]) & (v >= 0) & (v < CAMERA_HW[0])
    there = clip.depth_m[second, 0, v[inside], u[inside]].double()
    known = there > 0
    return ((seen[inside, 2] - there).abs() / there)[known]


def median_error(clip: Clip, see: Callable[[int], DepthMap], camera: Intrinsics) -> float:
    errors = [reprojection_error(clip, see(pair[0]), camera, pair) for pair in PAIRS]
    assert min(len(error) for error in errors) > 5000
    return torch.cat(errors).median().item()


def compared(clip: Clip, host: Host) -> tuple[float, float]:
    """Median errors of raw depth and of depth that went through the host, over the same part of the image."""

    def through_host(frame: int) -> DepthMap:
        return as_map(host.preprocess(clip.depth_m[frame : frame + 1])).in_camera(host.mapping)

    shown = as_map(torch.ones(1, 1, *host.mapping.tower_hw)).in_camera(host.mapping).valid

    def raw(frame: int) -> DepthMap:
        return as_map(clip.depth_m[frame : frame + 1] * shown[:, None])

    return median_error(clip, raw, clip.camera), median_error(clip, through_host, clip.camera)


@pytest.mark.parametrize("name", HOSTS)
def test_depth_comes_back_to_the_camera(clip: Clip, name: str) -> None:
    raw, back = compared(clip, HOSTS[name])
    assert raw < 0.005
    assert back < WITHIN * raw


@pytest.mark.parametrize("name", HOSTS)
def test_points_of_the_tower_with_mapped_intrinsics(clip: Clip, name: str) -> None:
    """Without resampling: the tower's own pixels, with the intrinsics that `to_tower` gives."""
    host = HOSTS[name]
    raw = median_error(clip, lambda frame: as_map(clip.depth_m[frame : frame + 1]), clip.camera)
    camera = host.mapping.to_tower(clip.camera)
    tower = median_error(clip, lambda frame: as_map(host.preprocess(clip.depth_m[frame : frame + 1])), camera)
    assert tower < WITHIN * raw


WRONG = {
    "centred padding forgotten": ("centred padding", ImageMapping.stretched(CAMERA_HW, (224, 224))),
    "padding on the other side": (
        "padding left and top",
        ImageMapping.letterboxed(CAMERA_HW, (512, 512), anchor="top-left"),
    ),
    "centred instead of left and top": ("padding left and top", ImageMapping.letterboxed(CAMERA_HW, (512, 512))),
    "crop forgotten": ("centre crop", ImageMapping.stretched(CAMERA_HW, (224, 224))),
    "stretch taken for a crop": ("stretch", ImageMapping.centre_cropped(CAMERA_HW, (224, 224))),
    "the next tile": ("tile", ImageMapping.letterboxed(CAMERA_HW, (672, 672), rounding="up").tiles((336, 336))[3]),
    "axes swapped": ("stretch", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_mapping_shows(clip: Clip, name: str) -> None:
    host, mapping = HOSTS[WRONG[name][0]], WRONG[name][1]

    def seen(frame: int) -> DepthMap:
        tower = host.preprocess(clip.depth_m[frame : frame + 1])
        if mapping is None:
            return as_map(tower.mT).in_camera(host.mapping)
        return as_map(tower).in_camera(mapping)

    right = median_error(
        clip,
        lambda frame: as_map(host.preprocess(clip.depth_m[frame : frame + 1])).in_camera(host.mapping),
        clip.camera,
    )
    assert median_error(clip, seen, clip.camera) > 3 * right
