"""Lists, folders and LeRobot data sets whose photos have no depth: refused to learn from, opened to be taught."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import lerobot_stand_in
import numpy as np
import pytest
from source_places import HEIGHT, WIDTH, depth_mm, image, save_folders

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.data.sample import fingerprint
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.spec import SourceSpec, open_photos
from spaceclip_plugin.errors import DataError
from spaceclip_worlds.render.tabletop import SceneData

LENS = {"fx": 4.0, "fy": 4.0, "cx": 2.5, "cy": 2.0}


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    save_folders(tmp_path / "kitchen")
    return tmp_path / "kitchen"


def test_photos_of_a_folder_with_and_without_depth(kitchen: Path) -> None:
    (kitchen / "depth" / "1.png").unlink()
    (kitchen / "intrinsics.json").write_text(json.dumps(LENS))
    spec = FolderData(str(kitchen))
    with pytest.raises(DataError, match=r"1: photo without a depth map"):
        spec.open(units_per_metre=1000.0)
    source = open_photos(spec, units_per_metre=1000.0)
    assert [bool(source[index].depth_m.any()) for index in range(4)] == [True, False, True, True]
    assert source[1].depth_m.shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(source[1].image, image(1))
    assert source[1].intrinsics == source[0].intrinsics is not None
    assert len({fingerprint(source, index) for index in range(4)}) == 4


def test_depth_without_a_photo_stays_an_error(kitchen: Path) -> None:
    (kitchen / "rgb" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1: depth map without a photo"):
        open_photos(FolderData(str(kitchen)), units_per_metre=1000.0)


@pytest.mark.parametrize("inner", ["rgb", "."])
def test_a_folder_of_photos_alone(kitchen: Path, inner: str) -> None:
    for path in (kitchen / "depth").iterdir():
        path.unlink()
    (kitchen / "depth").rmdir()
    spec = FolderData(str(kitchen if inner == "rgb" else kitchen / "rgb"))
    source = open_photos(spec, units_per_metre=1000.0)
    assert len(source) == 4
    assert [source[index].name for index in range(4)] == [f"{index}.png" for index in range(4)]


@pytest.mark.parametrize("line", ["rgb/0.png", "rgb/0.png None", "rgb/0.png None 500"])
def test_lines_without_depth(kitchen: Path, line: str) -> None:
    (kitchen / "all.txt").write_text(f"{line}\nrgb/1.png depth/1.png\n")
    spec = ListData(str(kitchen / "all.txt"))
    with pytest.raises(DataError, match=r"all\.txt:1"):
        spec.open(units_per_metre=1000.0)
    source = open_photos(spec, units_per_metre=1000.0)
    assert not source[0].depth_m.any()
    assert source[1].depth_m.any()
    assert (source[0].intrinsics is not None) == ("500" in line)


class TestLeRobot:
    @pytest.fixture(autouse=True)
    def _stand_in(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        module = SimpleNamespace(LeRobotDataset=lerobot_stand_in.StandIn)
        monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", module)
        frames = [np.stack([make(index) for index in range(4)]) for make in (image, depth_mm)]
        frames[1][2] = 0
        lerobot_stand_in.save(tmp_path / "drawer", *frames)

    def test_a_frame_without_depth_is_one_to_teach(self, tmp_path: Path) -> None:
        spec = LeRobotData(str(tmp_path / "drawer"))
        with pytest.raises(DataError, match="no pixel of known depth"):
            spec.open(units_per_metre=1.0)[2]
        source = open_photos(spec, units_per_metre=1.0)
        assert [bool(source[index].depth_m.any()) for index in range(4)] == [True, True, False, True]
        assert [source[index].clip for index in range(4)] == ["episode 0", "episode 0", "episode 1", "episode 1"]

    def test_a_camera_without_depth(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        features = {lerobot_stand_in.KEY: {"dtype": "video"}, "action": {"dtype": "float32"}}
        monkeypatch.setattr(lerobot_stand_in, "FEATURES", features)
        spec = LeRobotData(str(tmp_path / "drawer"))
        with pytest.raises(DataError, match="expected depth of a camera"):
            spec.open(units_per_metre=1.0)
        source = open_photos(spec, units_per_metre=1.0)
        np.testing.assert_array_equal(source[3].image, image(3))
        assert not source[3].depth_m.any()

    def test_one_of_several_cameras_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        side = "observation.images.side"
        features = {lerobot_stand_in.KEY: {"dtype": "video"}, side: {"dtype": "video"}}
        monkeypatch.setattr(lerobot_stand_in, "FEATURES", features)
        with pytest.raises(DataError, match="2 cameras have photos; choose one with camera: front, side"):
            open_photos(LeRobotData(str(tmp_path / "drawer")), units_per_metre=1.0)
        named = LeRobotData(str(tmp_path / "drawer"), camera="front")
        assert len(open_photos(named, units_per_metre=1.0)) == 4


def test_data_that_always_has_depth_opens_as_ever() -> None:
    spec: SourceSpec = SceneData(2, height_px=8, width_px=10)
    assert open_photos(spec, units_per_metre=1000.0)[1].depth_m.any()
