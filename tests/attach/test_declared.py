"""Policies that declare their cameras through entry points, whoever's they are."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

import pytest
import torch
from clip_world import clip_host, head, host, images
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import CameraOrder, PolicyCameras, declared
from spaceclip_plugin.depth.image_mapping import ImageMapping

__all__ = ["head", "host"]  # fixtures


class FarmPolicy(nn.Module):
    """Runs its tower on the picture of its left, then of its right camera."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = clip_host()


def cameras_of_farm_policy(policy: nn.Module) -> PolicyCameras:
    return PolicyCameras(
        type(policy).__name__,
        CameraOrder(("left", "right")),
        {"left": ImageMapping.stretched((48, 64), (32, 32)), "right": ImageMapping.stretched((64, 48), (32, 32))},
    )


@pytest.fixture
def declares(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("FarmPolicy", f"{__name__}:cameras_of_farm_policy", declared.GROUP)
    monkeypatch.setattr(declared, "_known_policies", lambda: {"FarmPolicy": point})


@pytest.mark.usefixtures("declares")
def test_a_declared_policy_names_its_cameras_and_maps_their_images(head: DepthHead) -> None:
    class Mine(FarmPolicy):
        pass

    policy = Mine()
    with torch.no_grad(), attach_depth_head(policy, head) as depth:
        policy.eye(images(0))
        policy.eye(images(1))
        found = depth.read()
    assert [one.camera for one in found] == ["left", "right"]
    assert [one.mapping.camera_hw for one in found if one.mapping is not None] == [(48, 64), (64, 48)]


@pytest.mark.usefixtures("declares")
def test_what_a_user_says_goes_first(head: DepthHead) -> None:
    mapping = ImageMapping.stretched((20, 20), (32, 32))
    policy = FarmPolicy()
    with torch.no_grad(), attach_depth_head(policy, head, cameras=["far", "near"], mapping=mapping) as depth:
        policy.eye(images(0))
        policy.eye(images(1))
        assert [(one.camera, one.mapping) for one in depth.read()] == [("far", mapping), ("near", mapping)]


def test_a_declaration_that_cannot_be_imported_is_said_and_left_out(
    head: DepthHead, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    point = EntryPoint("FarmPolicy", "no_such_package:declare", declared.GROUP)
    monkeypatch.setattr(declared, "_known_policies", lambda: {"FarmPolicy": point})
    with caplog.at_level(logging.WARNING), attach_depth_head(FarmPolicy(), head) as depth:
        assert depth.cameras == ()
    assert "no_such_package" in caplog.text


def test_hosts_of_other_classes_load_nothing(host: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("FarmPolicy", "no_such_package:declare", declared.GROUP)
    monkeypatch.setattr(declared, "_known_policies", lambda: {"FarmPolicy": point})
    assert declared.declared_cameras([host]) is None
