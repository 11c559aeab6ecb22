"""A head that was trained on images laid otherwise than a host lays its own says so, once, and where that is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from clip_world import clip_host
from clip_world import images as clip_images
from padding_policy import SmolVLAPolicy
from small_world import tiny_head, tiny_host
from torch import nn

from spaceclip_plugin import DepthHead, ImageMapping, attach_depth_head
from spaceclip_plugin.attach import PolicyCameras
from spaceclip_plugin.attach.declared import declared_cameras
from spaceclip_plugin.attach.preparation_match import PreparationMatch, match_images, match_preparation
from spaceclip_plugin.data.preparation import DeclaredPreparation
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.evaluation import predict
from spaceclip_plugin.head import DepthHeadConfig
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.towers.image_geometry import UnknownGeometry, say_host_geometry
from spaceclip_plugin.towers.registry import find_tower

TOWER = (32, 32)
WIDE, SQUARE = (36, 48), (48, 48)


def trained_on(words: str | None, host: nn.Module) -> DepthHead:
    head = tiny_head(host).eval()
    head.config = dataclasses.replace(head.config, preparation=words, trained_on="numbers")
    return head


def compared(trained: str | None, here: str, **cameras: Any) -> PreparationMatch:
    preparation = DeclaredPreparation(ImageGeometry.parse(here), find_tower(tiny_host()).spec)
    return match_preparation(DepthHeadConfig(preparation=trained), preparation, **cameras)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "prepared otherwise" in record.getMessage()]


class TestComparison:
    @pytest.mark.parametrize(
        ("trained", "here", "verdict"),
        [
            ("stretch", "stretch", "same"),
            ("letterbox:bottom-right", "letterbox:bottom-right:128", "same"),  # what fills the rest does not count
            ("centre-crop", "centre-crop:32", "same"),  # of a tower of 32x32
            ("stretch", "letterbox", "other"),
            ("letterbox:centre", "letterbox:bottom-right", "other"),
            ("centre-crop", "centre-crop:40", "other"),
            ("centre-crop:40", "centre-crop:40x48", "other"),
            ("centre-crop:8", "centre-crop:40", "other"),  # no image of this tower
            ("padded as my robot does", "stretch", "other"),
        ],
    )
    def test_two_preparations(self, trained: str, here: str, verdict: str) -> None:
        assert compared(trained, here).verdict == verdict

    def test_photos_of_the_towers_shape_are_alike_in_a_stretch_and_a_letterbox(self) -> None:
        assert compared("stretch", "letterbox", cameras_hw=[SQUARE, (96, 96)]).verdict == "same"
        assert compared("stretch", "letterbox", cameras_hw=[SQUARE, WIDE]).verdict == "other"

    def test_a_pixel_of_rounding_does_not_count(self) -> None:
        rounded_up = ImageMapping.letterboxed((45, 64), TOWER, rounding="up")
        host = tiny_host()
        config, spec = DepthHeadConfig(preparation="letterbox"), find_tower(host).spec
        assert rounded_up != ImageMapping.letterboxed((45, 64), TOWER)
        assert match_images(config, host, spec, declared=None, said=[rounded_up]).verdict == "same"

    def test_older_heads_do_not_tell(self) -> None:
        match = compared(None, "stretch")
        assert (match.verdict, match.trained) == ("unknown", None)
        assert "does not tell" in str(match)


class TestAttaching:
    @pytest.mark.parametrize("words", ["stretch", "centre-crop"])
    def test_a_policy_that_pads_is_named_with_both_sides(self, words: str, caplog: pytest.LogCaptureFixture) -> None:
        policy = SmolVLAPolicy(WIDE).eval()
        attach_depth_head(policy, trained_on(words, policy)).close()
        [said] = warnings(caplog)
        assert f"({words})" in said
        assert "(letterbox:bottom-right)" in said
        assert f"--preparation {words}" in said

    @pytest.mark.parametrize(
        ("camera_hw", "words"),
        [(WIDE, "letterbox:bottom-right"), (WIDE, None), (SQUARE, "stretch"), (SQUARE, "letterbox:centre")],
    )
    def test_nothing_is_said_where_images_are_alike_or_the_head_tells_nothing(
        self, camera_hw: tuple[int, int], words: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = SmolVLAPolicy(camera_hw).eval()
        with attach_depth_head(policy, trained_on(words, policy)) as attachment:
            assert attachment.preparation.kind == "letterbox:bottom-right"
        assert warnings(caplog) == []

    def test_a_user_who_says_how_it_is_believed(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = SmolVLAPolicy(WIDE).eval()
        head = trained_on("stretch", policy)
        attach_depth_head(policy, head, mapping=ImageMapping.stretched(WIDE, TOWER)).close()
        ImageGeometry.STRETCH.declare(policy)
        attach_depth_head(policy, head).close()
        assert warnings(caplog) == []

    def test_what_a_user_says_of_cameras_counts_where_the_host_tells_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        host = clip_host()
        mappings = {"a": ImageMapping.stretched(SQUARE, TOWER), "b": ImageMapping.letterboxed(WIDE, TOWER)}
        head = trained_on("stretch", host)
        attach_depth_head(host, head, cameras=["a"], mapping={"a": mappings["a"]}).close()
        assert warnings(caplog) == []
        attach_depth_head(host, head, cameras=["a", "b"], mapping=mappings).close()
        assert len(warnings(caplog)) == 1
        caplog.clear()
        attach_depth_head(host, trained_on("of my own", host), cameras=["a", "b"], mapping=mappings).close()
        assert warnings(caplog) == []

    def test_mappings_that_a_policy_declares_alone_count_too(self, caplog: pytest.LogCaptureFixture) -> None:
        host = clip_host()
        declared = PolicyCameras("FarmPolicy", mappings={"eye": ImageMapping.letterboxed(WIDE, TOWER)})
        attach_depth_head(host, trained_on("stretch", host), cameras=declared).close()
        assert "as FarmPolicy declares" in warnings(caplog)[0]

    @pytest.mark.parametrize("words", ["letterbox:centre", "of my own"])
    def test_a_host_that_tells_nothing_is_attached_without_a_word(
        self, words: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        host = tiny_host()
        attach_depth_head(host, trained_on(words, host)).close()
        assert warnings(caplog) == []

    def test_a_host_that_is_not_understood_is_attached_as_before(self, caplog: pytest.LogCaptureFixture) -> None:
        host = clip_host()
        say_host_geometry(host, UnknownGeometry("it tiles"))
        with torch.no_grad(), attach_depth_head(host, trained_on("stretch", host)) as attachment:
            host(clip_images(0))
            assert len(attachment.read()) == 1
            with pytest.raises(HostError, match="it tiles"):
                _ = attachment.preparation
        assert warnings(caplog) == []
        match = match_images(DepthHeadConfig(preparation="stretch"), host, attachment.tower, declared=None)
        assert "it tiles" in str(match)


class TestPhotos:
    def photo(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (*WIDE, 3), np.uint8)

    def test_photos_that_are_stretched_for_want_of_a_word_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        host = tiny_host()
        with attach_depth_head(host, trained_on("letterbox:centre", host)) as attachment:
            predict(attachment, [self.photo()], output_hw=WIDE)
            predict(attachment, [self.photo()], output_hw=WIDE)
        [said] = warnings(caplog)
        assert "--preparation letterbox:centre" in said

    def test_what_was_said_when_attaching_is_not_said_again(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = SmolVLAPolicy(WIDE).eval()
        with attach_depth_head(policy, trained_on("stretch", policy)) as attachment:
            predict(attachment, [self.photo()], output_hw=WIDE)
        assert len(warnings(caplog)) == 1

    def test_photos_of_another_way_than_the_cameras_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        host = clip_host()
        say_host_geometry(host, ImageGeometry("centre-crop"))
        mapping = ImageMapping.letterboxed(WIDE, TOWER)
        with attach_depth_head(host, trained_on("letterbox:centre", host), mapping=mapping) as attachment:
            assert warnings(caplog) == []
            predict(attachment, [self.photo()], output_hw=WIDE)
        assert "(centre-crop)" in warnings(caplog)[0]


def test_nothing_of_it_is_read_for_a_head_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = SmolVLAPolicy(WIDE).eval()
    spec = find_tower(policy).spec
    monkeypatch.setattr("spaceclip_plugin.attach.preparation_match.told_preparation", None)
    declared = declared_cameras([policy])
    assert match_images(DepthHeadConfig(), policy, spec, declared=declared).verdict == "unknown"
