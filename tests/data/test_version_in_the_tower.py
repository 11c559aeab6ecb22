"""The target of a version over the tower's image lies where the tower sees the photo, and nowhere else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spaceclip_plugin.data.version import Version
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.towers import ImageGeometry

HW, TOWER = (40, 56), (32, 32)
VERSIONS = {
    "as photographed": Version(),
    "mirrored": Version(mirrored=True),
    "cropped": Version(top=0.1, left=0.25, height=0.5, width=0.5),
    "cropped and mirrored": Version(top=0.1, left=0.25, height=0.75, width=0.5, mirrored=True),
    "turned": Version(rotation_deg=8, photo_aspect=56 / 40),
    "turned, cropped and mirrored": Version(0.2, 0.1, 0.5, 0.5, mirrored=True, rotation_deg=-5, photo_aspect=56 / 40),
}
GEOMETRIES = ["letterbox", "letterbox:bottom-right", "centre-crop"]


def planes() -> tuple[np.ndarray, np.ndarray]:
    """Photos and depth whose values grow with the column, and with the row."""
    rows, columns = np.indices(HW)
    photo = np.stack([4 * columns, 6 * rows, np.full(HW, 9)], axis=-1).astype(np.uint8)
    return photo, np.stack([1 + columns, 1 + rows]).astype(np.float32)


@pytest.mark.parametrize("words", GEOMETRIES)
@pytest.mark.parametrize("name", VERSIONS)
def test_depth_lies_where_the_tower_sees_the_photo(name: str, words: str) -> None:
    """What the tower is shown says the place in the photo, and so does the depth: at every pixel both agree."""
    version, geometry = VERSIONS[name], ImageGeometry.parse(words)
    photo, depths_m = planes()
    image = version.image(photo)
    mapping = geometry.mapping(image.shape[:2], TOWER)
    laid = geometry.image(image, TOWER).astype(float)
    columns_m, rows_m = (version.target(depth_m, TOWER, mapping=mapping) / version.scale for depth_m in depths_m)
    shown = mapping.valid_tower_pixels().numpy()
    assert (columns_m[~shown] == 0).all()
    known = shown & (columns_m > 0)
    assert known.sum() > (0.8 if version.rotation_deg else 0.999) * shown.sum()
    inner = known & np.roll(known, 2, 0) & np.roll(known, -2, 0) & np.roll(known, 2, 1) & np.roll(known, -2, 1)
    # Bicubic values bend at the borders of the photo, and nearest pixels are off by a half.
    np.testing.assert_allclose(columns_m[inner] - 1, laid[inner][:, 0] / 4, atol=1.6)
    np.testing.assert_allclose(rows_m[inner] - 1, laid[inner][:, 1] / 6, atol=1.6)


@pytest.mark.parametrize("name", VERSIONS)
def test_a_stretch_is_no_mapping(name: str) -> None:
    version, (_, depths_m) = VERSIONS[name], planes()
    stretched = ImageMapping.stretched(version.image_hw(HW), TOWER)
    for depth_m in depths_m:
        assert (version.target(depth_m, (24, 30), mapping=stretched) == version.target(depth_m, (24, 30))).all()


def test_the_size_of_a_version_is_its_images() -> None:
    for version in VERSIONS.values():
        assert version.image_hw(HW) == version.image(planes()[0]).shape[:2]


def test_emptiness_stays_infinite_and_unknown_unknown() -> None:
    depth_m = np.full(HW, np.inf, np.float32)
    depth_m[:, 28:] = 0
    half = dataclasses.replace(VERSIONS["cropped"], left=0.0, width=1.0)
    mapping = ImageMapping.letterboxed(half.image_hw(HW), TOWER)
    target_m = half.target(depth_m, TOWER, mapping=mapping)
    assert set(np.unique(target_m)) == {0.0, np.inf}
    assert (np.isinf(target_m) == (mapping.valid_tower_pixels().numpy() & (np.arange(32) < 16))).all()
