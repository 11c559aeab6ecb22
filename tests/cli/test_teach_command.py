"""`spaceclip teach`: from photos and a teacher to data that a head is trained on."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from tiny_teachers import depth_anything, save_teacher
from wall_teacher import WallTeacher, save_photos

from spaceclip_plugin.cli import main
from spaceclip_plugin.teaching import TaughtDepth, teacher


def wall(name: str, *, device: object) -> WallTeacher:
    return WallTeacher(factor=float(name))


def inverse(name: str, *, device: object) -> WallTeacher:
    return WallTeacher(gives="inverse")


@pytest.fixture(autouse=True)
def _teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers that are registered: those of a package of ours, and of another one."""
    ours = [
        EntryPoint("hf", "spaceclip_adapters.teachers:load_hf_teacher", teacher.GROUP),
        EntryPoint("wall", "test_teach_command:wall", teacher.GROUP),
        EntryPoint("inverse", "test_teach_command:inverse", teacher.GROUP),
    ]

    class Metadata:
        @staticmethod
        def entry_points(*, group: str) -> Any:
            return ours if group == teacher.GROUP else entry_points(group=group)

    monkeypatch.setattr(teacher, "metadata", Metadata)


def run(*words: object) -> int:
    return main(["teach", *map(str, words)])


def test_photos_get_depth_and_the_report_says_what_it_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen = save_photos(tmp_path / "kitchen", measured=(0,))
    out = tmp_path / "taught"
    assert run("--data", f"folder:{kitchen}", "--teacher", "wall:0.5", "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["usable"], found["check"]["images"]) == (6, 6, 1)
    assert found["clips"][0]["scale"] == pytest.approx(2.0)
    assert found["teachers"][0]["commercial"] is False
    assert len(TaughtDepth(out)) == 6
    assert run("--data", f"folder:{kitchen}", "--teacher", "wall:0.5", "--out", out) == 0
    text = capsys.readouterr().out
    assert "against measured depth of 1 photos" in text
    assert "non-commercial (cc-by-nc-4.0)" in text
    assert f"--data taught:{out}" in text


def test_where_nothing_was_measured_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kitchen = save_photos(tmp_path / "kitchen")
    assert run("--data", f"folder:{kitchen}", "--teacher", "wall:1", "--out", tmp_path / "taught") == 0
    assert "not checked: nothing was measured" in capsys.readouterr().out


def test_a_teacher_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kitchen, folder = save_photos(tmp_path / "kitchen", 2), save_teacher(tmp_path / "teacher")
    words = ("--data", f"folder:{kitchen}", "--teacher", f"hf:{folder}", "--out", tmp_path / "taught")
    assert run(*words, "--second-teacher", f"hf:{folder}", "--device", "cpu") == 0
    assert "2 of 2 photos with depth by hf:teacher" in capsys.readouterr().out
    sample = TaughtDepth(tmp_path / "taught")[0]
    assert 0 < sample.depth_m.max() <= 20


def test_a_relative_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kitchen = save_photos(tmp_path / "kitchen", 2)
    folder = save_teacher(tmp_path / "teacher", model=depth_anything(depth_estimation_type="relative"))
    for name in ("inverse:1", f"hf:{folder}"):
        words = ("--data", f"folder:{kitchen}", "--teacher", name, "--out", tmp_path / "taught", "--device", "cpu")
        assert run(*words) == 1
        assert "no metres" in capsys.readouterr().err
    assert not (tmp_path / "taught").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher", "nobody:1"], "unknown teacher 'nobody:1'"),
        (["--teacher", "wall:1", "--camera", "front"], "--camera is for LeRobot data sets"),
        (["--teacher", "wall:1", "--keep", "0"], "keep must be a number"),
        (["--teacher", "wall:1", "--depth-range", "2,1"], "range_m must rise"),
        (["--teacher", "wall:1", "--device", "tpu"], "cannot be used here"),
    ],
)
def test_words_that_cannot_be(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen = save_photos(tmp_path / "kitchen", 2)
    assert run("--data", f"folder:{kitchen}", "--out", tmp_path / "taught", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "taught").exists()
