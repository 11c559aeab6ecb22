"""Scales found again from a known plane and from contacts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from alignment_world import (
    HW,
    SCALES,
    Table,
    depth_map,
    smooth_noise,
    tables,
)

from spaceclip_plugin.depth import Plane, align_to_contacts, align_to_plane
from spaceclip_plugin.depth.camera import Intrinsics, back_project
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError, DataError

__all__ = ["tables"]  # fixture


class TestPlane:
    @pytest.mark.parametrize("scale", SCALES)
    def test_the_table_gives_the_scale(self, tables: list[Table], scale: float) -> None:
        for scene in tables:
            found = align_to_plane(depth_map(scene.depth_m / scale), scene.camera, plane=scene.plane)
            assert found.scale == pytest.approx(scale, rel=1e-5)
            assert found.shift_m == 0
            assert found.inliers >= int(scene.on_table.sum())
            assert found.relative_after < 1e-5

    @pytest.mark.parametrize("scale", SCALES)
    def test_with_smooth_noise(self, tables: list[Table], scale: float) -> None:
        for seed, scene in enumerate(tables):
            predicted = depth_map(scene.depth_m / scale * smooth_noise(seed, HW, 0.05))
            found = align_to_plane(predicted, scene.camera, plane=scene.plane)
            assert found.scale == pytest.approx(scale, rel=0.06)

    def test_a_mask_leaves_out_what_is_not_the_plane(self, tables: list[Table]) -> None:
        """Most of the picture is another surface that agrees with itself; the mask tells them apart."""
        scene = tables[0]
        depth = torch.where(scene.on_table & (torch.arange(HW[1]) < 30), scene.depth_m, scene.depth_m * 1.5)
        masked = align_to_plane(
            depth_map(depth),
            scene.camera,
            plane=scene.plane,
            mask=(torch.arange(HW[1]) < 30).expand(HW) & scene.on_table,
        )
        assert masked.scale == pytest.approx(1.0, rel=1e-5)
        assert masked.inlier_share == 1.0
        assert align_to_plane(depth_map(depth), scene.camera, plane=scene.plane).scale == pytest.approx(
            1 / 1.5, rel=0.01
        )

    def test_two_surfaces_of_one_size_are_not_told_apart(self, tables: list[Table]) -> None:
        scene = tables[0]
        depth = torch.where(torch.arange(HW[1]) % 2 == 0, scene.depth_m, scene.depth_m * 1.5)
        with pytest.raises(DataError, match=r"both bring a surface to the plane.*mask"):
            align_to_plane(depth_map(depth), scene.camera, plane=scene.plane)

    def test_the_normal_may_point_either_way(self, tables: list[Table]) -> None:
        scene = tables[2]
        x, y, z = scene.plane.normal
        turned = Plane((-x, -y, -z), -scene.plane.distance_m)
        depth = depth_map(scene.depth_m * 0.8)
        assert align_to_plane(depth, scene.camera, plane=turned) == align_to_plane(
            depth, scene.camera, plane=scene.plane
        )

    def test_through_a_point(self) -> None:
        plane = Plane.through((1.0, 2.0, 3.0), (0.0, 0.0, -2.0))
        assert plane == Plane((0.0, 0.0, -1.0), -3.0)

    def test_a_wall_in_front(self) -> None:
        """By hand: a wall at 2 m, predicted at 1.6 m, seen by any camera."""
        camera = Intrinsics(50.0, 60.0, 12.0, 9.0, (20, 30))
        found = align_to_plane(depth_map(torch.full((20, 30), 1.6)), camera, plane=Plane((0.0, 0.0, 1.0), 2.0))
        assert (found.scale, found.inliers) == (pytest.approx(1.25), 600)
        assert (found.residual_before_m, found.relative_before) == (pytest.approx(0.4), pytest.approx(0.2))

    def test_pixels_that_graze_it_do_not_count(self) -> None:
        camera = Intrinsics(50.0, 50.0, 15.0, 10.0, (20, 30))
        floor = Plane((0.0, 1.0, 0.0), 0.5)
        rays = back_project(torch.ones(1, 20, 30), camera)[0]
        grazing = rays[..., 1] / rays.norm(dim=-1) <= math.sin(math.radians(5))
        depth = torch.where(grazing, 100.0, 0.5 / rays[..., 1])
        found = align_to_plane(depth_map(depth), camera, plane=floor)
        assert (found.inliers, found.inlier_share) == (int((~grazing).sum()), 1.0)

    def test_refused_where_it_is_not_seen(self, tables: list[Table]) -> None:
        scene = tables[0]
        behind = Plane((0.0, 0.0, 1.0), -1.0)
        with pytest.raises(DataError, match=r"the plane is not seen: 0 of 9408 valid pixels look at it"):
            align_to_plane(depth_map(scene.depth_m), scene.camera, plane=behind)
        nowhere = torch.zeros(HW, dtype=torch.bool)
        nowhere[:7, :7] = True
        with pytest.raises(DataError, match="at least 50 must"):
            align_to_plane(depth_map(scene.depth_m), scene.camera, plane=scene.plane, mask=nowhere)

    def test_refused_where_too_few_pixels_agree(self, tables: list[Table]) -> None:
        scene = tables[0]
        depth = torch.rand(HW, generator=torch.Generator().manual_seed(0)) * 5 + 0.2
        with pytest.raises(DataError, match=r"at no scale do more than .*% of the .*give a mask of the plane"):
            align_to_plane(depth_map(depth), scene.camera, plane=scene.plane)

    def test_masks_of_another_kind(self, tables: list[Table]) -> None:
        scene = tables[0]
        for mask in (torch.ones(HW), torch.ones(HW[1], HW[0], dtype=torch.bool)):
            with pytest.raises(ConfigError, match="mask is bool of shape"):
                align_to_plane(depth_map(scene.depth_m), scene.camera, plane=scene.plane, mask=mask)

    @pytest.mark.parametrize("normal", [(0.0, 0.0, 2.0), (0.0, 0.0, 0.0), (math.nan, 0.0, 1.0)])
    def test_normals(self, normal: tuple[float, float, float]) -> None:
        with pytest.raises(ConfigError, match="normal is three numbers of length 1"):
            Plane(normal, 1.0)

    def test_planes_that_cannot_be(self) -> None:
        for distance_m in (0.0, math.nan, math.inf):
            with pytest.raises(ConfigError, match="finite distance other than 0"):
                Plane((0.0, 0.0, 1.0), distance_m)
        with pytest.raises(ConfigError, match="is a direction"):
            Plane.through((0.0, 0.0, 1.0), (0.0, 0.0, 0.0))


class TestContacts:
    CAMERA = Intrinsics(100.0, 90.0, 60.0, 40.0, HW)

    @pytest.mark.parametrize("scale", SCALES)
    def test_points_of_the_scene_give_the_scale(self, tables: list[Table], scale: float) -> None:
        scene = tables[3]
        points = back_project(scene.depth_m[None], scene.camera)[0]
        touched = points[10::20, 12::25].reshape(-1, 3)
        for camera in (scene.camera, scene.camera.resized((168, 224))):
            found = align_to_contacts(depth_map(scene.depth_m / scale), camera, points_m=touched)
            assert (found.scale, found.inliers) == (pytest.approx(scale, rel=1e-5), len(touched))

    def test_by_hand(self) -> None:
        depth = torch.full(HW, 1.0)
        depth[52, 75] = 2.0  # u = 60 + 100 * 0.3 / 1.9, v = 40 + 90 * 0.27 / 1.9
        found = align_to_contacts(depth_map(depth), self.CAMERA, points_m=torch.tensor([[0.3, 0.27, 1.9]]))
        assert found.scale == pytest.approx(1.9 / 2.0)

    def test_contacts_out_of_view_are_left_out(self) -> None:
        points = torch.tensor([[0.0, 0.0, 1.5], [5.0, 0.0, 1.0], [0.0, -5.0, 1.0]])
        found = align_to_contacts(depth_map(torch.ones(HW)), self.CAMERA, points_m=points)
        assert (found.scale, found.inliers, found.inlier_share) == (pytest.approx(1.5), 1, 1.0)

    def test_a_wrong_contact_among_five(self, tables: list[Table]) -> None:
        scene = tables[0]
        points = back_project(scene.depth_m[None], scene.camera)[0, 40, 10:110:20].clone()
        points[1] *= 1.6  # of the same pixel
        found = align_to_contacts(depth_map(scene.depth_m * 1.2), scene.camera, points_m=points)
        assert (found.scale, found.inliers) == (pytest.approx(1 / 1.2, rel=1e-5), 4)

    def test_refusals(self) -> None:
        depth = depth_map(torch.ones(HW))
        with pytest.raises(DataError, match="1 of 2 points lie behind the camera"):
            align_to_contacts(depth, self.CAMERA, points_m=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]))
        with pytest.raises(DataError, match=r"none of the 1 contact points .* 1 of them beyond the image of 84x112"):
            align_to_contacts(depth, self.CAMERA, points_m=torch.tensor([[5.0, 0.0, 1.0]]))
        with pytest.raises(DataError, match=r"points_m is a tensor \(N, 3\)"):
            align_to_contacts(depth, self.CAMERA, points_m=torch.ones(3))


class TestPadding:
    """A camera of 480x640 in a tower's image of 64x64, whose upper and lower eight rows are padding."""

    MAPPING = ImageMapping.letterboxed((480, 640), (64, 64))
    TOUCHED = torch.tensor([[0.0, (144 - 240) / 500 * 46, 46.0]])  # in the camera's row 144, the tower's 22.4

    def depth(self) -> DepthMap:
        rows = (torch.arange(64.0) + 1)[None, :, None].expand(1, 64, 64)  # 23 m in row 22
        return DepthMap(rows.clone(), torch.ones(1, 64, 64, dtype=torch.bool), None, 0, (64, 64), True)

    @pytest.mark.parametrize(
        "camera",
        [
            Intrinsics(500, 500, 320, 240, (480, 640)),
            Intrinsics(250, 250, 160, 120, (240, 320)),
            [[500.0, 0, 320], [0, 500, 240], [0, 0, 1]],
        ],
    )
    def test_contacts_lie_where_the_camera_saw_them(self, camera: Any) -> None:
        found = align_to_contacts(self.depth().with_mapping(self.MAPPING), camera, points_m=self.TOUCHED)
        assert found.scale == pytest.approx(2.0)

    def test_contacts_and_padding_that_is_not_known(self) -> None:
        camera = Intrinsics(500, 500, 320, 240, (480, 640))
        unmapped = dataclasses.replace(self.depth(), unmapped="the camera is another one; give mapping=")
        with pytest.raises(ConfigError, match="give mapping="):
            align_to_contacts(unmapped, camera, points_m=self.TOUCHED)
        with pytest.raises(ConfigError, match="at any resolution"):
            align_to_contacts(
                self.depth().with_mapping(self.MAPPING),
                Intrinsics(500, 500, 320, 320, (640, 640)),
                points_m=self.TOUCHED,
            )


def test_the_scale_is_that_of_the_map_given_whatever_lens_its_head_assumes() -> None:
    wall = Plane((0.0, 0.0, 1.0), distance_m=0.7)
    camera = Intrinsics(90.0, 90.0, 30.0, 20.0, (40, 60))
    seen = depth_map(torch.full((40, 60), 0.5), focal_length=(1.0, 1.0))
    assert align_to_plane(seen, camera, plane=wall).apply(seen).depth_m.mean() == pytest.approx(0.7)
