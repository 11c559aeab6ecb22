"""Focal lengths over an image's sides, and depth maps that are brought to the metres of a camera once."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.depth.age import HostSteps
from spaceclip_plugin.depth.alignment import Alignment
from spaceclip_plugin.depth.camera import check_whole_image, checked_focal_length, lens_scale
from spaceclip_plugin.errors import ConfigError

CAMERA = Intrinsics(fx_px=600.0, fy_px=600.0, cx_px=310.0, cy_px=250.0, image_hw=(480, 640))
HEAD = (0.625, 0.5)  # 1.5 and 2.5 times as short as CAMERA
SCALE = math.sqrt(1.5 * 2.5)


def seen(batch: int = 1, **changed: Any) -> DepthMap:
    """Depth of 24x32 pixels from 1 to 3 m, read as if by the head's camera."""
    depth_m = torch.linspace(1.0, 3.0, batch * 768).reshape(batch, 24, 32)
    fields = {
        "camera": "front", "frame": 3, "image_hw": (48, 64), "trained": True, "focal_length": HEAD,
        "uncertainty_m": 0.1 * depth_m, "familiarity": torch.linspace(0.2, 0.9, batch),
    }  # fmt: skip
    return DepthMap(**{"depth_m": depth_m, "valid": depth_m > 1.1, **fields, **changed})


class TestFocalLength:
    def test_is_over_the_sides_and_no_resize_changes_it(self) -> None:
        assert CAMERA.focal_length == (600 / 640, 600 / 480)
        for image_hw in ((240, 320), (224, 224), (1, 7)):
            assert CAMERA.resized(image_hw).focal_length == pytest.approx(CAMERA.focal_length, rel=1e-12)

    def test_there_and_back(self) -> None:
        centred = Intrinsics(600.0, 500.0, 320.0, 240.0, (480, 640))
        found = Intrinsics.from_focal_length(centred.focal_length, (480, 640))
        assert dataclasses.astuple(found)[:4] == pytest.approx(dataclasses.astuple(centred)[:4], rel=1e-12)
        assert found.image_hw == (480, 640)

    def test_is_half_over_the_tangent_of_half_the_field_of_view(self) -> None:
        camera = Intrinsics.from_focal_length((0.5 / math.tan(0.6), 0.5 / math.tan(0.4)), (30, 50))
        vertical, horizontal = camera.field_of_view_deg()
        assert (vertical, horizontal) == pytest.approx((math.degrees(0.8), math.degrees(1.2)))

    @pytest.mark.parametrize("wrong", [(600.0, 600.0), (0.9, 1200.0), (0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)])
    def test_pixels_by_mistake_and_what_no_camera_has(self, wrong: tuple[float, float]) -> None:
        bad = next(i for i, one in enumerate(wrong) if not 0.05 <= one <= 50)
        for make in (checked_focal_length, lambda value: Intrinsics.from_focal_length(value, (480, 640))):
            with pytest.raises(ConfigError, match=rf"focal_length\[{bad}\] must be a number from 0.05 to 50"):
                make(wrong)

    @pytest.mark.parametrize("wrong", [1.0, (1.0,), (1.0, 1.0, 1.0), "ab", None, (True, 1.0), ("1", 1.0)])
    def test_something_else_than_two_numbers(self, wrong: Any) -> None:
        with pytest.raises(ConfigError, match="focal_length"):
            checked_focal_length(wrong)


class TestLensScale:
    def test_is_exactly_one_for_one_lens(self) -> None:
        for value in (0.1, 1 / 3, 0.7, 1.1, 49.9):
            assert lens_scale((value, 1.3 * value), (value, 1.3 * value)) == 1.0

    def test_is_the_geometric_mean_of_both_axes(self) -> None:
        assert lens_scale((2.0, 2.0), (1.0, 1.0)) == 2.0
        assert lens_scale((4.0, 1.0), (1.0, 1.0)) == 2.0
        assert lens_scale(CAMERA.focal_length, HEAD) == pytest.approx(SCALE, rel=1e-12)
        assert lens_scale(HEAD, CAMERA.focal_length) == pytest.approx(1 / SCALE, rel=1e-12)


