"""Which way up photo and depth map are read, for every orientation and every kind of file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from exif_files import ORIENTATIONS, save, stored

from spaceclip_plugin.data.files.images import read_rgb
from spaceclip_plugin.data.sample import DepthSample, fingerprint
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import DataError

SIZES = [(4, 6), (6, 4), (5, 5)]
WITH_UNITS = (".png", ".pgm")
every_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS)
every_size = pytest.mark.parametrize("hw", SIZES)


def photo_of(hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)


def millimetres_of(hw: tuple[int, int]) -> np.ndarray:
    return (1000 + 37 * np.arange(hw[0] * hw[1]).reshape(hw)).astype(np.uint16)


def in_file(values: np.ndarray, suffix: str) -> np.ndarray:
    return values if suffix in WITH_UNITS else (values / 1000).astype(np.float32)


def sample(folder: Path, **options: object) -> DepthSample:
    return ImageFolder(folder, **options)[0]  # type: ignore[arg-type]


@every_orientation
@every_size
@pytest.mark.parametrize("suffix", [".png", ".pgm", ".npy", ".npz", ".tiff"])
def test_depth_without_a_tag_is_turned_as_its_photo(
    tmp_path: Path, orientation: int, hw: tuple[int, int], suffix: str
) -> None:
    photo, depth = photo_of(hw), millimetres_of(hw)
    save(tmp_path / "rgb/0.png", stored(photo, orientation), orientation)
    save(tmp_path / f"depth/0{suffix}", in_file(stored(depth, orientation), suffix), None)
    found = sample(tmp_path)
    np.testing.assert_array_equal(found.image, photo)
    np.testing.assert_array_equal(found.depth_m, (depth / 1000).astype(np.float32))


@every_orientation
@every_size
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("tag_of_photo", [None, "same"])
def test_depth_with_a_tag_is_turned_by_it_once(
    tmp_path: Path, orientation: int, hw: tuple[int, int], suffix: str, tag_of_photo: str | None
) -> None:
    photo, depth = photo_of(hw), millimetres_of(hw)
    held = orientation if tag_of_photo == "same" else 1
    save(tmp_path / "rgb/0.png", stored(photo, held), None if tag_of_photo is None else held)
    save(tmp_path / f"depth/0{suffix}", in_file(stored(depth, orientation), suffix), orientation)
    found = sample(tmp_path)
    np.testing.assert_array_equal(found.image, photo)
    np.testing.assert_array_equal(found.depth_m, (depth / 1000).astype(np.float32))


@every_orientation
@every_size
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_a_tag_of_1_says_that_depth_is_upright(
    tmp_path: Path, orientation: int, hw: tuple[int, int], suffix: str
) -> None:
    depth = millimetres_of(hw)
    save(tmp_path / "rgb/0.png", stored(photo_of(hw), orientation), orientation)
    save(tmp_path / f"depth/0{suffix}", in_file(depth, suffix), 1)
    np.testing.assert_array_equal(sample(tmp_path).depth_m, (depth / 1000).astype(np.float32))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", [".png", ".npy", ".tiff"])
def test_depth_whose_size_is_upright_already_stays(tmp_path: Path, orientation: int, suffix: str) -> None:
    depth = millimetres_of((6, 4))
    save(tmp_path / "rgb/0.png", stored(photo_of((12, 8)), orientation), orientation)
    save(tmp_path / f"depth/0{suffix}", in_file(depth, suffix), None)
    np.testing.assert_array_equal(sample(tmp_path).depth_m, (depth / 1000).astype(np.float32))


@every_orientation
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".webp"])
def test_photos_of_every_format_are_turned_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    blocks = np.kron(np.array([[20, 90, 160], [230, 120, 60]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
    photo = np.stack([blocks] * 3, axis=-1)
    save(tmp_path / f"photo{suffix}", stored(photo, orientation), orientation)
    np.testing.assert_allclose(read_rgb(tmp_path / f"photo{suffix}"), photo, rtol=0, atol=4)


@every_orientation
@every_size
def test_intrinsics_are_turned_with_the_depth_map(tmp_path: Path, orientation: int, hw: tuple[int, int]) -> None:
    kept = stored(millimetres_of(hw), orientation)
    height, width = kept.shape
    save(tmp_path / "rgb/0.png", stored(photo_of(hw), orientation), orientation)
    save(tmp_path / "depth/0.png", kept, None)
    x, y = 0.5 * width + 0.25, 0.5 * height - 0.125
    (tmp_path / "intrinsics.json").write_text(json.dumps({"fx": 7.0, "fy": 9.0, "cx": x, "cy": y}))
    fx, fy = (9.0, 7.0) if orientation >= 5 else (7.0, 9.0)
    cx, cy = {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[orientation]
    assert sample(tmp_path).intrinsics == Intrinsics(fx, fy, cx, cy, hw)


@every_orientation
def test_a_plane_measured_along_the_ray_is_flat(tmp_path: Path, orientation: int) -> None:
    hw = (4, 6)
    kept_hw = stored(np.zeros(hw, np.uint8), orientation).shape
    camera = {"fx": 5.0, "fy": 6.0, "cx": 0.5 * kept_hw[1] + 0.25, "cy": 0.5 * kept_hw[0] - 0.25}
    x = (np.arange(kept_hw[1]) + 0.5 - camera["cx"]) / camera["fx"]
    y = (np.arange(kept_hw[0]) + 0.5 - camera["cy"]) / camera["fy"]
    save(tmp_path / "rgb/0.png", stored(photo_of(hw), orientation), orientation)
    save(tmp_path / "depth/0.npy", 2.0 * np.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2), None)
    (tmp_path / "intrinsics.json").write_text(json.dumps(camera))
    np.testing.assert_allclose(sample(tmp_path, distance="ray").depth_m, np.full(hw, 2.0), rtol=1e-6)


def test_that_depth_is_turned_with_its_photo_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("0", "1"):
        save(tmp_path / f"rgb/{name}.png", stored(photo_of((4, 6)), 6), 6)
        save(tmp_path / f"depth/{name}.png", stored(millimetres_of((4, 6)), 6), None)
    source = ImageFolder(tmp_path)
    with caplog.at_level(logging.INFO):
        assert [source[i].depth_m.shape for i in (0, 1, 0)] == [(4, 6)] * 3
    assert [record.getMessage().count("orientation 6") for record in caplog.records] == [1]


def test_nothing_is_said_where_nothing_is_turned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "rgb/0.png", photo_of((4, 6)), 1)
    save(tmp_path / "depth/0.png", stored(millimetres_of((4, 6)), 8), 8)
    with caplog.at_level(logging.INFO):
        sample(tmp_path)
    assert not caplog.records


def test_the_orientation_and_the_distance_are_in_the_fingerprint(tmp_path: Path) -> None:
    prints = []
    (tmp_path / "intrinsics.json").write_text('{"fx": 7.0, "fy": 7.0, "cx": 2.5, "cy": 2.5}')
    for photo_tag, depth_tag, distance in [(None, None, "axis"), (3, None, "axis"), (None, 3, "axis"), (3, 3, "ray")]:
        save(tmp_path / "rgb/0.png", photo_of((5, 5)), photo_tag)
        save(tmp_path / "depth/0.png", millimetres_of((5, 5)), depth_tag)
        prints.append(fingerprint(ImageFolder(tmp_path, distance=distance), 0))
    prints.append(fingerprint(ImageFolder(tmp_path), 0))
    assert len(set(prints)) == 5


@pytest.mark.parametrize(
    ("photo_hw", "depth_hw", "principal"),
    [((968, 1296), (480, 640), (648.0, 484.0)), ((48, 64), (48, 64), (24.0, 32.0))],
    ids=["the photo's", "upright"],
)
def test_intrinsics_of_another_picture_are_questioned(
    tmp_path: Path, photo_hw: tuple[int, int], depth_hw: tuple[int, int], principal: tuple[float, float]
) -> None:
    save(tmp_path / "rgb/0.png", photo_of(photo_hw), None)
    save(tmp_path / "depth/0.npy", np.ones(depth_hw, np.float32), None)
    camera = {"fx": 500.0, "fy": 500.0, "cx": principal[0], "cy": principal[1]}
    (tmp_path / "intrinsics.json").write_text(json.dumps(camera))
    with pytest.raises(DataError, match=rf"\({principal[0]:g}, {principal[1]:g}\).* {depth_hw[0]}x{depth_hw[1]}"):
        sample(tmp_path)


def test_depth_of_another_size_keeps_it(tmp_path: Path) -> None:
    save(tmp_path / "rgb/0.png", photo_of((12, 16)), None)
    save(tmp_path / "depth/0.png", millimetres_of((6, 8)), None)
    (tmp_path / "intrinsics.json").write_text('{"fx": 7.0, "fy": 7.0, "cx": 4.0, "cy": 3.0}')
    found = sample(tmp_path)
    assert (found.image.shape, found.depth_m.shape) == ((12, 16, 3), (6, 8))
    assert found.intrinsics == Intrinsics(7.0, 7.0, 4.0, 3.0, (6, 8))


def test_depth_of_another_aspect_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "rgb/0.png", photo_of((12, 16)), None)
    save(tmp_path / "depth/0.png", millimetres_of((8, 8)), None)
    with pytest.raises(DataError, match=r"depth/0\.png is 8x8 \(HxW\) but .*rgb/0\.png is 12x16"):
        sample(tmp_path)
