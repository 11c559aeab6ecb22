"""Depth brought from the tower's pixels to the camera's: within surfaces, never between them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceclip_plugin.depth.camera import Intrinsics, back_project
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.tabletop import random_tabletop


def depth_map(depth_m: Tensor, *, image_hw: tuple[int, int] | None = None, **fields: object) -> DepthMap:
    height, width = depth_m.shape[1:]
    made = DepthMap(depth_m, depth_m > 0, "front", 3, image_hw or (height, width), True)
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


class TestDepth:
    def test_unchanged_where_the_tower_sees_the_camera_image(self) -> None:
        depth = depth_map(torch.rand(2, 6, 9) + 0.5, uncertainty_m=torch.rand(2, 6, 9))
        back = depth.in_camera(ImageMapping.stretched((6, 9), (6, 9)))
        for name in ("depth_m", "valid", "uncertainty_m"):
            assert torch.equal(getattr(back, name), getattr(depth, name)), name
        assert (back.image_hw, back.camera, back.frame) == ((6, 9), "front", 3)

    def test_crop_leaves_the_margins_unknown(self) -> None:
        # 4x10 is shown as its columns 3 to 6.
        mapping = ImageMapping.centre_cropped((4, 10), (4, 4))
        back = depth_map(torch.arange(1.0, 17).reshape(1, 4, 4)).in_camera(mapping)
        assert back.image_hw == (4, 10)
        assert back.valid[0].all(dim=0).tolist() == [False] * 3 + [True] * 4 + [False] * 3
        assert torch.equal(back.depth_m[0, :, 3:7], torch.arange(1.0, 17).reshape(4, 4))
        assert (back.depth_m[~back.valid] == 0).all()

    @pytest.mark.parametrize(("anchor", "top"), [("centre", 3), ("bottom-right", 6), ("top-left", 0)])
    def test_padding_is_unknown_and_left_behind(self, anchor: str, top: int) -> None:
        mapping = ImageMapping.letterboxed((4, 10), (10, 10), anchor=anchor)  # type: ignore[arg-type]
        rows = [top <= row < top + 4 for row in range(10)]
        assert mapping.valid_tower_pixels().all(dim=1).tolist() == rows
        assert mapping.valid_tower_pixels().any(dim=1).tolist() == rows
        depth = torch.full((1, 10, 10), 9.0)
        depth[:, top : top + 4] = torch.tensor([1.0, 1.01, 1.02, 1.03])[:, None]
        back = depth_map(depth).in_camera(mapping)
        assert back.valid.all()
        assert back.depth_m[0, :, 0].tolist() == pytest.approx([1.0, 1.01, 1.02, 1.03])

    def test_padding_does_not_bleed_into_the_borders(self) -> None:
        depth = torch.full((1, 20, 20), 1.03)
        mapping = ImageMapping.letterboxed((8, 40), (20, 20))
        depth[:, 8:12] = 1.0
        assert torch.equal(depth_map(depth).in_camera(mapping).depth_m, torch.ones(1, 8, 40))

    def test_a_mask_of_another_size(self) -> None:
        mapping = ImageMapping.letterboxed((4, 10), (10, 10))
        assert mapping.valid_tower_pixels((5, 5)).any(dim=1).tolist() == [False, True, True, False, False]

    def test_depth_at_another_resolution_than_the_tower(self) -> None:
        """A head's map of 7x7 over a tower image of 28x28, and a result of a chosen size."""
        mapping = ImageMapping.stretched((56, 112), (28, 28))
        coarse = 2.0 ** torch.arange(49.0).reshape(1, 7, 7)
        back = depth_map(coarse, image_hw=(28, 28)).in_camera(mapping, size=(7, 14))
        assert torch.equal(back.depth_m, coarse.repeat_interleave(2, dim=2))
        assert (back.image_hw, tuple(back.depth_m.shape)) == ((56, 112), (1, 7, 14))

    def test_surfaces_are_interpolated_and_edges_are_not(self) -> None:
        depth = torch.tensor([1.0, 1.04, 5.0, 5.2]).expand(1, 4, 4).clone()
        sd = torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(1, 4, 4).clone()
        back = depth_map(depth, uncertainty_m=sd).in_camera(ImageMapping.stretched((4, 8), (4, 4)))
        assert back.depth_m[0, 1].tolist() == pytest.approx([1.0, 1.01, 1.03, 1.04, 5.0, 5.05, 5.15, 5.2])
        assert back.uncertainty_m is not None
        assert back.uncertainty_m[0, 1].tolist() == pytest.approx([0.1, 0.125, 0.175, 0.2, 0.3, 0.325, 0.375, 0.4])

    def test_unknown_neighbours_are_not_mixed_in(self) -> None:
        depth = torch.tensor([1.0, 1.0, 0.99, 1.0]).expand(1, 4, 4).clone()
        known = depth > 0.995
        back = depth_map(depth, valid=known).in_camera(ImageMapping.stretched((4, 8), (4, 4)))
        assert back.valid[0, 0].tolist() == [True] * 4 + [False] * 2 + [True] * 2
        assert (back.depth_m[back.valid] == 1.0).all()

    def test_points_are_those_of_the_camera(self) -> None:
        """A slanted plane survives a letterboxed tower as a plane, where the camera sees it."""
        camera = Intrinsics(60.0, 62.0, 33.0, 20.0, (48, 64))
        mapping = ImageMapping.letterboxed((48, 64), (56, 56), anchor="bottom-right")
        rays = back_project(torch.ones(1, 56, 56), mapping.to_tower(camera))
        normal = torch.tensor([0.1, -0.3, 1.0])
        back = depth_map(2.0 / (rays @ normal)).in_camera(mapping)
        offsets = (back.points(camera) @ normal)[back.valid]
        assert back.valid.all()
        assert (offsets - 2.0).abs().max() < 0.02
        assert (offsets - 2.0).abs().median() < 1e-3

    def test_better_than_nearest_and_than_bilinear(self) -> None:
        """Rendered scenes, whose depth is exact: error of each way, and points that hang in the air."""
        mapping = ImageMapping.stretched((240, 320), (112, 112))
        mean, flying = {}, {}
        for seed in range(3):
            scene = random_tabletop(np.random.default_rng(seed))
            truth = torch.from_numpy(render(scene, (240, 320), shadows=False).depth_m)[None]
            tower = F.interpolate(truth[:, None], size=(112, 112), mode="nearest-exact")[:, 0]
            ways = {
                "ours": depth_map(tower).in_camera(mapping).depth_m,
                "nearest": F.interpolate(tower[:, None], size=(240, 320), mode="nearest-exact")[:, 0],
                "bilinear": F.interpolate(tower[:, None], size=(240, 320), mode="bilinear")[:, 0],
            }
            around = F.unfold(truth[:, None], 7, padding=3).reshape(49, 240, 320)
            for name, depth in ways.items():
                mean[name] = mean.get(name, 0.0) + ((depth - truth).abs() / truth).mean().item() / 3
                far = ((around - depth).abs().amin(dim=0) / truth[0] > 0.05).float().mean().item()
                flying[name] = flying.get(name, 0.0) + far / 3
        assert mean["ours"] < 0.9 * min(mean["nearest"], mean["bilinear"])
        assert flying["ours"] < 1e-4 < 0.005 < flying["bilinear"]

    def test_of_another_image(self) -> None:
        mapping = ImageMapping.letterboxed((48, 64), (56, 56))
        with pytest.raises(ConfigError, match=r"\(56, 56\).*\(28, 28\)"):
            depth_map(torch.ones(1, 56, 56), image_hw=(28, 28)).in_camera(mapping)
        several = depth_map(torch.ones(1, 56, 56), image_sizes=((40, 56),))
        with pytest.raises(ConfigError, match=r"several sizes.*depth\[i\]"):
            several.in_camera(mapping)
        with pytest.raises(ConfigError, match="size must be"):
            depth_map(torch.ones(1, 56, 56)).in_camera(mapping, size=(0, 5))
