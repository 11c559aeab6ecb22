"""`train_head`: from a live policy and its data to a head in one call, with a teacher or without."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lerobot_stand_in import EPISODE, KEY, StandIn, save
from small_world import scenes, tiny_host
from wall_teacher import WallTeacher

from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.bridges.lerobot import LeRobotData
from spaceclip_plugin.cli import main, taught_training
from spaceclip_plugin.data.sources import registry
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.teaching import train_head
from spaceclip_plugin.training import Recipe

ONCE = Recipe(epochs=1, views=1, batch_size=4)
EPISODES = 4


class Blind(StandIn):
    """A data set without depth."""

    def __init__(
        self,
        repo_id: str,
        root: str | Path | None = None,
        episodes: list[int] | None = None,
        depth_output_unit: str = "mm",
        return_uint8: bool = False,
    ) -> None:
        super().__init__(repo_id, root, episodes, depth_output_unit)
        del self.features[f"{KEY}_depth"]
        for item in self.items:
            del item[f"{KEY}_depth"]


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four episodes; brightness is depth to the teacher."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(50, 200, (EPISODES * EPISODE, 32, 32, 3), dtype=np.uint8)
    save(tmp_path / "drawer", images, images[..., 0] * 20.0)
    return tmp_path / "drawer"


def reading(monkeypatch: pytest.MonkeyPatch, kind: type[StandIn]) -> None:
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", SimpleNamespace(LeRobotDataset=kind))


def details_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["details"]
    return found


@pytest.mark.slow
def test_a_data_set_alone_is_split_and_the_policy_stays_as_it_is(drawer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading(monkeypatch, StandIn)
    policy = tiny_host().eval()
    before = module_digest(policy)
    result = train_head(policy, f"lerobot:{drawer}", out="run", recipe=ONCE)
    assert module_digest(policy) == before
    assert (result.folder, result.head.config.trained_on) == (Path("run/head"), "drawer (3 images)")
    details = details_of(Path("run"))
    assert details["validated_on"] == "the data's own depth"
    assert [part["episodes"] for part in details["recordings"]["data"]] == ["0-1,3"]
    assert [part["episodes"] for part in details["recordings"]["validation"]] == ["2"]


@pytest.mark.slow
def test_photos_without_depth_are_taught_those_to_validate_on_too(
    drawer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading(monkeypatch, Blind)
    monkeypatch.setattr(registry, "source_kinds", _with_taught(registry.source_kinds()))
    result = train_head(
        tiny_host(), LeRobotData(str(drawer), camera="front"), out="run", teacher=WallTeacher(), recipe=ONCE
    )
    details = details_of(Path("run"))
    assert details["validated_on"] == "a teacher's depth"
    assert [card["name"] for card in details["teachers"]] == ["wall:1"]
    assert not (Path("run") / "cache").exists()
    assert "No depth was measured for validation" in (result.folder.parent / "README.md").read_text()


@pytest.mark.slow
def test_the_command_teaches_both_where_nothing_was_measured(
    drawer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[WallTeacher] = []

    def load(name: str, *, device: object) -> WallTeacher:
        asked.append(WallTeacher())
        return asked[-1]

    monkeypatch.setattr(taught_training, "load_teacher", load)
    monkeypatch.setattr(registry, "source_kinds", _with_taught(registry.source_kinds()))
    argv = ["train", "--host", "python:small_world:tiny_host", "--device", "cpu", "--teacher", "wall:1"]
    argv += ["--data", f"lerobot:{drawer}", "--epochs", "1", "--views", "1", "--out"]
    reading(monkeypatch, StandIn)
    assert main([*argv, "measured"]) == 0, capsys.readouterr().err
    assert details_of(Path("measured"))["validated_on"] == "the data's own depth"
    assert len(asked) == 1
    reading(monkeypatch, Blind)
    assert main([*argv, "blind"]) == 0, capsys.readouterr().err
    assert details_of(Path("blind"))["validated_on"] == "a teacher's depth"
    assert main([*argv[:-1], "--camera", "wrist", "--out", "wrong"]) == 1
    assert "no camera 'wrist' with photos" in capsys.readouterr().err
    assert not Path("wrong").exists()


def _with_taught(kinds: dict[str, Any]) -> Any:
    """The kinds of data with `taught`, also where the package was installed before it had that."""
    point = SimpleNamespace(
        load=lambda: __import__("spaceclip_plugin.teaching", fromlist=["TaughtData"]).TaughtData, value="", dist=None
    )
    return lambda: {**kinds, "taught": point}


def test_what_cannot_be_split_needs_validation_data(tmp_path: Path) -> None:
    for data in ("scenes:4", scenes(2)):
        with pytest.raises(ConfigError, match="give validation= beside this data"):
            train_head(tiny_host(), data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_shown_no_samples(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not samples"):
        train_head(tiny_host(), scenes(2), validation=scenes(1, 1), out=tmp_path / "run", teacher=WallTeacher())
    assert not (tmp_path / "run").exists()
