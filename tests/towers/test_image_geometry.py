"""Images of any size laid in the tower's: what is named, where its pixels lie, and what may not be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.towers.image_geometry import said_by_host, said_by_user, say_host_geometry

TOWER = (32, 48)
SIZES = [(48, 64), (64, 48), (32, 48), (101, 57), (20, 90), (40, 60)]
WORDS = {
    "stretch": ImageGeometry(),
    "letterbox": ImageGeometry("letterbox"),
    "letterbox:bottom-right": ImageGeometry("letterbox", "bottom-right"),
    "letterbox:top-left:128": ImageGeometry("letterbox", "top-left", (128, 128, 128)),
    "letterbox:centre:1,2,3": ImageGeometry("letterbox", "centre", (1, 2, 3)),
    "centre-crop": ImageGeometry("centre-crop"),
    "centre-crop:50": ImageGeometry("centre-crop", resize=50),
    "centre-crop:40x60": ImageGeometry("centre-crop", resize=(40, 60)),
}


def photo(hw: tuple[int, int]) -> np.ndarray:
    """A smooth picture: red grows to the right, green downwards."""
    v, u = np.mgrid[: hw[0], : hw[1]] + 0.5
    return np.stack([250 * u / hw[1], 250 * v / hw[0], 0 * u + 200], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("words", WORDS)
def test_what_words_mean(words: str) -> None:
    assert ImageGeometry.parse(words) == WORDS[words]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "squash",
        "letterbox:left",
        "letterbox:centre:256",
        "letterbox:centre:1,2",
        "letterbox:centre:0:0",
        "stretch:",
        "centre-crop:0",
        "centre-crop:short",
        "centre-crop:40x",
        "centre-crop:40x50x60",
        "centre-crop:40:50",
    ],
)
def test_words_that_mean_nothing(words: str) -> None:
    with pytest.raises(ConfigError):
        ImageGeometry.parse(words)


@pytest.mark.parametrize(
    "fields",
    [
        {"layout": "tile"},
        {"layout": "letterbox", "anchor": "left"},
        {"fill": (1, 1, 1)},
        {"anchor": "top-left"},
        {"layout": "letterbox", "fill": (0, 0, 256)},
        {"layout": "letterbox", "resize": 256},
        {"layout": "centre-crop", "resize": 0},
        {"layout": "centre-crop", "resize": (256,)},
        {"resampling": "cubic"},
    ],
)
def test_fields_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ImageGeometry(**fields)


def test_what_decides_pixels_is_in_the_name() -> None:
    assert ImageGeometry.STRETCH.name == "bicubic-squash-1"
    others = [
        *WORDS.values(),
        ImageGeometry(resampling="bilinear"),
        ImageGeometry("centre-crop", resize=40),
        ImageGeometry("centre-crop", resize=(40, 50)),
    ]
    assert len({one.name for one in others}) == len(others)


@pytest.mark.parametrize("geometry", WORDS.values(), ids=WORDS.keys())
def test_its_kind_is_in_words_that_lay_images_alike(geometry: ImageGeometry) -> None:
    same = ImageGeometry.parse(replace(geometry, resampling="bilinear").kind)
    assert same == replace(geometry, fill=(0, 0, 0))


@pytest.mark.parametrize("hw", SIZES)
@pytest.mark.parametrize("words", WORDS)
def test_pixels_lie_where_the_mapping_says(words: str, hw: tuple[int, int]) -> None:
    geometry = WORDS[words]
    mapping = geometry.mapping(hw, TOWER)
    laid = geometry.image(photo(hw), TOWER)
    assert laid.shape == (*TOWER, 3)
    shown = mapping.valid_tower_pixels().numpy()
    assert (laid[~shown] == geometry.fill).all()
    assert (laid[shown][:, 2] == 200).all()
    v, u = torch.meshgrid(torch.arange(TOWER[0]) + 0.5, torch.arange(TOWER[1]) + 0.5, indexing="ij")
    said = mapping.camera_pixels(torch.stack([u, v], dim=-1)).numpy() / (hw[1], hw[0])
    inner = shown & (said > 0.1).all(-1) & (said < 0.9).all(-1)
    assert inner.any()
    np.testing.assert_allclose(laid[inner][:, :2], 250 * said[inner], atol=3)


def test_a_stretch_is_pillows_to_the_bit() -> None:
    resized = Image.fromarray(photo((101, 57))).resize((48, 32), Image.Resampling.BICUBIC)
    assert (ImageGeometry.STRETCH.image(photo((101, 57)), TOWER) == np.asarray(resized)).all()


@pytest.mark.parametrize("hw", SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_torchs_interpolation_lies_where_pillows_does(mode: str, hw: tuple[int, int]) -> None:
    for geometry in WORDS.values():
        ours, theirs = (replace(geometry, resampling=name).image(photo(hw), TOWER) for name in (f"torch-{mode}", mode))
        assert ours.dtype == np.uint8
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_crop_of_what_was_resized_before() -> None:
    assert ImageGeometry("centre-crop", resize=36).mapping((72, 144), (32, 32)) == ImageMapping.centre_cropped(
        (72, 144), (32, 32), resize_short=36
    )
    squashed = ImageGeometry("centre-crop", resize=(36, 40)).mapping((72, 144), (32, 32))
    assert squashed == ImageMapping.stretched((72, 144), (36, 40)).cropped(2, 4, (32, 32))
    with pytest.raises(ConfigError, match="30x40"):
        ImageGeometry("centre-crop", resize=(30, 40)).mapping((72, 144), (32, 32))


def test_a_users_word_and_a_hosts_own() -> None:
    host, letterbox = nn.Sequential(nn.Identity()), ImageGeometry("letterbox")
    assert said_by_user([host[0], host]) is None
    say_host_geometry(host, ImageGeometry("centre-crop"))
    letterbox.declare(host)
    assert said_by_user([host[0], host]) == letterbox
    assert said_by_host([host[0], host]) == ImageGeometry("centre-crop")
    assert host.state_dict() == {}
