"""What a frame alone says goes along with its map: into another camera's metres, over another image."""

from __future__ import annotations

import torch

from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.depth.steadiness import Steadiness

HW = (16, 16)


def steady_map(images: int = 2) -> DepthMap:
    """Depth of 2 m and more, where the frames alone say 3 m and more."""
    depth_m = 2 + torch.rand(images, *HW, generator=torch.Generator().manual_seed(0))
    seen = {"camera": None, "frame": 0, "image_hw": HW, "trained": True}
    told = [Steadiness(one[None] + 1, 2, None, 0.5, 0.0, 0.1) for one in depth_m]
    return DepthMap(depth_m, depth_m > 0, **seen, focal_length=(1.0, 1.0), steady=tuple(told))


def alone_m(depth: DepthMap) -> torch.Tensor:
    return torch.cat([one.alone_m for one in depth.steady])


def test_in_metres_of_another_camera() -> None:
    depth = steady_map()
    longer = depth.with_intrinsics(Intrinsics(32.0, 32.0, 8.0, 8.0, HW))
    torch.testing.assert_close(alone_m(longer), 2 * alone_m(depth))
    torch.testing.assert_close(longer.depth_m, 2 * depth.depth_m)


def test_over_the_cameras_image() -> None:
    mapping = ImageMapping.letterboxed((12, 16), HW)
    over = steady_map().in_camera(mapping)
    torch.testing.assert_close(alone_m(over), over.depth_m + 1)
    assert [one.frames for one in over.steady] == [2, 2]


def test_of_one_image_of_a_batch() -> None:
    depth = steady_map()
    assert torch.equal(alone_m(depth[1]), alone_m(depth)[1:])
