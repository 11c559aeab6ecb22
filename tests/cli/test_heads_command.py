"""Heads of the package on the command line: `spaceclip heads` lists them, and every command takes one by name."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest
import torch
from embedded_world import HEAD, HOST, NAME, package_in, world
from photo_world import photo

from spaceclip_plugin.bridges.onnx.export import OLDEST_TORCH
from spaceclip_plugin.cli import _COMMANDS, main
from spaceclip_plugin.head.embedded import catalogue

__all__ = ["world"]

USES = {
    "inspect": [HOST, "--head", HEAD],
    "eval": ["--host", HOST, "--head", HEAD, "--data", "scenes:1", "--protocol", "whole-image"],
    "predict": ["--host", HOST, "--head", HEAD, "photo.png", "--out", "depth"],
    "export": [HEAD, "--format", "onnx", "--patch-size", "16", "--out", "head.onnx"],
    "verify": [HEAD],
}


def takes_a_head(command: str) -> bool:
    module = importlib.import_module(f"spaceclip_plugin.cli.{'evaluate' if command == 'eval' else command}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return any(action.metavar == "HEAD" for action in parser._actions)


def test_these_commands_take_a_head() -> None:
    elsewhere = {"annotate"}  # its data needs lerobot: tests/bridges/lerobot/test_annotate.py
    assert {command for command in _COMMANDS if takes_a_head(command)} == set(USES) | elsewhere


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=[pytest.mark.slow] if command == "export" else []) for command in USES],
)
def test_a_command_takes_one_by_name(
    command: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "export":
        if torch.__version__ < OLDEST_TORCH:
            pytest.skip(f"writing ONNX needs torch {OLDEST_TORCH}, this is {torch.__version__}")
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="needs the packages of the extra `export`")
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png", (48, 64))
    weights = ["--host-weights", str(world / "tower.safetensors")] if HOST in USES[command] else []
    strict = ["--other-tower", "error"] if command in ("eval", "predict") else []
    assert main([command, *USES[command], *weights, *strict, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    if command == "inspect":
        assert said["towers"][0]["head"]["tower"]["verdict"] == "same"
    if command == "predict":
        assert (tmp_path / "depth" / "photo_depth.png").is_file()


@pytest.mark.parametrize("command", [command for command in USES if command != "export"])
def test_an_unknown_name_is_told_with_those_that_are_known(
    command: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.png", (48, 64))
    words = ["embedded:scenes-vit" if word == HEAD else word for word in USES[command]]
    weights = ["--host-weights", "random"] if HOST in words else []
    assert main([command, *words, *weights]) == 1
    assert f"did you mean '{NAME}'" in capsys.readouterr().err
    assert not (tmp_path / "depth").exists()


def test_they_are_listed_a_line_each(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", "--json"]) == 0
    [head] = json.loads(capsys.readouterr().out)["heads"]
    assert (head["head"], head["tower"], head["depth_range_m"]) == (HEAD, HOST, [0.1, 10.0])
    assert head["record"] == catalogue.read_record(HEAD)
    assert Path(head["card"]).is_file()
    assert main(["heads"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    error = head["record"]["validation"]["abs_rel"]
    for part in (HEAD, HOST, "0.1 to 10 m", f"AbsRel {error:.3f} on 2 validation images", "scenes (6)"):
        assert part in line


def test_where_there_is_none_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with package_in(tmp_path):
        assert main(["heads"]) == 0
        assert "no head" in capsys.readouterr().out
        assert main(["heads", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"heads": []}


def test_those_of_the_package_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", "--json"]) == 0
    listed = [head["head"] for head in json.loads(capsys.readouterr().out)["heads"]]
    assert listed == [f"embedded:{name}" for name in catalogue.names()]
