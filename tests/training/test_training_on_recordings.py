"""`spaceclip train` on a robot's recordings: which frames, which episodes are held out, and what comes out."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lerobot_stand_in import EPISODE, FRAMES_PER_SECOND, StandIn, save
from PIL import Image
from small_world import tiny_host
from train_flags import arguments_of, listed
from wall_teacher import WallTeacher, save_photos

import spaceclip_plugin
from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData
from spaceclip_plugin.cli import main
from spaceclip_plugin.cli.train_config import new_run, resumed_run
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.registry import source_kinds
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.teaching import TaughtData, TeachOptions, teach
from spaceclip_plugin.training.config.run_config import RunConfig, WeightedSource

EPISODES = 10
KEPT = FRAMES_PER_SECOND // 2


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten episodes of two frames, which differ."""
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", SimpleNamespace(LeRobotDataset=StandIn))
    monkeypatch.chdir(tmp_path)
    generator, shape = np.random.default_rng(0), (EPISODES * EPISODE, 32, 32)
    images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
    save(tmp_path / "kitchen", images, generator.integers(1000, 3000, shape))
    return tmp_path / "kitchen"


def config_of(*argv: str) -> RunConfig:
    return new_run(arguments_of("--host", "h", "--out", "o", *argv))


def spec_of(parts: tuple[WeightedSource, ...]) -> LeRobotData:
    [part] = parts
    assert isinstance(part.source, LeRobotData)
    return part.source


