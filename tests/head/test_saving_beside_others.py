"""What a head is saved over: an older head, and nothing that another library or a user wrote."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from safetensors.torch import save_file
from saved_heads import CONFIG, make_head
from torch import ones

from spaceclip_plugin import DepthHead
from spaceclip_plugin.cli import main
from spaceclip_plugin.errors import CheckpointError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A model of transformers."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_vision_model", "hidden_size": 8}))
    save_file({"weight": ones(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.mark.parametrize("missing", [None, "config.json", "model.safetensors"])
def test_another_librarys_model_stays(stranger: Path, missing: str | None) -> None:
    if missing is not None:
        (stranger / missing).unlink()
    before = contents(stranger)
    with pytest.raises(CheckpointError, match="config.json" if missing != "config.json" else "model.safetensors"):
        make_head().save_pretrained(stranger)
    assert contents(stranger) == before


@pytest.mark.parametrize("config", ["", "{}", "not JSON", '{"format_version": 1}'])
def test_a_config_of_something_else_stays(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        make_head().save_pretrained(tmp_path)
    assert contents(tmp_path) == {"config.json": config.encode()}


def test_what_a_killed_save_left_is_replaced(tmp_path: Path) -> None:
    """The weights take their name first."""
    make_head().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    make_head(seed=1).save_pretrained(tmp_path)
    assert DepthHead.from_pretrained(tmp_path).config == CONFIG


class TestRunFolders:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        make_head().save_pretrained(tmp_path / "run" / "head")
        (tmp_path / "run" / "run.json").write_text('{"finished": true}')
        return tmp_path / "run"

    def test_the_head_of_a_finished_run_is_meant(self, run: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        assert DepthHead.from_pretrained(run).config == CONFIG
        assert str(run / "head") in caplog.text

    def test_by_commands_too(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", str(run), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["source"] == repr(str(run / "head"))

    def test_one_that_is_not_finished_says_so(self, run: Path) -> None:
        (run / "head").rename(run / "best")
        with pytest.raises(CheckpointError, match=r"not finished.*best"):
            DepthHead.from_pretrained(run)

    def test_a_folder_of_something_else_is_no_run(self, run: Path) -> None:
        (run / "run.json").unlink()
        with pytest.raises(CheckpointError, match=r"config\.json is missing"):
            DepthHead.from_pretrained(run)

    def test_a_head_beside_a_folder_called_head_is_itself(self, run: Path) -> None:
        make_head(seed=1).save_pretrained(run)
        newer = DepthHead.from_pretrained(run).state_dict()
        assert all((value == newer[name]).all() for name, value in make_head(seed=1).state_dict().items())
