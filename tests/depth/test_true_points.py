"""Points of a scene that is known exactly, through every way in which hosts make their tower's image.

A plane and a ball are rendered ray by ray; the head is one that reads perfectly, as if by its own camera.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.depth.camera import FocalLength

SQUARE_PIXELS = Intrinsics(fx_px=66.0, fy_px=66.0, cx_px=31.0, cy_px=23.0, image_hw=(48, 60))
OBLONG_PIXELS = dataclasses.replace(SQUARE_PIXELS, fx_px=80.0, fy_px=55.0)
NORMAL, OFFSET_M = torch.tensor([0.2, -0.3, 0.9], dtype=torch.float64), 1.8
CENTRE_M, RADIUS_M = torch.tensor([0.1, -0.1, 1.4], dtype=torch.float64), 0.3

HW = (48, 60)
SQUARED = ImageMapping.letterboxed(HW, (60, 60))
MAPPINGS = {
    "whole": ImageMapping.stretched(HW, (96, 120)),
    "padded": ImageMapping.letterboxed(HW, (40, 40)),
    "padded at the left": ImageMapping.letterboxed((60, 48), (40, 40), anchor="bottom-right"),
    "cropped": ImageMapping.centre_cropped(HW, (32, 32)),
    "a crop of a larger one": ImageMapping.centre_cropped(HW, (20, 28), resize_short=24),
    "stretched": ImageMapping.stretched(HW, (40, 40)),
    "padded, then stretched": SQUARED.compose(ImageMapping.stretched((60, 60), (20, 30))),
    **{f"tile {i}": one for i, one in enumerate(ImageMapping.stretched(HW, (96, 120)).tiles((48, 40)))},
}  # fmt: skip
every_mapping = pytest.mark.parametrize("name", MAPPINGS)
every_camera = pytest.mark.parametrize("camera", [SQUARE_PIXELS, OBLONG_PIXELS], ids=["square", "oblong"])


def true_points(camera: Intrinsics, camera_uv: Tensor) -> Tensor:
    """(h, w, 3) metres of what the camera shows at (h, w, 2) pixels of its image, from the rays of K alone."""
    ones = torch.ones_like(camera_uv[..., :1])
    rays = torch.cat([camera_uv, ones], dim=-1) @ torch.linalg.inv(camera.matrix()).T
    plane = OFFSET_M / (rays @ NORMAL)
    # |t ray - centre| = radius, the nearer one
    a, b = rays.square().sum(-1), rays @ CENTRE_M
    root = b.square() - a * (CENTRE_M.square().sum() - RADIUS_M**2)
    ball = torch.where(root > 0, (b - root.clamp_min(0).sqrt()) / a, torch.inf)
    return torch.minimum(plane, ball)[..., None] * rays


def scene(mapping: ImageMapping, camera: Intrinsics, head: FocalLength | None = None) -> tuple[DepthMap, Tensor]:
    """What a perfect head reads, and the points that the tower's pixels show.

    Where no `head` is given its camera's lens is 1.7 times as short as what the tower's image was taken through.
    """
    camera = camera.resized(mapping.camera_hw) if mapping.camera_hw == HW else turned(camera)
    height, width = mapping.tower_hw
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    points = true_points(camera, mapping.camera_pixels(torch.stack([u, v], dim=-1).double()))
    # Tower pixels per unit of x / z and y / z, over the sides of the tower's image.
    longer = (camera.fx_px * mapping.scale_x / width, camera.fy_px * mapping.scale_y / height)
    head = head or (longer[0] / 1.7, longer[1] / 1.7)
    as_read = points[..., 2] / ((longer[0] / head[0]) * (longer[1] / head[1])) ** 0.5
    depth_m = as_read[None].float()
    everywhere = torch.ones_like(depth_m, dtype=torch.bool)
    return DepthMap(
        depth_m, everywhere, None, 0, (height, width), True, focal_length=head, uncertainty_m=0.1 * depth_m
    ), points  # fmt: skip


def turned(camera: Intrinsics) -> Intrinsics:
    """The camera on its side."""
    height, width = camera.image_hw
    return Intrinsics(camera.fy_px, camera.fx_px, camera.cy_px, camera.cx_px, (width, height))


def own(camera: Intrinsics, mapping: ImageMapping) -> Intrinsics:
    return camera if mapping.camera_hw == HW else turned(camera)


@every_camera
@every_mapping
def test_points_are_those_of_the_scene(name: str, camera: Intrinsics) -> None:
    mapping = MAPPINGS[name]
    read, points = scene(mapping, camera)
    camera = own(camera, mapping)
    depth = read.with_mapping(mapping).with_intrinsics(camera)
    shown = mapping.valid_tower_pixels()
    assert torch.equal(depth.valid[0], shown)
    assert int(shown.sum()) > 300
    torch.testing.assert_close(depth.points()[0][shown].double(), points[shown], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(depth.uncertainty_m[0][shown], (0.1 * points[shown][:, 2]).float())
    assert not depth.points()[0][~shown].any()
    twice = camera.resized((2 * mapping.camera_hw[0], 2 * mapping.camera_hw[1]))
    torch.testing.assert_close(read.with_mapping(mapping).points(twice), depth.points(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["stretched", "padded, then stretched"])
def test_a_stretch_the_head_was_not_trained_for_counts_by_its_geometric_mean(name: str) -> None:
    """Of one axis looking nearer than the other no one can tell which is right: `lens_scale` is defined so."""
    mapping = MAPPINGS[name]
    read, points = scene(mapping, SQUARE_PIXELS, head=(1.0, 1.0))
    depth = read.with_mapping(mapping).with_intrinsics(SQUARE_PIXELS)
    shown = depth.valid[0]
    torch.testing.assert_close(depth.points()[0][shown].double(), points[shown], rtol=1e-5, atol=1e-5)


@every_camera
@every_mapping
def test_over_the_cameras_image(name: str, camera: Intrinsics) -> None:
    """Before or after, the way into the camera's image changes neither its lens nor its metres."""
    mapping = MAPPINGS[name]
    read = scene(mapping, camera)[0].with_mapping(mapping)
    camera = own(camera, mapping)
    before, after = read.with_intrinsics(camera).in_camera(), read.in_camera().with_intrinsics(camera)
    torch.testing.assert_close(before.depth_m, after.depth_m)
    torch.testing.assert_close(before.uncertainty_m, after.uncertainty_m)
    for depth in (before, after):
        assert depth.lens == "known"
        assert depth.intrinsics.focal_length == pytest.approx(camera.focal_length)
        assert depth.intrinsics.cx_px == pytest.approx(camera.cx_px)
        assert depth.focal_length == pytest.approx(camera.focal_length)
    points = before.points()[before.valid].double()
    on_plane = (points @ NORMAL - OFFSET_M).abs() < 0.01
    on_ball = ((points - CENTRE_M).norm(dim=1) - RADIUS_M).abs() < 0.03
    assert float((on_plane | on_ball).double().mean()) > 0.9  # all but what lies between pixels of an edge


def test_tiles_of_a_batch_by_hand() -> None:
    tiles = ImageMapping.stretched(HW, (96, 120)).tiles((48, 40))
    head = (1.1, 1.1)
    maps, points = zip(*(scene(tile, SQUARE_PIXELS, head) for tile in tiles), strict=True)
    depth_m = torch.cat([one.depth_m for one in maps])
    batch = DepthMap(depth_m, depth_m > 0, None, 0, (48, 40), True, focal_length=head)
    for one, tile, true in zip(batch, tiles, points, strict=True):
        found = one.with_mapping(tile).with_intrinsics(SQUARE_PIXELS).points()[0]
        torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=1e-5)