@pytest.mark.usefixtures("kitchen")
class TestSettings:
    def test_a_tenth_of_the_episodes_is_held_out(self) -> None:
        config = config_of("--data", "lerobot:kitchen", "--camera", "front")
        assert spec_of(config.data) == LeRobotData("kitchen", "front", KEPT, "0-4,6-9")
        assert spec_of(config.validation) == LeRobotData("kitchen", "front", KEPT, "5")
        assert config.protocol == "whole-image"
        assert config_of("--data", "lerobot:kitchen", "--seed", "9").validation == (
            WeightedSource(LeRobotData("kitchen", None, KEPT, "5")),
        )

    def test_what_is_chosen_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "spaceclip_plugin"):
            config_of("--data", "lerobot:kitchen")
        said = caplog.text
        for words in (f"one frame in {KEPT}", "episodes 5", "protocol whole-image"):
            assert words in said

    def test_what_is_given_stays(self) -> None:
        argv = ["--data", "lerobot:kitchen", "--stride", "1", "--protocol", "nyu-eigen"]
        config = config_of(*argv)
        assert (spec_of(config.data).stride, spec_of(config.validation).stride) == (1, 1)
        assert config.protocol == "nyu-eigen"
        config = config_of("--data", "lerobot:kitchen", "--val", "b")
        assert (spec_of(config.data).episodes, config.validation) == (None, listed("b"))

    def test_episodes_that_are_named_are_split(self) -> None:
        config = config_of("--data", "lerobot:kitchen", "--episodes", "2-5")
        assert (spec_of(config.data).episodes, spec_of(config.validation).episodes) == ("2-3,5", "4")

    def test_a_settings_file_needs_no_validation_either(self, tmp_path: Path) -> None:
        (tmp_path / "s.yaml").write_text(
            "host: h\ndata: [{source: lerobot, path: kitchen, episodes: 2-5, stride: 3}]\nprotocol: nyu-eigen\n"
        )
        config = new_run(arguments_of("--config", "s.yaml", "--out", "o"))
        assert (spec_of(config.data).episodes, spec_of(config.validation).episodes) == ("2-3,5", "4")
        assert (spec_of(config.validation).stride, config.protocol) == (3, "nyu-eigen")

    def test_one_episode_cannot_be_split(self, tmp_path: Path) -> None:
        save(tmp_path / "short", np.zeros((EPISODE, 4, 5, 3), np.uint8), np.ones((EPISODE, 4, 5)))
        with pytest.raises(DataError, match=r"short: one episode cannot be split"):
            config_of("--data", "lerobot:short")

    def test_flags_of_recordings_are_of_no_use_to_others(self) -> None:
        for flag in (["--camera", "front"], ["--stride", "2"], ["--episodes", "0-3"]):
            with pytest.raises(ConfigError, match=f"{flag[0]} {flag[1]} is for LeRobot data sets"):
                config_of("--data", "scenes:2", "--val", "scenes:1:1", *flag)

    def test_other_data_beside_them_needs_validation_data(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert_usage(["--data", "lerobot:kitchen", "--data", "scenes:2"], "--val missing", capsys)


@pytest.fixture
def lessons(kitchen: Path) -> Path:
    """What was taught of every frame of the recordings, the brighter the farther."""
    shutil.rmtree(kitchen)
    images = np.random.default_rng(0).integers(60, 200, (EPISODES * EPISODE, 32, 32, 3), dtype=np.uint8)
    save(kitchen, images, images[..., 0] * 20.0)
    folder = kitchen.parent / "lessons"
    teach(LeRobotData("kitchen", "front"), WallTeacher(), folder, options=TeachOptions(progress=False))
    return folder


@pytest.mark.usefixtures("lessons")
@pytest.mark.skipif("taught" not in source_kinds(), reason="the package was installed before it had taught")
class TestTaught:
    """What was taught of recordings is split, thinned and told of as they are."""

    def test_split_and_stride_are_those_of_the_recordings(self) -> None:
        config, own = config_of("--data", "taught:lessons"), config_of("--data", "lerobot:kitchen")
        for mine, theirs in ((config.data, own.data), (config.validation, own.validation)):
            assert taught_of(mine) == TaughtData("lessons", spec_of(theirs).stride, spec_of(theirs).episodes)
        assert config.protocol == own.protocol == "whole-image"
        again = config_of("--data", "taught:lessons", "--episodes", "2-5", "--stride", "1")
        assert [(taught_of(part).episodes, taught_of(part).stride) for part in (again.data, again.validation)] == [
            ("2-3,5", 1), ("4", 1),
        ]  # fmt: skip

    def test_parts_are_the_photos_of_their_episodes(self) -> None:
        whole = TaughtData("lessons").open(units_per_metre=1.0)
        parts = [part.open(units_per_metre=1.0) for part in TaughtData("lessons").split(0.1)]
        clips = [[source[i].clip for i in range(len(source))] for source in (*parts, whole)]
        assert clips[1] == ["episode 5"] * EPISODE
        assert clips[0] == [clip for clip in clips[2] if clip != "episode 5"]
        assert len(TaughtData("lessons", stride=KEPT).open(units_per_metre=1.0)) == len(whole) // KEPT

    def test_a_stride_of_the_teaching_counts(self) -> None:
        spec = LeRobotData("kitchen", "front", stride=KEPT)
        teach(spec, WallTeacher(), Path("fewer"), options=TeachOptions(progress=False))
        assert TaughtData("fewer").thinned().stride == 1

    def test_what_cannot_be_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"of episode 12 nothing was taught; there are 0-9"):
            TaughtData("lessons", episodes="0,12").open(units_per_metre=1.0)
        with pytest.raises(ConfigError, match="--camera wrist is for LeRobot data sets"):
            config_of("--data", "taught:lessons", "--camera", "wrist")
        with pytest.raises(DataError, match="one episode cannot be split"):
            config_of("--data", "taught:lessons", "--episodes", "3")

    def test_photos_of_no_episodes_need_validation_data(self, capsys: pytest.CaptureFixture[str]) -> None:
        save_photos(Path("hall"))
        teach(FolderData("hall"), WallTeacher(), Path("hall-lessons"), options=TeachOptions(progress=False))
        assert_usage(["--data", "taught:hall-lessons"], "--val missing", capsys)
        config = config_of("--data", "taught:hall-lessons", "--val", "taught:hall-lessons")
        assert (taught_of(config.data), config.protocol) == (TaughtData("hall-lessons"), RunConfig().protocol)

    @pytest.mark.slow
    def test_record_and_card_name_the_episodes(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", *SHORT, "--data", "taught:lessons", "--out", "run"]) == 0, capsys.readouterr().err
        record = json.loads(Path("run/run.json").read_text())
        [judged] = record["details"]["recordings"]["validation"]
        assert judged == {"title": "lessons", "camera": "front", "stride": KEPT, "episodes": "5"}
        assert (record["train_images"], record["validation_images"]) == (9 * EPISODE // KEPT, EPISODE // KEPT)
        assert record["details"]["validated_on"] == "a teacher's depth"
        assert "No depth was measured for validation" in Path("run/README.md").read_text()


def taught_of(parts: tuple[WeightedSource, ...]) -> TaughtData:
    [part] = parts
    assert isinstance(part.source, TaughtData)
    return part.source


def assert_usage(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--host", "h", "--out", "o", *argv])
    assert exit_info.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("episodes", "total", "held"),
    [(None, 20, [5, 15]), ("0-1", 20, [1]), ("3,8,11", 20, [8]), (None, 2, [1])],
)
@pytest.mark.usefixtures("kitchen")
def test_parts_are_whole_and_apart(tmp_path: Path, episodes: str | None, total: int, held: list[int]) -> None:
    frames = EPISODE * total
    save(tmp_path / "long", np.zeros((frames, 4, 5, 3), np.uint8), np.ones((frames, 4, 5)))
    spec = LeRobotData("long", episodes=episodes)
    parts = [part.open(units_per_metre=1.0) for part in spec.split(0.1)]
    learnt, judged = ({source[i].clip for i in range(len(source))} for source in parts)
    whole = spec.open(units_per_metre=1.0)
    assert judged == {f"episode {number}" for number in held}
    assert not learnt & judged
    assert learnt | judged == {whole[i].clip for i in range(len(whole))}


SHORT = ["--host", "python:small_world:tiny_host", "--device", "cpu", "--arch", "tap-mixer"]
SHORT += ["--epochs", "5", "--views", "1", "--batch-size", "4"]


@pytest.mark.slow
def test_one_command_gives_a_head_a_card_a_picture_and_the_line_that_attaches_it(
    kitchen: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["train", *SHORT, "--data", "lerobot:kitchen", "--camera", "front", "--out", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "steps are left at" in caplog.text
    run = kitchen.parent / "run"
    record = json.loads((run / "run.json").read_text())
    assert (record["train_images"], record["validation_images"]) == (9 * EPISODE // KEPT, EPISODE // KEPT)
    [judged] = record["details"]["recordings"]["validation"]
    assert judged == {"title": "kitchen", "camera": "front", "stride": KEPT, "episodes": "5"}
    with Image.open(run / "validation.png") as picture:
        assert picture.width > picture.height
    card = (run / "README.md").read_text()
    assert card.startswith("# run\n")
    assert "](validation.png)" in card
    assert f"{told['validation']['abs_rel']:.4f}" in card
    names = {"spaceclip_plugin": spaceclip_plugin, "host": tiny_host()}
    exec(told["attach"], names)
    attachment = names["depth"]
    assert isinstance(attachment, spaceclip_plugin.DepthAttachment)
    with attachment:
        assert attachment.head.config.trained_on == f"kitchen ({9 * EPISODE // KEPT} images)"


def test_a_run_that_goes_on_has_the_same_split(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("--data", "lerobot:kitchen")
    run = kitchen.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml())
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", None)  # nothing is asked of the data
    again = resumed_run(arguments_of("--resume", str(run)))
    assert (again.data, again.validation) == (config.resolved(Path.cwd()).data, config.resolved(Path.cwd()).validation)


def test_a_camera_that_is_not_there(kitchen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SHORT, "--data", f"lerobot:{kitchen}", "--camera", "wrist", "--out", "run"]) == 1
    assert "no camera 'wrist' with depth; known: front" in capsys.readouterr().err
    assert not (kitchen.parent / "run").exists()
