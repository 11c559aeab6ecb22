"""A running scale: evidence moves it as far as it is worth, wrong evidence not at all, and it grows old."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from alignment_world import HW, Table, at, depth_map, random_pixels, smooth_noise, tables, wrong
from torch import Tensor

from spaceclip_plugin.depth import (
    CameraHeight,
    Contacts,
    DepthMap,
    Intrinsics,
    KnownObject,
    Plane,
    PlaneSeen,
    Ranges,
    ScaleFilter,
    back_project,
)
from spaceclip_plugin.errors import ConfigError, DataError

__all__ = ["tables"]  # fixture

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


class TestWeight:
    def test_without_evidence_depth_is_what_it_was(self) -> None:
        depth = depth_map(torch.rand(8, 8) + 1, uncertainty_m=torch.full((1, 8, 8), 0.4))
        scale = ScaleFilter()
        assert (scale.scale, scale.log_sd) == (1.0, 0.14)
        same = scale.apply(depth)
        assert torch.equal(same.depth_m, depth.depth_m)
        torch.testing.assert_close(same.uncertainty_m, depth.uncertainty_m)

    def test_one_range_counts_by_the_head_s_own_errors(self) -> None:
        """The posterior of a scale of 0.14 from one reading of sd (0.23, 0.01), by Bayes."""
        scale = kriged((FLAT, ONE))
        gain = 0.14**2 / (0.14**2 + 0.23**2 + 0.01**2)
        assert math.log(scale.scale) == pytest.approx(gain * math.log(1.2), rel=1e-6)
        assert scale.log_sd == pytest.approx(0.14 * math.sqrt(1 - gain), rel=1e-6)

    def test_a_surer_pixel_a_better_sensor_and_a_vaguer_prior_move_it_further(self) -> None:
        moved = kriged((FLAT, ONE)).scale
        sure = depth_map(FLAT.depth_m[0], uncertainty_m=torch.full((1, 40, 60), 0.05))
        assert kriged((sure, ONE)).scale > moved
        assert kriged((FLAT, ranges([[10.0, 10.0]], [0.6], sd=0.5))).scale < moved
        assert kriged((FLAT, ONE), prior_sd=0.5).scale > moved

    def test_pixels_apart_tell_more_than_pixels_together(self) -> None:
        apart = kriged((FLAT, ranges([[5.0, 5.0], [55.0, 5.0], [30.0, 35.0]], [0.6] * 3)))
        together = kriged((FLAT, ranges([[5.0, 5.0], [6.0, 5.0], [5.0, 6.0]], [0.6] * 3)))
        assert apart.log_sd < together.log_sd < kriged((FLAT, ONE)).log_sd

    def test_the_same_view_again_and_again_is_one_view(self) -> None:
        once, often = kriged((FLAT, ONE)), kriged(*[(later(FLAT, step), ONE) for step in range(50)])
        assert often.scale == pytest.approx(once.scale, rel=1e-3)
        assert often.log_sd == pytest.approx(once.log_sd, rel=1e-3)

    def test_a_plane_is_not_as_many_pieces_as_it_has_pixels(self) -> None:
        scale = ScaleFilter()
        assert scale.observe(FLAT, PlaneSeen(WALL), intrinsics=CAMERA).used == 2400
        assert 0.03 < scale.log_sd < 0.14

    def test_order_within_a_step_is_no_matter(self) -> None:
        pieces = [ranges([[x, y]], [r]) for x, y, r in ((5.0, 5.0, 0.6), (55.0, 9.0, 0.4), (30.0, 35.0, 0.7))]
        there, back = (kriged(*[(FLAT, one) for one in some]) for some in (pieces, pieces[::-1]))
        assert there.scale == pytest.approx(back.scale, rel=1e-12)

    @pytest.mark.parametrize("true", [0.75, 0.9, 1.1, 1.3])
    def test_every_kind_leads_to_the_true_scale(self, tables: list[Table], true: float) -> None:
        table = tables[0]
        depth = depth_map(table.depth_m / true, uncertainty_m=0.05 * table.depth_m[None] / true)
        uv = random_pixels(3, 20, HW)
        points = back_project(table.depth_m[None], table.camera)[0][uv[:, 1].long(), uv[:, 0].long()]
        for evidence in (
            Ranges(uv, at(table.depth_m, uv)),
            Contacts(points),
            PlaneSeen(table.plane, table.on_table),
        ):
            scale = ScaleFilter(prior_sd=0.3)
            assert scale.observe(depth, evidence, intrinsics=table.camera).used
            assert scale.scale == pytest.approx(true, rel=0.03)
            for near, most in ((True, 0.02), (False, 0.03)):
                found = scale.apply(depth, near_evidence=near).depth_m[0]
                assert ((found - table.depth_m).abs() / table.depth_m).mean() < most

    def test_camera_height(self) -> None:
        rows = torch.arange(40) + 0.5
        z = 1.2 * 50.0 / (rows - 20.0).clamp_min(2.0)
        depth = depth_map(z[:, None].expand(40, 60) / 1.2 * (rows > 22)[:, None])
        scale = ScaleFilter(prior_sd=0.5)
        assert scale.observe(depth, CameraHeight(1.2), intrinsics=CAMERA).used > 900
        assert 1.1 < scale.scale < 1.2

    def test_known_object(self) -> None:
        scale = ScaleFilter()
        mug = KnownObject(((30.0, 10.0), (30.0, 20.0)), size_m=0.12, sd=0.0)  # at 0.6 m
        assert scale.observe(FLAT, mug, intrinsics=CAMERA) == scale.observe(FLAT, ONE)
        assert kriged((FLAT, ranges([[30.0, 15.0]], [0.6], sd=0.0))).scale == pytest.approx(
            kriged_object(mug).scale, rel=1e-6
        )


def kriged_object(known: KnownObject) -> ScaleFilter:
    scale = ScaleFilter()
    scale.observe(FLAT, known, intrinsics=CAMERA)
    return scale


class TestTime:
    def test_evidence_grows_old(self) -> None:
        scale = kriged((FLAT, ONE))
        fresh, old, forgotten = (
            float(scale.apply(later(FLAT, step), near_evidence=False).depth_m[0, 0, 0]) for step in (0, 30, 10_000)
        )
        assert 0.5 < old < fresh
        assert math.log(old / 0.5) == pytest.approx(math.log(fresh / 0.5) / math.e, rel=1e-4)
        assert forgotten == pytest.approx(0.5)
        stays = kriged((FLAT, ONE), memory_steps=math.inf)
        assert believed(stays, 10_000) == pytest.approx(fresh)

    def test_a_changed_scene_is_followed(self) -> None:
        uv = [[5.0, 5.0], [55.0, 5.0], [30.0, 35.0]]
        scale = ScaleFilter()
        for step in range(60):
            view = depth_map(torch.full((40, 60), 0.5 + 0.05 * (step % 7)))
            true = (1.2 if step < 30 else 0.85) * float(view.depth_m[0, 0, 0])
            scale.observe(later(view, step), ranges(uv, [true] * 3))
            if step == 29:
                assert scale.scale > 1.07
        assert scale.scale < 0.95

    def test_reset(self) -> None:
        scale = kriged((FLAT, ONE))
        scale.reset()
        assert (scale.scale, scale.log_sd) == (1.0, 0.14)
        assert scale.observe(depth_map(torch.ones(4, 4), camera="other"), ranges([[1.0, 1.0]], [1.1])).used

    def test_saved_and_restored_it_goes_on_bit_for_bit(self) -> None:
        first = kriged((depth_map(torch.full((40, 60), 0.5), camera="wrist"), ONE))
        second = ScaleFilter()
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        more = depth_map(torch.full((40, 60), 0.45), camera="wrist")
        for scale in (first, second):
            scale.observe(later(more, 5), ranges([[40.0, 30.0]], [0.5]))
        assert (first.scale, first.log_sd) == (second.scale, second.log_sd)
        assert first.state_dict() == second.state_dict()
        with pytest.raises(ConfigError, match="'wrist'"):
            second.apply(FLAT)

    @pytest.mark.parametrize(
        "state",
        [
            {},
            {"camera": None},
            [],
            {"camera": 3, "samples": []},
            {"camera": None, "samples": [[1.0] * 8]},
            {"camera": None, "samples": [[math.nan] * 9]},
            {"camera": None, "samples": [[0.5, 0.5, 0.0, 0.0, 0.2, 0.01, -0.1, 0.0, 0.0]]},
            {"camera": None, "samples": "none"},
            {"camera": None, "samples": [], "extra": 1},
        ],
    )
    def test_states_that_are_none(self, state: Any) -> None:
        scale = kriged((FLAT, ONE))
        before = scale.state_dict()
        with pytest.raises(ConfigError):
            scale.load_state_dict(state)
        assert scale.state_dict() == before


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
        assert scale.observe(FLAT, Contacts(torch.zeros(0, 3)), intrinsics=CAMERA).used == 0
        assert scale.scale == 1.0

    def test_points_behind_the_camera(self) -> None:
        points = torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, 0.0]])
        verdict = ScaleFilter().observe(FLAT, Contacts(points), intrinsics=CAMERA)
        assert (verdict.used, verdict.refused) == (0, 2)

    def test_a_plane_that_is_not_seen(self) -> None:
        scale = ScaleFilter()
        behind = scale.observe(FLAT, PlaneSeen(Plane((0.0, 0.0, 1.0), -1.0)), intrinsics=CAMERA)
        no_mask = scale.observe(FLAT, PlaneSeen(WALL, torch.zeros(40, 60).bool()), intrinsics=CAMERA)
        sky = scale.observe(FLAT, CameraHeight(1.0, up=(0.0, 0.0, 1.0)), intrinsics=CAMERA)
        for verdict in (behind, no_mask, sky):
            assert verdict.used == 0
            assert "the plane is not seen" in verdict.reason
        assert scale.scale == 1.0

    def test_nothing_is_valid(self) -> None:
        scale = ScaleFilter()
        blind = depth_map(torch.zeros(40, 60))
        assert scale.observe(blind, ONE).reason == "1 without valid depth"
        assert scale.observe(blind, PlaneSeen(WALL), intrinsics=CAMERA).used == 0
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
            scale.observe(FLAT, PlaneSeen(WALL, torch.ones(4, 4).bool()), intrinsics=CAMERA)
        with pytest.raises(ConfigError, match="intrinsics"):
            scale.observe(FLAT, PlaneSeen(WALL))
        for call in (scale.apply, lambda depth: scale.observe(depth, ONE)):
            with pytest.raises(ConfigError, match="'left'"):
                call(depth_map(torch.ones(40, 60), camera="left"))  # type: ignore[operator]
        with pytest.raises(ConfigError, match="holds 2"):
            scale.apply(two)


class TestNearEvidence:
    def test_near_pixels_of_that_depth_follow_further(self) -> None:
        depth = depth_map(torch.cat([torch.full((40, 30), 1.0), torch.full((40, 30), 3.0)], dim=1))
        scale = kriged((depth, ranges([[15.0, 20.0]], [1.2])))
        factor = (scale.apply(depth).depth_m / depth.depth_m)[0]
        assert 1.1 < float(factor[20, 15]) < 1.2
        assert factor[20, 15] > factor[20, 0] > factor[20, 35] > scale.scale
        whole = scale.apply(depth, near_evidence=False).depth_m / depth.depth_m
        torch.testing.assert_close(whole, torch.full_like(whole, scale.scale))

    def test_only_in_the_image_that_the_evidence_is_about(self) -> None:
        scale = kriged((FLAT, ONE))
        for other in (later(FLAT, 1), dataclasses.replace(FLAT, frame=1)):
            assert len(scale.apply(other).depth_m.unique()) == 1
        assert len(scale.apply(FLAT).depth_m.unique()) > 1

    def test_evidence_about_other_images_of_the_place_does_not_distort_it(self) -> None:
        pixels = [[5.0, 5.0], [55.0, 5.0], [30.0, 35.0]]
        views = [later(depth_map(FLAT.depth_m[0] * 1.06**step), step) for step in range(6)]  # near, and not the same
        metres = [float(view.depth_m[0, 0, 0]) * (0.85, 1.2)[view.step % 2] for view in views]
        scale = kriged(*[(view, ranges(pixels, [far] * 3)) for view, far in zip(views, metres, strict=True)])
        factor = scale.apply(views[-1]).depth_m / views[-1].depth_m
        assert factor.min() > 1.0
        assert factor.max() < 1.2

    def test_a_map_of_many_pixels_is_that_of_few(self) -> None:
        """Work is done in pieces; the pieces fit together."""
        large = depth_map(torch.full((400, 600), 0.5), image_hw=(40, 60))
        small, fine = (kriged((depth, ONE)).apply(depth).depth_m for depth in (FLAT, large))
        torch.testing.assert_close(fine[:, 5::10, 5::10], small, rtol=5e-3, atol=0.0)


class TestUncertainty:
    def test_the_scale_s_part_shrinks_and_local_error_stays(self) -> None:
        depth = depth_map(torch.full((40, 60), 2.0), uncertainty_m=torch.full((1, 40, 60), 0.6))
        uv = random_pixels(1, 30, (40, 60))
        scale = kriged((depth, Ranges(uv, torch.full((30,), 2.2))))
        after = scale.apply(depth)
        assert after.uncertainty_m is not None
        relative = float((after.uncertainty_m / after.depth_m)[0, 0, 0])
        assert relative == pytest.approx(math.sqrt(0.3**2 - 0.14**2 + scale.log_sd**2), rel=1e-4)

    def test_a_vague_prior_shows(self) -> None:
        """What a prior of 0.14 is to a head at home, one of 0.5 is to it in another camera."""
        depth = depth_map(torch.full((40, 60), 2.0), uncertainty_m=torch.full((1, 40, 60), 0.6))
        kept = ScaleFilter(prior_sd=0.5).apply(depth)
        assert kept.uncertainty_m is not None
        assert float(kept.uncertainty_m[0, 0, 0]) == pytest.approx(2.0 * math.sqrt(0.3**2 - 0.14**2 + 0.5**2))


def test_very_many_ranges() -> None:
    uv = torch.rand(1_000_000, 2) * torch.tensor([60.0, 40.0])
    metres = torch.full((1_000_000,), 0.6, dtype=torch.float32)
    scale = ScaleFilter()
    assert scale.observe(FLAT, Ranges(uv, metres, sd=0.0)).used == 1_000_000
    assert 1.05 < scale.scale < 1.2


def test_devices_and_dtypes_of_evidence() -> None:
    uv: Tensor = torch.tensor([[10, 10]])
    exact = kriged((FLAT, ranges([[10.0, 10.0]], [0.5]))).scale
    assert kriged((FLAT, Ranges(uv, torch.tensor([0.5], dtype=torch.float16)))).scale == exact
