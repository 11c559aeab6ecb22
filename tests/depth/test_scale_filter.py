"""A running scale: evidence moves it as far as it is worth, it grows old, and is told by its uncertainty."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, ClassVar

import pytest
import torch
from alignment_world import HW, Table, at, depth_map, random_pixels, tables
from scale_world import CAMERA, FLAT, ONE, WALL, believed, kriged, kriged_object, later, ranges
from torch import Tensor

from spaceclip_plugin.depth import (
    CameraHeight,
    Contacts,
    DepthMap,
    Intrinsics,
    KnownObject,
    PlaneSeen,
    Ranges,
    ScaleFilter,
    back_project,
)
from spaceclip_plugin.depth.strangeness import strange_sd
from spaceclip_plugin.errors import ConfigError

__all__ = ["tables"]  # fixture


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
        assert scale.observe(FLAT.with_intrinsics(CAMERA), PlaneSeen(WALL)).used == 2400
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
            assert scale.observe(depth.with_intrinsics(table.camera), evidence).used
            assert scale.scale == pytest.approx(true, rel=0.03)
            for near, most in ((True, 0.02), (False, 0.03)):
                found = scale.apply(depth, near_evidence=near).depth_m[0]
                assert ((found - table.depth_m).abs() / table.depth_m).mean() < most

    def test_camera_height(self) -> None:
        rows = torch.arange(40) + 0.5
        z = 1.2 * 50.0 / (rows - 20.0).clamp_min(2.0)
        depth = depth_map(z[:, None].expand(40, 60) / 1.2 * (rows > 22)[:, None])
        scale = ScaleFilter(prior_sd=0.5)
        assert scale.observe(depth.with_intrinsics(CAMERA), CameraHeight(1.2)).used > 900
        assert 1.1 < scale.scale < 1.2

    def test_known_object(self) -> None:
        scale = ScaleFilter()
        mug = KnownObject(((30.0, 10.0), (30.0, 20.0)), size_m=0.12, sd=0.0)  # at 0.6 m
        assert scale.observe(FLAT.with_intrinsics(CAMERA), mug) == scale.observe(FLAT, ONE)
        assert kriged((FLAT, ranges([[30.0, 15.0]], [0.6], sd=0.0))).scale == pytest.approx(
            kriged_object(mug).scale, rel=1e-6
        )


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
            {"camera": 3, "lens": "unknown", "samples": []},
            {"camera": None, "lens": "telescope", "samples": []},
            {"camera": None, "lens": "unknown", "samples": [[1.0] * 8]},
            {"camera": None, "lens": "unknown", "samples": [[math.nan] * 9]},
            {"camera": None, "lens": "unknown", "samples": [[0.5, 0.5, 0.0, 0.0, 0.2, 0.01, -0.1, 0.0, 0.0]]},
            {"camera": None, "lens": "unknown", "samples": "none"},
            {"camera": None, "lens": "unknown", "samples": [], "extra": 1},
        ],
    )
    def test_states_that_are_none(self, state: Any) -> None:
        scale = kriged((FLAT, ONE))
        before = scale.state_dict()
        with pytest.raises(ConfigError):
            scale.load_state_dict(state)
        assert scale.state_dict() == before


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


class TestWhatTheMapTells:
    """Of a strange image the head's uncertainty is wide because its scale is; of an assumed lens it does not tell."""

    FIELDS: ClassVar[dict[str, Any]] = {"uncertainty_m": torch.full((1, 40, 60), 0.5 * 0.27)}

    def look(self, familiarity: float) -> DepthMap:
        wide = 0.5 * math.hypot(0.27, float(strange_sd(torch.tensor([familiarity]))[0]))
        seen = depth_map(FLAT.depth_m[0], uncertainty_m=torch.full((1, 40, 60), wide))
        return dataclasses.replace(seen, familiarity=torch.tensor([familiarity]))

    @pytest.mark.parametrize("familiarity", [0.0, 0.1, 0.9])
    def test_without_evidence_uncertainty_stays(self, familiarity: float) -> None:
        seen = self.look(familiarity)
        kept = ScaleFilter().apply(seen)
        torch.testing.assert_close(kept.depth_m, seen.depth_m)
        torch.testing.assert_close(kept.uncertainty_m, seen.uncertainty_m)

    def test_evidence_about_a_strange_image_moves_it_nearly_all_the_way(self) -> None:
        strange, familiar = kriged((self.look(0.0), ONE)), kriged((self.look(0.9), ONE))
        assert math.log(strange.scale) > 0.9 * math.log(1.2) > 0.5 * math.log(1.2) > math.log(familiar.scale)
        after = strange.apply(self.look(0.0)).uncertainty_m
        assert after is not None
        assert float(after[0, 0, 0]) < 0.5 * 0.6

    def test_measured_metres_are_not_brought_to_a_lens_again(self) -> None:
        longer = Intrinsics(120.0, 120.0, 30.0, 20.0, (40, 60))
        assumed = depth_map(FLAT.depth_m[0], focal_length=(1.0, 1.5), **self.FIELDS)
        assert ScaleFilter().apply(assumed).lens == "assumed"  # nothing was measured
        scale = kriged((assumed, ONE))
        measured = scale.apply(assumed)
        torch.testing.assert_close(measured.points(longer)[..., 2], measured.depth_m, rtol=0, atol=0)
        known = assumed.with_intrinsics(longer)
        kept = kriged((known, ONE)).apply(known)
        assert (kept.lens, kept.focal_length) == ("known", known.focal_length)

    def test_an_assumed_lens_widens_the_prior_and_a_known_one_does_not(self) -> None:
        assumed = depth_map(FLAT.depth_m[0], focal_length=(1.0, 1.5), **self.FIELDS)
        known = assumed.with_intrinsics(Intrinsics(60.0, 60.0, 30.0, 20.0, (40, 60)))
        vague, sure = ScaleFilter().apply(assumed).uncertainty_m, ScaleFilter().apply(known).uncertainty_m
        assert vague is not None
        assert sure is not None
        assert vague[0, 0, 0] > 1.5 * sure[0, 0, 0]
        scale = kriged((assumed, ONE))
        assert scale.scale > kriged((known, ONE)).scale
        with pytest.raises(ConfigError, match="lens known"):  # its metres are others
            scale.apply(known)
