"""What a run that cannot be continued says: what differs, which list is meant, and where paths can be put right."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_world import scenes
from stopped_runs import Killed, stop_after

from spaceclip_plugin.cli import main
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.run.folder import RunFolder
from spaceclip_plugin.training.run.record import MUST_MATCH

HOST = ["--host", "python:small_world:tiny_host"]
RECORD: dict[str, Any] = {
    **dict.fromkeys(MUST_MATCH),
    "recipe": dataclasses.asdict(Recipe()),
    "head": {"options": {"taps": [0, 2]}, "trained_on": "a" * 500 + " and then one (3 images)"},
    "data": {"train": "1" * 64, "validation": "2" * 64},
    "details": {"data": "rooms.txt", "val": "held-out.txt"},
    "device": "cpu",
    "torch": "2",
    "threads": 1,
}


def refusal(folder: Path, **changes: Any) -> str:
    """Of a run that goes on with another record than RECORD."""
    run = folder / "run"
    if not run.exists():
        begun = RunFolder(run)
        begun.open(RECORD, resume=False, config_yaml=None)
        begun.close()
    with pytest.raises(TrainingError) as caught:
        RunFolder(run).open({**RECORD, **changes}, resume=True, config_yaml=None)
    return str(caught.value)


class TestWhatDiffers:
    def test_settings_alone(self, tmp_path: Path) -> None:
        told = refusal(tmp_path, recipe={**RECORD["recipe"], "epochs": 9, "loss": "published"})
        epochs, loss = RECORD["recipe"]["epochs"], RECORD["recipe"]["loss"]
        assert f": its recipe.epochs was {epochs}, now it is 9; its recipe.loss was " in told
        assert f'"{loss}", now it is "published". Give what it was started with' in told
        assert "weight_decay" not in told

    def test_the_end_of_a_long_text(self, tmp_path: Path) -> None:
        changed = {**RECORD["head"], "trained_on": RECORD["head"]["trained_on"].replace("one", "two")}
        told = refusal(tmp_path, head=changed)
        assert "its head.trained_on was …" in told
        assert 'and then one (3 images)", now it is …' in told
        assert 'and then two (3 images)". Give' in told
        assert len(told) < 400

    def test_the_beginning_of_a_long_text(self, tmp_path: Path) -> None:
        told = refusal(tmp_path, head={**RECORD["head"], "trained_on": "b" * 500})
        assert f'was "{"a" * 119}…, now it is "{"b" * 119}…. Give' in told

    def test_a_fingerprint_alone_is_no_difference(self, tmp_path: Path) -> None:
        """Versions before format 2 wrote none, and the host's digest is compared."""
        run = tmp_path / "run"
        begun = RunFolder(run)
        begun.open(RECORD, resume=False, config_yaml=None)
        begun.close()
        head = {**RECORD["head"], "format_version": 2, "tower_fingerprint": {"blocks": []}}
        continued = RunFolder(run)
        continued.open({**RECORD, "head": head}, resume=True, config_yaml=None)
        continued.close()

    def test_a_list_by_its_name(self, tmp_path: Path) -> None:
        told = refusal(tmp_path, data={**RECORD["data"], "validation": "3" * 64})
        assert ": its validation data was held-out.txt with SHA-256 222222222222…, now it is held-out.txt" in told
        assert "train" not in told.partition("its validation")[2].partition("Give")[0]

    def test_a_list_that_there_was_not(self, tmp_path: Path) -> None:
        details = {**RECORD["details"], "test": "new.txt"}
        told = refusal(tmp_path, data={**RECORD["data"], "test": "3" * 64}, details=details)
        assert "its test data was none, now it is new.txt with SHA-256 333333333333…: other images" in told

    def test_a_setting_that_there_was_not(self, tmp_path: Path) -> None:
        refusal(tmp_path, tower={"depth": 2})
        assert ': its tower was null, now it is {"depth": 2}. Give' in refusal(tmp_path, tower={"depth": 2})


def write_list(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    for i, scene in enumerate(scenes(count, seed=seed)):
        Image.fromarray(scene.image).save(folder / f"{seed}-{i}.png")
        Image.fromarray((scene.depth_m * 1000).astype(np.uint16)).save(folder / f"{seed}-{i}-depth.png")
    lines = "".join(f"{seed}-{i}.png {seed}-{i}-depth.png\n" for i in range(count))
    (folder / f"{seed}.txt").write_text(lines)
    return folder / f"{seed}.txt"


def test_moved_data_is_found_again_where_the_config_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    lists = ["--data", str(write_list(data, 6, 0)), "--val", str(write_list(data, 2, 1))]
    small = ["--set", "attention=0", "--set", "channels=[8,6]", "--set", "convolutions=[1,1]", "--epochs", "2"]
    new = ["train", *HOST, *lists, *small, "--batch-size", "3", "--protocol", "whole-image", "--out"]
    assert main([*new, str(tmp_path / "whole")]) == 0
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Killed):
            main([*new, str(run)])
    data.rename(tmp_path / "moved")
    capsys.readouterr()
    assert main(["train", "--resume", str(run), *HOST]) == 1
    err = capsys.readouterr().err
    assert f"The paths stand in {str(run / 'config.yaml')!r}: if the data lies elsewhere now" in err
    # A new run has no such file.
    assert main([*new, str(tmp_path / "another")]) == 1
    assert "The paths stand in" not in capsys.readouterr().err
    text = (run / "config.yaml").read_text()
    assert text.count(str(data)) == 2
    (run / "config.yaml").write_text(text.replace(str(data), str(tmp_path / "moved")))
    assert main(["train", "--resume", str(run), *HOST]) == 0
    weights = [(folder / "head" / "model.safetensors").read_bytes() for folder in (run, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert json.loads((run / "run.json").read_text())["continued_at_step"] == 2
