"""Scales found again from ranges, with wrong ones among them, and refused where unsettled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from alignment_world import (
    HW,
    SCALES,
    Table,
    at,
    depth_map,
    random_pixels,
    smooth_noise,
    tables,
    wrong,
)
from torch import Tensor

from spaceclip_plugin.data.files.depth_formats import read_depth
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.depth import Plane
from spaceclip_plugin.depth.alignment import Alignment, align_to_contacts, align_to_plane, align_to_ranges
from spaceclip_plugin.depth.camera import Intrinsics, back_project
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.robust_fit import fit_scale_and_shift, largest_cluster
from spaceclip_plugin.errors import ConfigError, DataError

__all__ = ["tables"]  # fixture


class TestRanges:
    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("count", [1, 3, 10, 200])
    def test_exact_ranges_give_the_scale_exactly(self, tables: list[Table], scale: float, count: int) -> None:
        truth = tables[0].depth_m
        uv = random_pixels(count, count, HW)
        found = align_to_ranges(depth_map(truth / scale), uv, ranges_m=at(truth, uv))
        assert found.scale == pytest.approx(scale, rel=1e-5)
        assert (found.shift_m, found.inliers, found.inlier_share) == (0.0, count, 1.0)
        assert found.relative_before == pytest.approx(abs(1 / scale - 1), abs=1e-5)
        assert found.relative_after < 1e-5
        assert found.residual_after_m < 1e-5

    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("seed", range(4))
    def test_two_in_five_wrong(self, tables: list[Table], scale: float, seed: int) -> None:
        truth = tables[seed].depth_m
        uv = random_pixels(seed, 50, HW)
        known = wrong(at(truth, uv), 0.4, seed)
        predicted = depth_map(truth / scale * smooth_noise(seed, HW, 0.03))
        found = align_to_ranges(predicted, uv, ranges_m=known)
        assert found.scale == pytest.approx(scale, rel=0.04)
        assert found.shift_m == 0
        assert 0.6 <= found.inlier_share < 0.75
        error = (found.apply(predicted).depth_m[0] - truth).abs() / truth
        assert error.median() < 0.04

    def test_residuals_are_medians_of_the_inliers(self) -> None:
        predicted = depth_map(torch.tensor([[1.0, 2.0, 4.0, 1.0]]))
        uv = torch.tensor([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [3.5, 0.5]])
        found = align_to_ranges(predicted, uv, ranges_m=torch.tensor([2.0, 4.2, 8.0, 9.0]))
        assert found.scale == pytest.approx(2.0)
        assert (found.inliers, found.inlier_share) == (3, 0.75)
        assert (found.residual_before_m, found.residual_after_m) == (pytest.approx(2.2), pytest.approx(0.0))
        assert (found.relative_before, found.relative_after) == (pytest.approx(0.5), pytest.approx(0.0))

    def test_pixels_are_those_of_the_image_not_of_the_map(self) -> None:
        coarse = depth_map(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), image_hw=(20, 40))
        for (u, v), depth_m in {(19.9, 9.9): 1.0, (20.1, 9.9): 2.0, (19.9, 10.1): 3.0, (39.9, 19.9): 4.0}.items():
            found = align_to_ranges(coarse, torch.tensor([[u, v]]), ranges_m=torch.tensor([6.0]), scale_range=(1, 9))
            assert found.scale == pytest.approx(6.0 / depth_m)

    def test_pixels_without_depth_are_left_out(self) -> None:
        predicted = depth_map(torch.tensor([[1.0, 0.0, 2.0]]))
        uv = torch.tensor([[0.5, 0.5], [1.5, 0.5], [2.99, 0.0]])
        found = align_to_ranges(predicted, uv, ranges_m=torch.tensor([1.5, 9.0, 3.0]))
        assert (found.scale, found.inliers, found.inlier_share) == (pytest.approx(1.5), 2, 1.0)

    @pytest.mark.parametrize("outside", [[3.0, 0.5], [-0.1, 0.5], [0.5, 1.0], [0.5, -0.1]])
    def test_pixels_of_another_image_are_refused(self, outside: list[float]) -> None:
        """Left out quietly, the others would be read in the wrong place."""
        predicted = depth_map(torch.tensor([[1.0, 0.0, 2.0]]))
        uv = torch.tensor([[0.5, 0.5], outside])
        with pytest.raises(DataError, match=r"1 of 2 pixels lie beyond the image of 1x3 \(HxW\)"):
            align_to_ranges(predicted, uv, ranges_m=torch.tensor([1.5, 1.5]))

    def test_the_same_every_time_and_in_any_order(self, tables: list[Table]) -> None:
        truth = tables[1].depth_m
        predicted = depth_map(truth * smooth_noise(1, HW, 0.05))
        uv = random_pixels(9, 40, HW)
        known = wrong(at(truth, uv), 0.3, 9)
        first = align_to_ranges(predicted, uv, ranges_m=known)
        assert align_to_ranges(predicted, uv, ranges_m=known) == first
        assert align_to_ranges(predicted, uv.flip(0), ranges_m=known.flip(0)).scale == pytest.approx(first.scale)


class TestShift:
    @staticmethod
    def evidence(
        scale: float, shift_m: float, *, count: int = 40, share: float = 0.4
    ) -> tuple[DepthMap, Tensor, Tensor]:
        """A row of depths from 0.5 to 5 m, and what is known of them, with 1 % noise and wrong ones."""
        generator = torch.Generator().manual_seed(count)
        predicted = torch.linspace(0.5, 5.0, count, dtype=torch.float64)[torch.randperm(count, generator=generator)]
        noise = 1 + 0.01 * torch.randn(count, generator=generator, dtype=torch.float64)
        known = wrong((scale * predicted + shift_m) * noise, share, 1)
        uv = torch.stack([torch.arange(count) + 0.5, torch.full((count,), 0.5)], dim=-1)
        return depth_map(predicted[None]), uv, known

    @pytest.mark.parametrize(("scale", "shift_m"), [(1.2, 0.3), (0.8, -0.2), (1.0, 0.5)])
    def test_found_where_the_ranges_ask_for_it(self, scale: float, shift_m: float) -> None:
        predicted, uv, known = self.evidence(scale, shift_m)
        found = align_to_ranges(predicted, uv, ranges_m=known)
        assert found.scale == pytest.approx(scale, abs=0.02)
        assert found.shift_m == pytest.approx(shift_m, abs=0.04)
        assert found.relative_after < 0.015

    def test_not_where_a_scale_is_enough(self) -> None:
        for count in (12, 20, 40):
            predicted, uv, known = self.evidence(1.2, 0.0, count=count)
            found = align_to_ranges(predicted, uv, ranges_m=known)
            assert (found.scale, found.shift_m) == (pytest.approx(1.2, rel=0.01), 0.0)

    def test_not_from_a_few_ranges(self) -> None:
        predicted, uv, known = self.evidence(1.2, 0.3, count=11, share=0)
        assert align_to_ranges(predicted, uv, ranges_m=known).shift_m == 0

    def test_not_from_ranges_of_one_distance(self) -> None:
        predicted = depth_map(torch.linspace(1.0, 1.3, 30)[None])
        uv = torch.stack([torch.arange(30) + 0.5, torch.full((30,), 0.5)], dim=-1)
        known = 1.2 * predicted.depth_m[0, 0] + 0.3
        assert align_to_ranges(predicted, uv, ranges_m=known).shift_m == 0
        one = depth_map(torch.ones(1, 30))
        assert align_to_ranges(one, uv, ranges_m=torch.ones(30)).shift_m == 0

    def test_not_where_only_wrong_ranges_are_spread(self) -> None:
        """Ranges of one distance do not become a shift because outliers lie elsewhere."""
        row = torch.cat([torch.full((14,), 2.0), torch.tensor([0.5, 0.6, 4.0, 5.0, 6.0])])
        uv = torch.stack([torch.arange(19) + 0.5, torch.full((19,), 0.5)], dim=-1)
        known = row.clone()
        known[14:] = torch.tensor([3.0, 0.1, 1.0, 9.0, 0.7])
        assert align_to_ranges(depth_map(row[None]), uv, ranges_m=known).shift_m == 0

    def test_a_scale_and_a_shift_from_four_points(self) -> None:
        predicted = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
        fit = fit_scale_and_shift(predicted, 1.2 * predicted + 0.3, 0.25, (0.25, 4.0))
        assert fit is not None
        assert (fit.scale, fit.shift_m) == (pytest.approx(1.2), pytest.approx(0.3))
        assert fit_scale_and_shift(torch.ones(4), torch.ones(4), 0.25, (0.25, 4.0)) is None


UV = torch.tensor([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [3.5, 0.5]])
ROW = depth_map(torch.tensor([[1.0, 2.0, 3.0, 0.0]]))


class TestRefusals:
    def test_nothing_under_the_points(self) -> None:
        with pytest.raises(DataError, match="none of the 2 ranges has valid depth under it"):
            align_to_ranges(ROW, torch.tensor([[3.5, 0.5], [3.9, 0.9]]), ranges_m=torch.ones(2))

    def test_no_majority(self) -> None:
        with pytest.raises(DataError, match="the ranges contradict each other: at most 1 of 2 agree within 25%"):
            align_to_ranges(ROW, UV[:2], ranges_m=torch.tensor([1.0, 4.0]))
        with pytest.raises(DataError, match="at most 1 of 3"):
            align_to_ranges(ROW, UV[:3], ranges_m=torch.tensor([0.5, 2.0, 6.0]))

    @pytest.mark.parametrize(("range_m", "scale"), [(4.1, "4.1"), (0.2, "0.2")])
    def test_a_scale_out_of_range(self, range_m: float, scale: str) -> None:
        with pytest.raises(DataError, match=rf"a scale of {scale}, outside 0.25 to 4.0; check its unit"):
            align_to_ranges(ROW, UV[:1], ranges_m=torch.tensor([range_m]))
        wide = align_to_ranges(ROW, UV[:1], ranges_m=torch.tensor([range_m]), scale_range=(0.1, 5.0))
        assert wide.scale == pytest.approx(range_m)

    def test_plane_and_contacts_out_of_range(self) -> None:
        camera = Intrinsics(50.0, 50.0, 15.0, 10.0, (20, 30))
        with pytest.raises(DataError, match="outside"):
            align_to_plane(depth_map(torch.ones(20, 30)), camera, plane=Plane((0.0, 0.0, 1.0), 5.0))
        with pytest.raises(DataError, match="outside"):
            align_to_contacts(depth_map(torch.ones(20, 30)), camera, points_m=torch.tensor([[0.0, 0.0, 5.0]]))

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_nan(self, bad: float) -> None:
        with pytest.raises(DataError, match="1 of 2 ranges_m are NaN or infinite"):
            align_to_ranges(ROW, UV[:2], ranges_m=torch.tensor([1.0, bad]))
        with pytest.raises(DataError, match="1 of 2 pixels_uv are NaN or infinite"):
            align_to_ranges(ROW, torch.tensor([[0.5, 0.5], [bad, 0.5]]), ranges_m=torch.ones(2))
        with pytest.raises(DataError, match="1 of 1 points_m are NaN or infinite"):
            align_to_contacts(ROW, Intrinsics(1.0, 1.0, 0.0, 0.0, (1, 4)), points_m=torch.tensor([[0.0, bad, 1.0]]))

    @pytest.mark.parametrize("bad", [0.0, -1.0])
    def test_ranges_that_are_not_positive(self, bad: float) -> None:
        with pytest.raises(DataError, match="positive metres along the optical axis"):
            align_to_ranges(ROW, UV[:2], ranges_m=torch.tensor([1.0, bad]))

    def test_shapes(self) -> None:
        with pytest.raises(DataError, match="4 pixels and 3 ranges"):
            align_to_ranges(ROW, UV, ranges_m=torch.ones(3))
        with pytest.raises(DataError, match=r"pixels_uv is a tensor \(N, 2\)"):
            align_to_ranges(ROW, UV.T, ranges_m=torch.ones(4))
        with pytest.raises(DataError, match=r"ranges_m is a tensor \(N,\)"):
            align_to_ranges(ROW, UV, ranges_m=torch.ones(4, 1))
        with pytest.raises(DataError, match=r"N of at least 1"):
            align_to_ranges(ROW, UV[:0], ranges_m=torch.ones(0))

    def test_several_images(self) -> None:
        two = DepthMap(torch.ones(2, 20, 30), torch.ones(2, 20, 30).bool(), None, 0, (20, 30), True)
        camera = Intrinsics(50.0, 50.0, 15.0, 10.0, (20, 30))
        calls: list[Callable[[], object]] = [
            lambda: align_to_ranges(two, UV[:1], ranges_m=torch.ones(1)),
            lambda: align_to_plane(two, camera, plane=Plane((0.0, 0.0, 1.0), 1.0)),
            lambda: align_to_contacts(two, camera, points_m=torch.ones(1, 3)),
        ]
        for call in calls:
            with pytest.raises(ConfigError, match=r"this depth map holds 2; pick one: depth\[i\]"):
                call()

    def test_settings(self) -> None:
        for settings, message in (
            ({"tolerance": 0.0}, "tolerance must be"),
            ({"tolerance": math.nan}, "tolerance must be"),
            ({"scale_range": (1.0, 0.5)}, "scale_range is"),
            ({"scale_range": (0.0, 2.0)}, "scale_range is"),
        ):
            with pytest.raises(ConfigError, match=message):
                align_to_ranges(ROW, UV[:1], ranges_m=torch.ones(1), **settings)  # type: ignore[arg-type]


class TestApply:
    PLAIN = Alignment(1.5, 0.0, 1, 1.0, 0.1, 0.0, 0.1, 0.0)

    def test_depth_and_uncertainty_take_the_scale(self) -> None:
        depth = DepthMap(
            torch.tensor([[[1.0, 2.0]], [[3.0, 9.0]]]),
            torch.tensor([[[True, True]], [[True, False]]]),
            "wrist",
            5,
            (4, 8),
            True,
            uncertainty_m=torch.tensor([[[0.1, 0.2]], [[0.3, 0.4]]]),
        )
        aligned = self.PLAIN.apply(depth)
        assert aligned.depth_m.tolist() == [[[1.5, 3.0]], [[4.5, 13.5]]]
        assert aligned.uncertainty_m is not None
        torch.testing.assert_close(aligned.uncertainty_m, torch.tensor([[[0.15, 0.3]], [[0.45, 0.6]]]))
        assert torch.equal(aligned.valid, depth.valid)
        assert (aligned.camera, aligned.frame, aligned.image_hw) == ("wrist", 5, (4, 8))

    def test_what_a_shift_brings_behind_the_camera_is_unknown(self) -> None:
        shifted = dataclasses.replace(self.PLAIN, shift_m=-1.5).apply(depth_map(torch.tensor([[0.5, 1.0, 2.0]])))
        assert shifted.valid.tolist() == [[[False, True, True]]]
        assert shifted.depth_m.tolist() == [[[0.0, 0.0, 1.5]]]

    @pytest.mark.parametrize("changed", [{"scale": 0.0}, {"scale": -1.0}, {"shift_m": math.nan}, {"scale": math.inf}])
    def test_alignments_that_cannot_be(self, changed: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="positive scale and finite values"):
            dataclasses.replace(self.PLAIN, **changed)


class TestLargestCluster:
    def test_the_fuller_interval_wins_over_the_middle(self) -> None:
        values = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 5.15, 5.2, 9.0])
        assert largest_cluster(values, 0.2).tolist() == [False] * 3 + [True] * 4 + [False]

    def test_of_two_as_full_the_narrower(self) -> None:
        values = torch.tensor([5.0, 5.1, 0.0, 0.3])
        assert largest_cluster(values, 0.2).tolist() == [True, True, False, False]

    def test_one(self) -> None:
        assert largest_cluster(torch.tensor([3.0]), 0.1).tolist() == [True]


@pytest.mark.real
@pytest.mark.parametrize("scale", SCALES)
def test_nyu_depth_from_ten_ranges_of_which_four_are_wrong(real_data: Path, scale: float) -> None:
    source = DepthList(real_data / "nyu" / "val_100.txt")
    for index in (0, 40, 99):
        truth = torch.from_numpy(source[index].depth_m)
        hw = (truth.shape[0], truth.shape[1])
        predicted = depth_map(truth / scale * smooth_noise(index, hw, 0.03))
        uv = random_pixels(index, 10, hw)
        found = align_to_ranges(predicted, uv, ranges_m=wrong(at(truth, uv), 0.4, index))
        assert found.scale == pytest.approx(scale, rel=0.06)
        error = (found.apply(predicted).depth_m[0] - truth).abs() / truth
        assert error.mean() < 0.07


@pytest.mark.real
@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_hololens_depth_from_points_of_it(real_data: Path, scale: float) -> None:
    """Sensor depth with holes."""
    folder = real_data / "hololens"
    matrix = torch.from_numpy(np.loadtxt(folder / "K.txt"))
    camera = Intrinsics.from_matrix(matrix, (360, 540))
    for name in ("00083.png", "00100.png", "00120.png"):
        truth = torch.from_numpy(read_depth(folder / "depth" / name, units_per_metre=1000.0))
        points = back_project(truth[None], camera)[0]
        predicted = depth_map(truth / scale)
        touched = points[40::80, 30::90][truth[40::80, 30::90] > 0]
        assert align_to_contacts(predicted, camera, points_m=touched).scale == pytest.approx(scale, rel=1e-4)
