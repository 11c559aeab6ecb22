"""What the configuration of a policy that pads says of its cameras."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from spaceclip_plugin.attach.declared import declared_cameras
from spaceclip_plugin.depth.image_mapping import ImageMapping


def policy(name: str, *, base: str = "", **config: Any) -> nn.Module:
    """A module of that class name, or of a subclass of it."""
    made: type[nn.Module] = type(base or name, (nn.Module,), {})
    if base:
        made = type(name, (made,), {})
    module = made()
    module.config = SimpleNamespace(**config)
    return module


def cameras(**shapes: object) -> dict[str, SimpleNamespace]:
    return {f"observation.images.{name}": SimpleNamespace(shape=shape) for name, shape in shapes.items()}


def declared_mappings(holders: list[nn.Module]) -> dict[str, ImageMapping]:
    declared = declared_cameras(holders)
    return {} if declared is None else declared.mappings


PHOTOS = cameras(top=(3, 480, 640), wrist=(3, 240, 424))


def test_smolvla_pads_on_the_left_and_on_the_top() -> None:
    found = declared_mappings(
        [nn.Identity(), policy("SmolVLAPolicy", resize_imgs_with_padding=(512, 256), image_features=PHOTOS)]
    )
    assert found == {  # SmolVLA's field is (width, height)
        "top": ImageMapping.letterboxed((480, 640), (256, 512), anchor="bottom-right"),
        "wrist": ImageMapping.letterboxed((240, 424), (256, 512), anchor="bottom-right"),
    }
    assert found["top"].shown == (0.0, 171.0, 256.0, 512.0)  # 640 * 256 / 480 = 341 columns of 512


@pytest.mark.parametrize("name", ["PI0Policy", "PI05Policy", "PI0FastPolicy"])
def test_the_pi0_family_pads_around_the_middle(name: str) -> None:
    found = declared_mappings([policy(name, image_resolution=[224, 224], image_features=PHOTOS)])
    assert found["top"] == ImageMapping.letterboxed((480, 640), (224, 224))
    assert found["top"].shown == (28.0, 0.0, 196.0, 224.0)


def test_xvla_pads_like_smolvla_and_counts_rows_first() -> None:
    found = declared_mappings([policy("XVLAPolicy", resize_imgs_with_padding=(256, 512), image_features=PHOTOS)])
    assert found["top"] == ImageMapping.letterboxed((480, 640), (256, 512), anchor="bottom-right")


def test_a_subclass_of_a_policy_pads_like_it() -> None:
    mine = policy("Mine", base="PI0Policy", image_resolution=(224, 224), image_features=PHOTOS)
    assert set(declared_mappings([mine])) == {"top", "wrist"}


def test_placeholders_and_cameras_of_unknown_size_have_none() -> None:
    features = cameras(top=(480, 640, 3), empty_camera_0=(3, 480, 640), depth=(1, 480, 640), broken=(3, 0, 640))
    features["observation.image"] = SimpleNamespace(shape=None)
    found = declared_mappings([policy("PI0Policy", image_resolution=(224, 224), image_features=features)])
    assert found == {"top": ImageMapping.letterboxed((480, 640), (224, 224))}


@pytest.mark.parametrize(
    "module",
    [
        nn.Identity(),
        policy("GrootPolicy", image_resolution=(224, 224), image_features=PHOTOS),
        policy("SmolVLAPolicy", resize_imgs_with_padding=None, image_features=PHOTOS),
        policy("SmolVLAPolicy", image_features=PHOTOS),
        policy("PI0Policy", image_resolution=(224, 224)),
        type("PI0Policy", (nn.Module,), {})(),
    ],
)
def test_nothing_known_gives_none(module: nn.Module) -> None:
    assert declared_mappings([module]) == {}
