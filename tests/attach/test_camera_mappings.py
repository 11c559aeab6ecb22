"""`mapping=` by camera: names that there are, a mapping for every frame, and padding that is never valid."""

from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clip_world import clip_host, head, host, images
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthMap, Intrinsics, attach_depth_head
from spaceclip_plugin.attach.declared import CameraOrder, declared_cameras
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.padding import blank_and_borders, verdict
from spaceclip_plugin.errors import CaptureError, ConfigError

__all__ = ["head", "host"]  # fixtures

SQUASHED = ImageMapping.stretched((60, 80), (32, 32))
PADDED = ImageMapping.letterboxed((480, 640), (32, 32), anchor="bottom-right")
VIEWS = ("top", "wrist")


def seen(host: nn.Module, depth: Any, *seeds: int) -> list[DepthMap]:
    with torch.no_grad():
        for seed in seeds:
            host(images(seed))
    return depth.read()


class TestNames:
    def test_a_name_of_no_camera_is_refused_with_the_nearest(self, host: nn.Module, head: DepthHead) -> None:
        with pytest.raises(ConfigError, match=r"'wirst'.*did you mean 'wrist'.*top, wrist"):
            attach_depth_head(host, head, cameras=VIEWS, mapping={"top": SQUASHED, "wirst": SQUASHED})
        assert not any(module._forward_hooks for module in host.modules())

    def test_names_where_no_camera_has_one(self, host: nn.Module, head: DepthHead) -> None:
        with pytest.raises(ConfigError, match=r"top.*cameras="):
            attach_depth_head(host, head, mapping={"top": SQUASHED})

    @pytest.mark.parametrize("wrong", ["top", {"top": SQUASHED}, (480, 640)])
    def test_something_else_than_a_mapping_for_a_refresh(self, host: nn.Module, head: DepthHead, wrong: Any) -> None:
        with attach_depth_head(host, head) as depth:
            with pytest.raises(ConfigError, match="ImageMapping"):
                depth.refresh(images(0), mapping=wrong)
            assert depth.read() == []

    def test_the_key_of_a_policy_for_a_name(self, host: nn.Module, head: DepthHead) -> None:
        with pytest.raises(ConfigError, match="did you mean 'wrist'"):
            attach_depth_head(host, head, cameras=VIEWS, mapping={"observation.images.wrist": SQUASHED})

    @pytest.mark.parametrize("wrong", ["top", (480, 640), {"top": (480, 640)}, 3])
    def test_something_else_than_mappings(self, host: nn.Module, head: DepthHead, wrong: Any) -> None:
        with pytest.raises(ConfigError, match="ImageMapping"):
            attach_depth_head(host, head, cameras=VIEWS, mapping=wrong)

    def test_a_frame_without_an_entry(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, cameras=VIEWS, mapping={"top": SQUASHED}) as depth:
            with pytest.raises(ConfigError, match=r"'wrist'.*known: top"):
                seen(host, depth, 0, 1)
            assert depth.unread == 0

    def test_a_frame_of_an_unknown_camera(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, cameras=VIEWS, mapping={"top": SQUASHED, "wrist": PADDED}) as depth:
            with pytest.raises(CaptureError, match=r"top, wrist.*which camera image call 0"):
                seen(host, depth, 0)
            assert [found.mapping for found in seen(host, depth, 0, 1)] == [SQUASHED, PADDED]

    def test_a_refreshed_camera_may_be_named(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, cameras=VIEWS, mapping={"top": SQUASHED, "wrist": PADDED}) as depth:
            depth.refresh(images(0), camera="wrist")
            [found] = depth.read()
            assert (found.camera, found.mapping) == ("wrist", PADDED)
            depth.refresh(images(0), camera="top", mapping=PADDED)
            depth.refresh(images(0), mapping=None)
            assert [one.mapping for one in depth.read()] == [PADDED, None]

    @pytest.mark.parametrize("given", [PADDED, {"top": PADDED, "wrist": PADDED}])
    def test_a_mapping_to_another_tower_image(self, head: DepthHead, given: Any) -> None:
        larger = clip_host(image_size=48)
        with attach_depth_head(larger, head, cameras=VIEWS, mapping=given) as depth:
            with torch.no_grad():
                for _ in VIEWS:
                    larger(torch.randn(1, 3, 48, 48))
            with pytest.raises(ConfigError, match=r"'top' is to a tower image of \(32, 32\).*\(48, 48\)"):
                depth.read()


