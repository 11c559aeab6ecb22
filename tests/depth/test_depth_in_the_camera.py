"""Depth of a tower's image, in the camera that took it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from clip_world import head, host, images

from spaceclip_plugin import DepthHead, DepthMap, Intrinsics, attach_depth_head
from spaceclip_plugin.depth.camera import back_project
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError

__all__ = ["head", "host"]  # fixtures

CAMERA = Intrinsics(500.0, 510.0, 320.0, 250.0, (480, 640))
PADDED = ImageMapping.letterboxed((480, 640), (224, 224))


def wall() -> DepthMap:
    """Two metres everywhere, as a tower of 224x224 pixels sees it."""
    return DepthMap(
        torch.full((1, 224, 224), 2.0), torch.ones(1, 224, 224, dtype=torch.bool), None, 0, (224, 224), True
    )


def test_points_of_the_cameras_pixels_take_the_cameras_intrinsics() -> None:
    seen = wall().in_camera(PADDED)
    assert seen.image_hw == (480, 640)
    assert seen.depth_m.shape == (1, 480, 640)
    assert bool(seen.valid.all())
    torch.testing.assert_close(seen.points(CAMERA), back_project(torch.full((1, 480, 640), 2.0), CAMERA))


def test_points_of_the_towers_pixels_too_where_the_map_knows_its_mapping() -> None:
    own = dataclasses.replace(wall(), mapping=PADDED)
    shown = PADDED.valid_tower_pixels()
    expected = back_project(torch.full((1, 224, 224), 2.0), PADDED.to_tower(CAMERA))
    torch.testing.assert_close(own.points(CAMERA), expected * shown[None, :, :, None])
    assert torch.equal(own.valid, shown[None])
    assert torch.equal(own.in_camera().depth_m, wall().in_camera(PADDED).depth_m)
    assert own[0].mapping == PADDED


def test_where_nothing_is_goes_along_and_padding_tells_nothing() -> None:
    # Of what the tower saw, the upper half is sky.
    empty = torch.zeros(1, 224, 224)
    empty[:, :112] = 0.9
    sky = dataclasses.replace(wall(), valid=empty <= 0.5, empty=empty, mapping=PADDED)
    assert not sky.empty[:, :20].any()  # padding
    seen = sky.in_camera()
    assert seen.empty.shape == (1, 480, 640)
    assert (seen.empty[:, :239] == 0.9).all()
    assert not seen.empty[:, 241:].any()
    assert torch.equal(seen.valid, seen.empty <= 0.5)


def test_a_resolution_of_ones_own() -> None:
    assert wall().in_camera(PADDED, size=(48, 64)).depth_m.shape == (1, 48, 64)


def test_intrinsics_of_another_image_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"224x224.*480x640"):
        wall().in_camera(PADDED).points(dataclasses.replace(CAMERA, image_hw=(224, 224)))


def test_a_matrix_is_the_cameras_where_there_is_a_mapping() -> None:
    own = dataclasses.replace(wall(), mapping=PADDED)
    assert torch.equal(own.points(CAMERA.matrix()), own.points(CAMERA))
    seen = own.in_camera()
    assert torch.equal(seen.points(CAMERA.matrix()), seen.points(CAMERA))
    half = own.in_camera(size=(240, 320))
    assert torch.equal(half.points(CAMERA.matrix()), half.points(CAMERA))


def test_a_matrix_of_the_towers_pixels_is_refused_there() -> None:
    own = dataclasses.replace(wall(), mapping=PADDED)
    with pytest.raises(ConfigError, match=r"cx=112.*480x640"):
        own.points(PADDED.to_tower(CAMERA).matrix())


def test_a_map_without_a_mapping_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="give its ImageMapping"):
        wall().in_camera()


def test_a_mapping_of_another_tower_image() -> None:
    with pytest.raises(ConfigError, match=r"tower image of \(224, 224\), the depth is of \(448, 448\)"):
        dataclasses.replace(wall(), mapping=PADDED, image_hw=(448, 448))


def test_an_attachment_gives_its_depth_the_mapping(host: torch.nn.Module, head: DepthHead) -> None:
    cropped = ImageMapping.centre_cropped((480, 640), (32, 32))
    with attach_depth_head(host, head, mapping=cropped) as depth, torch.no_grad():
        host(images(0))
        [found] = depth.read()
    assert found.mapping == cropped
    assert found.in_camera().image_hw == (480, 640)
    assert not bool(found.in_camera().valid.all())  # what was cropped away was never seen


def test_every_camera_has_its_own(host: torch.nn.Module, head: DepthHead) -> None:
    mappings = {
        "top": ImageMapping.centre_cropped((480, 640), (32, 32)),
        "wrist": ImageMapping.stretched((60, 80), (32, 32)),
    }
    with attach_depth_head(host, head, cameras=["top", "wrist"], mapping=mappings) as depth, torch.no_grad():
        for seed in range(2):
            host(images(seed))
        assert [found.mapping for found in depth.read()] == [*mappings.values()]