class TestWholeImage:
    def test_a_good_one_is_given_back(self) -> None:
        assert check_whole_image(CAMERA, whose="camera 'front'") is CAMERA

    @pytest.mark.parametrize("wrong", [torch.eye(3), np.eye(3), (600.0, 600.0), "front", None])
    def test_something_else(self, wrong: Any) -> None:
        with pytest.raises(ConfigError, match=rf"camera 'front'.*{type(wrong).__name__}"):
            check_whole_image(wrong, whose="camera 'front'")

    @pytest.mark.parametrize(("name", "value"), [("cx_px", 0.0), ("cx_px", 640.0), ("cy_px", 481.0), ("cy_px", -3.0)])
    def test_a_principal_point_outside(self, name: str, value: float) -> None:
        with pytest.raises(ConfigError, match=rf"'front': the principal point .*{name[:2]}={value:g}.*480x640"):
            check_whole_image(dataclasses.replace(CAMERA, **{name: value}), whose="camera 'front'")

    @pytest.mark.parametrize(("degrees", "fine"), [(9, False), (11, True), (149, True), (151, False)])
    def test_a_field_of_view_that_no_pinhole_has(self, degrees: float, fine: bool) -> None:
        camera = Intrinsics.from_fovy(math.radians(degrees), (480, 480))
        if fine:
            assert check_whole_image(camera, whose="it") is camera
        else:
            with pytest.raises(ConfigError, match=rf"it: .* {degrees}\.0 degrees high"):
                check_whole_image(camera, whose="it")


class TestWithIntrinsics:
    def test_metres_and_uncertainty_are_scaled_and_nothing_else(self) -> None:
        before = seen(2)
        after = before.with_intrinsics(CAMERA)
        assert (before.lens, after.lens) == ("assumed", "known")
        torch.testing.assert_close(after.depth_m, before.depth_m * SCALE)
        torch.testing.assert_close(after.uncertainty_m, before.uncertainty_m * SCALE)
        assert after.intrinsics == CAMERA.resized((48, 64))
        assert after.focal_length == pytest.approx(CAMERA.focal_length)
        kept = ("valid", "camera", "frame", "image_hw", "trained", "step", "familiarity", "mapping", "image_sizes")
        assert all(getattr(after, name) is getattr(before, name) for name in kept)
        assert (before.intrinsics, before.focal_length) == (None, HEAD)

    def test_the_same_lens_keeps_every_bit(self) -> None:
        own = Intrinsics.from_focal_length(HEAD, (480, 640))
        assert seen().with_intrinsics(own).depth_m.equal(seen().depth_m)

    def test_nothing_is_scaled_twice(self) -> None:
        once = seen().with_intrinsics(CAMERA)
        for again in (once.with_intrinsics(CAMERA), once.with_intrinsics(CAMERA.resized((240, 320)))):
            assert again.depth_m is once.depth_m
        assert once.points(CAMERA).equal(once.points())
        assert seen().points(CAMERA).equal(once.points())

    def test_another_camera_is_refused(self) -> None:
        once = seen().with_intrinsics(CAMERA)
        for other in (dataclasses.replace(CAMERA, fx_px=640.0), dataclasses.replace(CAMERA, cy_px=220.0)):
            for use in (once.with_intrinsics, once.points):
                with pytest.raises(ConfigError, match="depth of a camera with fx=60"):
                    use(other)

    def test_a_matrix_is_of_the_map_or_of_the_cameras_image(self) -> None:
        k = CAMERA.resized((24, 32)).matrix()
        for given in (k, k.numpy(), k.tolist()):
            assert seen().with_intrinsics(given).depth_m.equal(seen().with_intrinsics(CAMERA).depth_m)
        mapped = seen(mapping=ImageMapping.stretched((480, 640), (48, 64)))
        assert mapped.with_intrinsics(CAMERA.matrix()).intrinsics == mapped.with_intrinsics(CAMERA).intrinsics

    def test_a_head_that_does_not_tell_its_camera(self) -> None:
        old = seen(focal_length=None)
        found = old.with_intrinsics(CAMERA)
        assert (old.lens, found.lens) == ("unknown", "unknown")
        assert found.depth_m is old.depth_m
        assert found.points().equal(old.points(CAMERA))
        with pytest.raises(ConfigError, match="does not tell"):
            old.points(assumed=True)

    def test_depth_of_no_image_and_no_uncertainty(self) -> None:
        empty = torch.ones(0, 24, 32)
        assert (
            len(seen(depth_m=empty, valid=empty > 0, uncertainty_m=None, familiarity=None).with_intrinsics(CAMERA)) == 0
        )

    def test_several_sizes_have_no_camera_but_each_image_has(self) -> None:
        several = seen(2, image_sizes=((48, 64), (24, 32)))
        for use in (several.with_intrinsics, several.points):
            with pytest.raises(ConfigError, match=r"depth\[i\]"):
                use(CAMERA)
        small = several[1].with_intrinsics(CAMERA)
        assert small.intrinsics == CAMERA.resized((24, 32))
        torch.testing.assert_close(small.depth_m, several.depth_m[1:, :12, :16] * SCALE)

    def test_what_the_host_does_to_images_nobody_knows_how(self) -> None:
        for use in (lambda depth: depth.with_intrinsics(CAMERA), lambda depth: depth.points(CAMERA)):
            with pytest.raises(ConfigError, match="give mapping="):
                use(seen(unmapped="the padding is another one; give mapping="))

    def test_age_keeps_counting(self) -> None:
        steps = HostSteps()
        found = seen(age=steps.age_of(0)).with_intrinsics(CAMERA)
        steps.end()
        assert found.age == 0
        steps.end()
        assert (found.age, found[0].age) == (1, 1)