class TestPadding:
    def test_padding_is_not_valid_and_no_point(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, mapping=PADDED) as depth:
            [found] = seen(host, depth, 0)
        assert torch.equal(found.valid[0].any(dim=1), torch.tensor([False] * 8 + [True] * 24))
        assert not found.depth_m[:, :8].any()
        camera = Intrinsics.from_fovy(1.0, image_hw=(480, 640))
        assert not found.points(camera)[:, :8].any()
        tower = found.tower_intrinsics(camera)
        assert tower.fx_px == pytest.approx(tower.fy_px) == pytest.approx(21.97, abs=0.005)

    def test_any_map_with_a_mapping(self) -> None:
        bare = DepthMap(torch.full((2, 8, 8), 2.0), torch.ones(2, 8, 8, dtype=torch.bool), None, 0, (32, 32), True)
        bare = dataclasses.replace(bare, uncertainty_m=torch.full((2, 8, 8), 0.1))
        for found in (dataclasses.replace(bare, mapping=PADDED), bare.with_mapping(PADDED)):
            for values in (found.depth_m, found.valid, found.uncertainty_m):
                assert torch.equal(values.bool()[0].any(dim=1), torch.tensor([False] * 2 + [True] * 6))
            assert found[1].depth_m.data_ptr() == found.depth_m[1].data_ptr()
            assert found[1].mapping == PADDED
        assert bool(bare.valid.all())
        whole = bare.with_mapping(ImageMapping.stretched((480, 640), (32, 32)))
        assert whole.depth_m is bare.depth_m

    def test_a_bad_value_in_the_padding_is_still_refused(self) -> None:
        depth_m = torch.full((1, 8, 8), 2.0)
        depth_m[0, 0, 0] = torch.nan
        with pytest.raises(ConfigError, match="1 of 64 pixels"):
            DepthMap(
                depth_m, torch.ones(1, 8, 8, dtype=torch.bool), None, 0, (32, 32), True, mapping=PADDED
            )  # fmt: skip

    def test_depth_without_a_mapping_says_why(self) -> None:
        bare = DepthMap(torch.ones(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool), None, 0, (32, 32), True)
        unmapped = dataclasses.replace(bare, unmapped="the camera is another one; give mapping=")
        with pytest.raises(ConfigError, match="the camera is another one"):
            unmapped.points(Intrinsics.from_fovy(1.0, image_hw=(32, 32)))
        assert unmapped.points([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]]).shape == (1, 8, 8, 3)  # in its own pixels
        assert unmapped.with_mapping(PADDED).unmapped is None

    def test_a_matrix_of_the_camera_where_padding_is_not_known(self) -> None:
        stretched = DepthMap(
            torch.ones(1, 48, 64), torch.ones(1, 48, 64, dtype=torch.bool), None, 0, (32, 32), True,
            unmapped="the camera is another one; give mapping=",
        )  # fmt: skip
        with pytest.raises(ConfigError, match="the camera is another one"):  # read at the camera's size
            stretched.points([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])


class TestBorders:
    def image(self, top: int, left: int, bottom: int, right: int, value: float = -1.0) -> Tensor:
        image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
        image[:, :, :top] = image[:, :, 16 - bottom :] = value
        image[..., :left] = image[..., 24 - right :] = value
        return image

    @pytest.mark.parametrize("borders", [(0, 0, 0, 0), (4, 0, 4, 0), (3, 0, 4, 0), (0, 5, 0, 0), (5, 2, 0, 0)])
    def test_they_are_counted(self, borders: tuple[int, int, int, int]) -> None:
        blank, found = blank_and_borders(torch.cat([self.image(*borders), self.image(16, 0, 0, 0)]), "centre")
        assert blank.tolist() == [False, True]
        assert tuple(found[0].tolist()) == borders

    def test_padding_of_one_value_in_each_channel(self) -> None:
        image = self.image(4, 0, 4, 0) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        assert blank_and_borders(image, "centre")[1].tolist() == [[4, 0, 4, 0]]

    def test_a_plain_sky_of_another_value_is_no_padding(self) -> None:
        image = self.image(4, 0, 0, 0)
        image[:, :, 4:7] = 0.5
        image[:, :, 13:] = 0.5
        assert blank_and_borders(image, "bottom-right")[1].tolist() == [[4, 0, 0, 0]]

    @pytest.mark.parametrize(
        ("anchor", "borders", "expected"),
        [
            ("centre", (2, 0, 2, 0), "as declared"),
            ("centre", (2, 0, 1, 0), "less"),
            ("centre", (2, 3, 2, 3), "more"),
            ("centre", (2, 0, 3, 0), "more"),
            ("centre", (2, 0, 5, 0), "as declared"),  # no padding around the middle is so uneven: a dark edge
            ("bottom-right", (4, 0, 0, 0), "as declared"),
            ("bottom-right", (3, 0, 0, 0), "less"),
            ("bottom-right", (7, 0, 0, 0), "more"),
            ("bottom-right", (4, 1, 0, 0), "more"),
            ("bottom-right", (4, 0, 3, 2), "as declared"),
        ],
    )
    def test_they_are_compared(self, anchor: Any, borders: tuple[int, int, int, int], expected: str) -> None:
        mapping = ImageMapping.letterboxed((12, 16), (16, 16), anchor=anchor)
        assert verdict(borders, mapping, anchor) == expected


