"""Photos become what the tower was trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from spaceclip_plugin.data.preparation import DeclaredPreparation, as_bytes, prepare
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.towers.spec import CLS, TowerSpec

SPEC = TowerSpec("clip", "", 32, 3, 8, (32, 48), CLS, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_squash_scale_and_statistics() -> None:
    photo = np.zeros((101, 57, 3), np.uint8)
    photo[:] = (255, 102, 0)
    pixels = prepare([photo, photo], SPEC)
    assert pixels.shape == (2, 3, 32, 48)
    expected = torch.tensor([(1.0 - 0.5) / 0.2, 0.0, (0.0 - 0.3) / 0.4])
    torch.testing.assert_close(pixels, expected[None, :, None, None].expand_as(pixels))


def test_the_whole_photo_stays_in_view_and_upright() -> None:
    photo = np.zeros((64, 96, 3), np.uint8)
    photo[:32, :48, 0] = 255  # red in the top left quarter alone
    red = prepare([photo], dataclasses.replace(SPEC, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5)))[0, 0]
    assert red[:14, :22].min() > 0.99
    assert red[18:].max() < -0.99
    assert red[:, 26:].max() < -0.99


def test_photos_of_any_size() -> None:
    assert prepare([np.full((1, 1, 3), 7, np.uint8), np.zeros((3, 500, 3), np.uint8)], SPEC).isfinite().all()


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_photo(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(H, W, 3\) uint8"):
        prepare([image], SPEC)


def test_no_photo() -> None:
    with pytest.raises(DataError, match="empty"):
        prepare([], SPEC)


@pytest.mark.parametrize("words", ["stretch", "letterbox:bottom-right:9", "centre-crop"])
def test_photos_of_several_sizes_in_one_batch(words: str) -> None:
    photos = [np.full((*hw, 3), 77, np.uint8) for hw in ((64, 96), (50, 40), (32, 48))]
    preparation = DeclaredPreparation(ImageGeometry.parse(words), SPEC)
    together = preparation(photos)
    assert together.shape == (3, 3, *preparation.image_hw)
    for photo, pixels in zip(photos, together, strict=True):
        assert torch.equal(preparation([photo])[0], pixels)
        shown = preparation.mapping(photo.shape[:2]).valid_tower_pixels()
        assert torch.equal(as_bytes(pixels, SPEC)[0] == 77, shown)


def test_the_published_recipe_is_the_stretch() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    stretch = DeclaredPreparation(ImageGeometry.STRETCH, SPEC)
    assert torch.equal(stretch([photo]), prepare([photo], SPEC))
    assert (stretch.name, stretch.kind) == ("bicubic-squash-1", "stretch")
