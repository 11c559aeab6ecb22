from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exif_files import save

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.data.files.pairs import along_axis
from spaceclip_plugin.data.sources.depth_list import DepthList, ListData
from spaceclip_plugin.data.sources.image_folder import FolderData, ImageFolder
from spaceclip_plugin.data.sources.registry import parse_source
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError


def test_a_pixel_at_45_degrees_is_41_per_cent_nearer_along_the_axis() -> None:
    # Column 2's centre is at 2.5 px; with cx = 0.5 and fx = 2, the ray leans by x = 1.
    camera = Intrinsics(2.0, 1.0, 0.5, 0.5, (2, 3))
    ray_m = np.full((2, 3), 3.0, dtype=np.float32)
    ray_m[0, 1] = 0.0
    expected = [[3.0, 0.0, 3 / 2**0.5], [3 / 2**0.5, 3 / 2.25**0.5, 3 / 3**0.5]]
    found = along_axis(ray_m, camera)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_intrinsics_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2x3 .* got \(4, 6\)"):
        along_axis(np.ones((2, 3), np.float32), Intrinsics(2.0, 2.0, 3.0, 2.0, (4, 6)))


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """One pair whose depth is 2 m along every ray."""
    save(tmp_path / "rgb/0.png", np.zeros((4, 6, 3), np.uint8), None)
    save(tmp_path / "depth/0.npy", np.full((4, 6), 2.0), None)
    return tmp_path


def test_the_focal_length_of_a_list_converts(room: Path) -> None:
    (room / "list.txt").write_text("rgb/0.png depth/0.npy 3\n")
    x, y = (np.arange(6) - 2.5) / 3, (np.arange(4) - 1.5) / 3
    expected = 2 / np.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2)
    np.testing.assert_allclose(DepthList(room / "list.txt", distance="ray")[0].depth_m, expected, rtol=1e-6)
    assert (DepthList(room / "list.txt")[0].depth_m == 2.0).all()
    opened = ListData(str(room / "list.txt"), distance="ray").open(units_per_metre=1000.0)
    np.testing.assert_allclose(opened[0].depth_m, expected, rtol=1e-6)


def test_without_intrinsics_it_is_refused_by_name(room: Path) -> None:
    (room / "list.txt").write_text("rgb/0.png depth/0.npy\n")
    with pytest.raises(DataError, match=r"list\.txt:1: distance 'ray' .*0\.npy.*focal length"):
        DepthList(room / "list.txt", distance="ray")
    with pytest.raises(DataError, match=r"distance 'ray' .*0\.npy.*intrinsics\.json"):
        ImageFolder(room, distance="ray")


def test_sources_are_asked_which_distance_they_hold() -> None:
    assert parse_source({"source": "folder", "path": "x", "distance": "ray"}) == FolderData("x", distance="ray")
    assert FolderData("x").distance == ListData("x").distance == LeRobotData("x").distance == "axis"
    with pytest.raises(ConfigError, match=r"distance must be one of axis, ray, got 'rays' \(did you mean 'ray'\?\)"):
        ListData("x", distance="rays")
    with pytest.raises(ConfigError, match=r"distance 'ray' .* LeRobot"):
        LeRobotData("x", distance="ray")


def test_a_focal_length_that_is_not_in_pixels_is_refused(room: Path) -> None:
    (room / "list.txt").write_text("rgb/0.png depth/0.npy 0.1\n")
    with pytest.raises(DataError, match=r"list.txt:1: a focal length of 0\.1 pixels .* 4x6 .* not in parts"):
        DepthList(room / "list.txt", distance="ray")[0]
