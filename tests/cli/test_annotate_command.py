"""`spaceclip annotate` where lerobot is not installed, and on what is no LeRobot data set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spaceclip_plugin.cli import main

WORDS = ["annotate", "--host", "python:users_policy:build", "--head", "nowhere"]


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    (tmp_path / "kitchen" / "meta").mkdir(parents=True)
    (tmp_path / "kitchen" / "meta" / "info.json").write_text('{"total_episodes": 1}')
    return tmp_path / "kitchen"


def test_without_lerobot_the_message_says_what_to_install(
    kitchen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", None)
    assert main([*WORDS, "--data", f"lerobot:{kitchen}", "--out", str(tmp_path / "rich")]) == 1
    assert 'pip install "lerobot[dataset]>=0.6"' in capsys.readouterr().err
    assert not (tmp_path / "rich").exists()


def test_other_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--data", "folder:photos", "--out", str(tmp_path / "rich")]) == 1
    assert "as --data lerobot:ID; got 'folder:photos'" in capsys.readouterr().err


def test_what_may_be_written_beside_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*WORDS, "--data", "lerobot:a/b", "--out", "rich", "--with", "colour"])
    assert "uncertainty" in capsys.readouterr().err