class TestPoints:
    def test_without_a_camera(self) -> None:
        with pytest.raises(ConfigError, match=r"cameras=\{'front'.*points\(assumed=True\)"):
            seen().points()

    def test_of_the_assumed_camera(self) -> None:
        depth = seen()
        points = depth.points(assumed=True)
        own = Intrinsics.from_focal_length(HEAD, (48, 64))
        assert points.equal(depth.points(own))
        assert points[..., 2].equal(depth.depth_m)

    def test_what_is_known_goes_before_what_is_assumed(self) -> None:
        depth = seen().with_intrinsics(CAMERA)
        assert depth.points(assumed=True).equal(depth.points())


class TestOtherForms:
    @pytest.mark.parametrize(
        "form",
        [
            copy.copy, copy.deepcopy, lambda depth: pickle.loads(pickle.dumps(depth)), dataclasses.replace,
            lambda depth: depth.to("cpu"), lambda depth: depth.relabelled(), lambda depth: depth[0],
        ],
        ids=["copy", "deepcopy", "pickle", "replace", "to", "relabelled", "index"],
    )  # fmt: skip
    def test_keep_the_camera(self, form: Any) -> None:
        for depth in (seen(), seen().with_intrinsics(CAMERA)):
            found = form(depth)
            assert (found.intrinsics, found.focal_length, found.lens) == (
                depth.intrinsics, depth.focal_length, depth.lens,
            )  # fmt: skip
            assert found.familiarity.equal(depth.familiarity)
            assert found.points(assumed=True).equal(depth.points(assumed=True))

    def test_images_one_by_one(self) -> None:
        depth = seen(3).with_intrinsics(CAMERA)
        assert [float(one.familiarity) for one in depth] == pytest.approx([0.2, 0.55, 0.9])
        assert torch.cat([one.points() for one in depth]).equal(depth.points())

    def test_the_repr_says_whose_metres(self) -> None:
        assert ", camera assumed, familiarity 0.20 0.90, " in repr(seen(2))
        assert ", camera known, " in repr(seen().with_intrinsics(CAMERA))
        bare = repr(seen(focal_length=None, familiarity=None))
        assert "known" not in bare
        assert "familiarity" not in bare

    @pytest.mark.parametrize("wrong", [torch.ones(2), torch.ones(1, 1), torch.tensor(0.5)])
    def test_a_familiarity_of_other_images(self, wrong: torch.Tensor) -> None:
        with pytest.raises(ConfigError, match="familiarity is one number for each of 1 images"):
            seen(familiarity=wrong)

    def test_intrinsics_of_another_image(self) -> None:
        with pytest.raises(ConfigError, match=r"\(48, 64\).*\(480, 640\)"):
            seen(intrinsics=CAMERA)

    def test_intrinsics_that_the_metres_do_not_hold_for(self) -> None:
        with pytest.raises(ConfigError, match="with_intrinsics"):
            dataclasses.replace(seen(), intrinsics=CAMERA.resized((48, 64)))

    def test_what_was_measured_is_not_scaled_again(self) -> None:
        alignment = Alignment(2.0, 0.25, 9, 1.0, 0.1, 0.0, 0.1, 0.0)
        measured = alignment.apply(seen())
        assert measured.lens == "unknown"
        torch.testing.assert_close(measured.points(CAMERA)[..., 2], 2.0 * seen().depth_m + 0.25)
        known = alignment.apply(seen().with_intrinsics(CAMERA))
        assert known.lens == "known"
        torch.testing.assert_close(known.points(CAMERA)[..., 2], 2.0 * SCALE * seen().depth_m + 0.25)
