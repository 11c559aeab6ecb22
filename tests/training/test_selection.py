"""Validation data that is named like a test set is refused, and no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.spec import SourceSpec
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.config.run_config import RunConfig, WeightedSource
from spaceclip_plugin.training.selection import named_like_a_test_set
from spaceclip_worlds.render.tabletop import SceneData


class TestSelection:
    @pytest.mark.parametrize(
        "path",
        [
            "test.txt",
            "TEST.txt",
            "nyudepthv2_test_files_with_gt.txt",
            "eigen_test.txt",
            "EigenTest654.txt",
            "kitti-testing.lst",
            "data/testing/list.txt",
            "data/eigen_test/list.txt",
            "KITTI/Test/a.txt",
            "nyu_test2.txt",
            "testset.txt",
        ],
    )
    def test_names_of_test_sets(self, path: str) -> None:
        assert named_like_a_test_set(ListData(path))
        config = RunConfig(validation=(WeightedSource(SceneData(1)), WeightedSource(ListData(path))))
        with pytest.raises(ConfigError, match=r"named like a test set.*--test.*--select-on-test") as info:
            config.check_validation()
        assert repr(Path(path).name) in str(info.value)
        dataclasses.replace(config, select_on_test=True).check_validation()

    @pytest.mark.parametrize(
        "path",
        [
            "val.txt",
            "latest.txt",
            "contest.txt",
            "LATEST.TXT",
            "attestation/protest.txt",
            "testbed.txt",
            "test_bench/val.txt",
            "testing/kitti/val.txt",
            "tested.txt",
        ],
    )
    def test_other_names(self, path: str) -> None:
        assert not named_like_a_test_set(ListData(path))
        RunConfig(validation=(WeightedSource(ListData(path)),)).check_validation()

    @pytest.mark.parametrize(
        ("spec", "named"),
        [
            (FolderData("kitti/testing"), True),
            (FolderData("kitti/test_photos"), True),
            (FolderData("kitti", images="testing/image_2"), True),
            (FolderData("kitti", depth="depth_test"), True),
            (FolderData("kitti", images="rgb"), False),
            (FolderData("latest"), False),
            (LeRobotData("someone/pick_test"), True),
            (LeRobotData("someone/pick_place"), False),
            (ListData("list.txt", root="nyu/test"), True),
            (ListData("list.txt", root="nyu"), False),
            (SceneData(3), False),
        ],
    )
    def test_sources_of_every_kind(self, spec: SourceSpec, named: bool) -> None:
        assert named_like_a_test_set(spec) == named

    def test_the_folder_one_is_in_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "testing").mkdir()
        monkeypatch.chdir(tmp_path / "testing")
        with pytest.raises(ConfigError, match="named like a test set"):
            RunConfig(validation=(WeightedSource(ListData("list.txt")),)).check_validation()

    def test_training_and_test_data_may_be_called_anything(self) -> None:
        test = (WeightedSource(ListData("test.txt")),)
        RunConfig(data=test, test=test, validation=(WeightedSource(SceneData(1)),)).check_validation()