class SmolVLAPolicy(nn.Module):
    """Pads on the left and on the top, one call of the tower per camera."""

    def __init__(self, **shapes: tuple[int, int]) -> None:
        super().__init__()
        self.eye = clip_host()
        features = {f"observation.images.{name}": SimpleNamespace(shape=(3, *hw)) for name, hw in shapes.items()}
        self.config = SimpleNamespace(image_features=features, resize_imgs_with_padding=(32, 32))

    def look(self, *mappings: ImageMapping) -> None:
        for seed, mapping in enumerate(mappings):
            with torch.no_grad():
                self.eye(torch.where(mapping.valid_tower_pixels(), images(seed), torch.tensor(-1.0)))


WIDE = ImageMapping.letterboxed((360, 640), (32, 32), anchor="bottom-right")
TALL = ImageMapping.letterboxed((640, 480), (32, 32), anchor="bottom-right")


class TestDeclared:
    def test_cameras_of_different_shapes_by_name(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(480, 640), wrist=(640, 480))
        with attach_depth_head(policy, head) as depth:
            policy.look(PADDED, TALL)
            assert [found.mapping for found in depth.read()] == [PADDED, TALL]
            policy.look(TALL)  # which one it is no one can tell
            [found] = depth.read()
        assert found.mapping is None
        assert "different shapes" in str(found.unmapped)

    def test_handed_over_by_whoever_attaches_below_the_policy(
        self, head: DepthHead, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = SmolVLAPolicy(top=(480, 640))
        declared = declared_cameras([policy.eye, policy])
        with attach_depth_head(policy.eye, head, cameras=declared) as depth:
            policy.look(PADDED)
            assert [found.mapping for found in depth.read()] == [PADDED]
        with (
            attach_depth_head(policy.eye, head, cameras=declared) as depth,
            caplog.at_level(logging.WARNING),
        ):
            policy.look(WIDE)
            [found] = depth.read()
        assert found.mapping is None
        assert torch.equal(found.valid[0], WIDE.valid_tower_pixels())
        assert "480x640" in caplog.text
        assert "(14, 0, 0, 0)" in caplog.text

    def test_a_square_in_the_configuration_and_another_camera(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(256, 256))
        with attach_depth_head(policy, head) as depth:
            policy.look(PADDED)
            [found] = depth.read()
        assert found.mapping is None
        assert int(found.valid.sum()) == 24 * 32

    def test_one_nameless_camera_that_agrees_says_nothing_of_another(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(480, 640), wrist=(480, 640))
        declared = declared_cameras([policy])
        assert declared is not None
        nameless = dataclasses.replace(declared, order=CameraOrder())
        with attach_depth_head(policy.eye, head, cameras=nameless) as depth:
            policy.look(PADDED, WIDE)  # the wrist's camera has another shape than configured, and no name
            first, second = depth.read()
        assert first.mapping == PADDED
        assert second.mapping is None
        assert torch.equal(second.valid[0], WIDE.valid_tower_pixels())

    def test_another_size_of_tower_than_configured(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(480, 640))
        policy.config.resize_imgs_with_padding = (64, 64)
        with attach_depth_head(policy, head) as depth:
            policy.look(PADDED)
            [found] = depth.read()
        assert "(64, 64)" in str(found.unmapped)

    def test_in_a_thread_of_its_own(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(480, 640))
        with attach_depth_head(policy, head) as depth:
            policy.look(PADDED)
            work = depth.read_later()
            assert [found.mapping for found in work()] == [PADDED]
