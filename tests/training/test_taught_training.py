"""Training on what a teacher says: `spaceclip train --teacher`, `--data taught:DIR`, and what the records then say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wall_teacher import WallTeacher, save_photos

from spaceclip_plugin.cli import main, taught_training
from spaceclip_plugin.data.sources import registry
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.head import CardDetails, DepthHead
from spaceclip_plugin.head.model_card import ModelCard
from spaceclip_plugin.teaching import TeachOptions, teach

pytestmark = pytest.mark.skipif(
    "taught" not in registry.source_kinds(), reason="the package was installed before it had taught: install it again"
)
HOST = ["--host", "python:small_world:tiny_host", "--protocol", "whole-image", "--device", "cpu"]
SHORT = ["--epochs", "1", "--views", "1", "--batch-size", "2", "--features", "int8"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[WallTeacher]:
    """The teachers that were loaded, by any name."""
    loaded: list[WallTeacher] = []

    def load(name: str, *, device: object) -> WallTeacher:
        loaded.append(WallTeacher())
        return loaded[-1]

    monkeypatch.setattr(taught_training, "load_teacher", load)
    return loaded


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Photos to learn from, of which one is measured, and others with measured depth to judge by."""
    save_photos(tmp_path / "kitchen", measured=(2,))
    save_photos(tmp_path / "judged", 2, measured=(0, 1))
    for index in range(2):
        path = tmp_path / "judged" / "rgb" / f"{index:02}.png"
        pixels = np.array(Image.open(path))
        pixels[..., 2] = 200
        Image.fromarray(pixels).save(path)
    return tmp_path


def train(places: Path, *words: object, val: str = "folder:judged") -> int:
    given = ["--val", val, "--out", "run", *HOST, *SHORT, *map(str, words)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(places)
        return main(["train", *given])


def record_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def test_a_teacher_gives_the_training_data_its_depth(
    places: Path, asked: list[WallTeacher], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(places, "--data", "folder:kitchen", "--teacher", "wall:1") == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert [teacher.asked for teacher in asked] == [6]
    assert "validated on the data's own depth" in said
    assert "non-commercial (cc-by-nc-4.0)" in said
    record = record_of(places / "run")
    [card] = record["details"]["teachers"]
    assert (card["name"], card["license"], card["commercial"]) == ("wall:1", "cc-by-nc-4.0", False)
    assert record["train_images"] == 6
    assert record["head"]["trained_on"] == "kitchen (6 images, depth by wall:1)"
    assert not (places / "run" / "cache").exists()
    head = DepthHead.from_pretrained(places / "run" / "head")
    page = ModelCard("org/x", head.config, 1, CardDetails(record=record)).page()
    assert "wall:1 is non-commercial (cc-by-nc-4.0)" in page
    assert "No depth was measured" not in page


def test_what_was_taught_is_found_again(places: Path, asked: list[WallTeacher], tmp_path: Path) -> None:
    words = ("--data", "folder:kitchen", "--teacher", "wall:1", "--cache", tmp_path / "shared")
    assert train(places, *words) == 0
    (places / "run").rename(places / "first")
    assert train(places, *words) == 0
    assert [teacher.asked for teacher in asked] == [6]


def test_a_folder_is_one_teacher_by_either_path(places: Path, asked: list[WallTeacher], tmp_path: Path) -> None:
    """A run that is continued reads the absolute one in its settings."""
    words = ("--data", "folder:kitchen", "--cache", tmp_path / "shared", "--teacher")
    assert train(places, *words, "hf:./wall") == 0
    assert f"teacher: hf:{places}/wall\n" in (places / "run" / "config.yaml").read_text()
    (places / "run").rename(places / "first")
    assert train(places, *words, f"hf:{places}/wall") == 0
    assert len(asked) == 1


def test_a_teacher_is_loaded_once(
    places: Path, asked: list[WallTeacher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For training data of several sources, and for validation data where that has no depth."""
    monkeypatch.setattr(taught_training, "is_recording", lambda spec: isinstance(spec, FolderData))
    monkeypatch.setattr(FolderData, "tells_depth", lambda spec: False, raising=False)
    save_photos(tmp_path / "hall", 2)
    assert train(places, "--data", "folder:kitchen", "--data", "folder:hall", "--teacher", "wall:1") == 0
    assert [teacher.asked for teacher in asked] == [10]


def test_a_run_whose_photos_are_taught_may_begin_again(
    places: Path, asked: list[WallTeacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between teaching and training."""
    with monkeypatch.context() as patch:
        patch.setattr("spaceclip_plugin.cli.train.open_host", interrupt)
        assert train(places, "--data", "folder:kitchen", "--teacher", "wall:1") == 130
    assert [path.name for path in (places / "run").iterdir()] == ["cache"]
    assert train(places, "--data", "folder:kitchen", "--teacher", "wall:1") == 0
    assert len(asked) == 1


def interrupt(config: object) -> None:
    raise KeyboardInterrupt


def test_taught_data_alone_and_validation_by_a_teacher(
    places: Path, asked: list[WallTeacher], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kitchen", "judged"):
        options = TeachOptions(progress=False)
        teach(FolderData(str(places / name)), WallTeacher(), places / f"taught-{name}", options=options)
    assert train(places, "--data", "taught:taught-kitchen", val="taught:taught-judged") == 0, capsys.readouterr().err
    record = record_of(places / "run")
    assert record["details"]["validated_on"] == "a teacher's depth"
    assert len(record["details"]["teachers"]) == 1
    assert not asked
    said = capsys.readouterr()
    assert "validated on a teacher's depth" in said.out
    head = DepthHead.from_pretrained(places / "run" / "head")
    page = ModelCard("org/x", head.config, 1, CardDetails(record=record)).page()
    assert "No depth was measured for validation" in page


def test_photos_without_depth_and_without_a_teacher_are_refused(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(places, "--data", "folder:kitchen") == 1
    assert "photo without a depth map" in capsys.readouterr().err
