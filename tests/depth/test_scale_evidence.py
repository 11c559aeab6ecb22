"""Evidence that does not fit is refused with its reason and changes nothing; malformed evidence is an error."""

from __future__ import annotations

import math

import pytest
import torch
from alignment_world import HW, Table, at, depth_map, random_pixels, smooth_noise, tables, wrong
from scale_world import CAMERA, FLAT, ONE, WALL, kriged, ranges

from spaceclip_plugin.depth import (
    CameraHeight,
    Contacts,
    DepthMap,
    KnownObject,
    Plane,
    PlaneSeen,
    Ranges,
    ScaleFilter,
)
from spaceclip_plugin.errors import ConfigError, DataError

__all__ = ["tables"]  # fixture


class TestRefusals:
    @pytest.mark.parametrize("metres", [0.6 * 3.281, 60.0, 600.0, 0.6 / 39.4, 0.0006])
    def test_a_wrong_unit(self, metres: float) -> None:
        scale = kriged((FLAT, ONE))
        before = scale.state_dict()
        verdict = scale.observe(FLAT, ranges([[50.0, 30.0]], [metres]))
        assert (verdict.used, verdict.refused) == (0, 1)
        assert "check its unit" in verdict.reason
        assert scale.state_dict() == before

    def test_what_is_refused_by_the_prior_is_taken_by_a_wider_one(self) -> None:
        assert not ScaleFilter().observe(FLAT, ranges([[5.0, 5.0]], [1.5])).used
        assert ScaleFilter(prior_sd=0.7).observe(FLAT, ranges([[5.0, 5.0]], [1.5])).used

    def test_contradictions(self) -> None:
        sure = depth_map(FLAT.depth_m[0], uncertainty_m=torch.full((1, 40, 60), 0.01))
        scale = ScaleFilter()
        verdict = scale.observe(sure, ranges([[5.0, 5.0], [50.0, 30.0]], [0.4, 0.7]))
        assert (verdict.used, verdict.refused, scale.scale) == (0, 2, 1.0)
        assert "more than half" in verdict.reason

    @pytest.mark.parametrize("seed", range(4))
    def test_two_in_five_wrong(self, tables: list[Table], seed: int) -> None:
        truth = tables[seed].depth_m
        predicted = truth / 1.2 * smooth_noise(seed, HW, 0.03)
        uv = random_pixels(seed, 50, HW)
        scale = ScaleFilter()
        verdict = scale.observe(
            depth_map(predicted, uncertainty_m=0.05 * predicted[None]), Ranges(uv, wrong(at(truth, uv), 0.4, seed))
        )
        assert 15 <= verdict.refused <= 20
        assert f"{verdict.refused} far from what the others say" in verdict.reason
        assert scale.scale == pytest.approx(1.2, rel=0.04)

    def test_pieces_that_are_no_measurement_are_left_out_and_counted(self) -> None:
        holed = depth_map(torch.cat([torch.zeros(40, 20), torch.full((40, 40), 0.5)], dim=1))
        uv = [[50.0, 5.0], [50.0, 5.0], [50.0, 5.0], [math.nan, 5.0], [70.0, 5.0], [5.0, 5.0], [30.0, 20.0]]
        metres = [math.nan, -0.6, math.inf, 0.6, 0.6, 0.6, 0.6]
        verdict = (scale := ScaleFilter()).observe(holed, ranges(uv, metres))
        assert (verdict.used, verdict.refused) == (1, 6)
        assert verdict.reason == "4 not finite and positive, 1 beyond the image, 1 without valid depth"
        assert scale.scale == pytest.approx(kriged((holed, ranges([[30.0, 20.0]], [0.6]))).scale)

    def test_nothing_given(self) -> None:
        scale = ScaleFilter()
        assert scale.observe(FLAT, ranges([], [])).reason == "none was given"
        assert scale.observe(FLAT.with_intrinsics(CAMERA), Contacts(torch.zeros(0, 3))).used == 0
        assert scale.scale == 1.0

    def test_points_behind_the_camera(self) -> None:
        points = torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, 0.0]])
        verdict = ScaleFilter().observe(FLAT.with_intrinsics(CAMERA), Contacts(points))
        assert (verdict.used, verdict.refused) == (0, 2)

    def test_a_plane_that_is_not_seen(self) -> None:
        scale = ScaleFilter()
        behind = scale.observe(FLAT.with_intrinsics(CAMERA), PlaneSeen(Plane((0.0, 0.0, 1.0), -1.0)))
        no_mask = scale.observe(FLAT.with_intrinsics(CAMERA), PlaneSeen(WALL, torch.zeros(40, 60).bool()))
        sky = scale.observe(FLAT.with_intrinsics(CAMERA), CameraHeight(1.0, up=(0.0, 0.0, 1.0)))
        for verdict in (behind, no_mask, sky):
            assert verdict.used == 0
            assert "the plane is not seen" in verdict.reason
        assert scale.scale == 1.0

    def test_nothing_is_valid(self) -> None:
        scale = ScaleFilter()
        blind = depth_map(torch.zeros(40, 60))
        assert scale.observe(blind, ONE).reason == "1 without valid depth"
        assert scale.observe(blind.with_intrinsics(CAMERA), PlaneSeen(WALL)).used == 0
        assert scale.apply(blind).depth_m.sum() == 0

    def test_malformed_evidence(self) -> None:
        calls: list[tuple[type[Exception], object]] = [
            (DataError, lambda: Ranges(torch.ones(3, 3), torch.ones(3))),
            (DataError, lambda: Ranges(torch.ones(3, 2), torch.ones(2))),
            (DataError, lambda: Ranges([[1.0, 2.0]], torch.ones(1))),  # type: ignore[arg-type]
            (DataError, lambda: Contacts(torch.ones(3))),
            (ConfigError, lambda: ranges([[1.0, 1.0]], [1.0], sd=-0.1)),
            (ConfigError, lambda: ranges([[1.0, 1.0]], [1.0], sd=math.nan)),
            (ConfigError, lambda: PlaneSeen(WALL, sd=2.0)),
            (ConfigError, lambda: CameraHeight(-1.0)),
            (ConfigError, lambda: CameraHeight(1.0, up=(0.0, 0.0, 0.0))),
            (ConfigError, lambda: KnownObject(((1.0, 1.0), (1.0, 1.0)), 0.1)),
            (ConfigError, lambda: KnownObject(((1.0, 1.0), (2.0, math.nan)), 0.1)),
            (ConfigError, lambda: KnownObject(((1.0, 1.0), (2.0, 1.0)), 0.0)),
            (ConfigError, lambda: ScaleFilter(prior_sd=0.0)),
            (ConfigError, lambda: ScaleFilter(memory_steps=math.nan)),
        ]
        for error, call in calls:
            with pytest.raises(error):
                call()  # type: ignore[operator]

    def test_maps_that_are_not_the_filter_s(self) -> None:
        two = DepthMap(torch.ones(2, 40, 60), torch.ones(2, 40, 60).bool(), None, 0, (40, 60), True)
        scale = kriged((FLAT, ONE))
        with pytest.raises(ConfigError, match="holds 2"):
            scale.observe(two, ONE)
        with pytest.raises(ConfigError, match="evidence is"):
            scale.observe(FLAT, torch.ones(1, 3))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="mask"):
            scale.observe(FLAT.with_intrinsics(CAMERA), PlaneSeen(WALL, torch.ones(4, 4).bool()))
        with pytest.raises(ConfigError, match="the camera of this depth map is not known"):
            scale.observe(FLAT, PlaneSeen(WALL))
        for call in (scale.apply, lambda depth: scale.observe(depth, ONE)):
            with pytest.raises(ConfigError, match="'left'"):
                call(depth_map(torch.ones(40, 60), camera="left"))  # type: ignore[operator]
        with pytest.raises(ConfigError, match="holds 2"):
            scale.apply(two)
