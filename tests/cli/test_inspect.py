"""`spaceclip inspect`: what is found in a host, and what a head says to it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from users_policy import build

from spaceclip_plugin import DepthHead
from spaceclip_plugin.attach.tower_match import fingerprint_of
from spaceclip_plugin.cli import main
from spaceclip_plugin.head.architectures import ARCHITECTURES
from spaceclip_plugin.towers.registry import find_tower

HOST = "python:users_policy:build"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


def test_the_tower_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", HOST]) == 0
    shown = capsys.readouterr().out
    for line in (
        "VisionTransformer: 1 vision tower",
        "tower      the host itself (VisionTransformer)",
        "adapter    timm-vit",
        "blocks     3",
        "width      24",
        "grid       4x4 patches of 8 pixels, image 32x32",
        "context    cls",
        "mean, std  (0.5 0.5 0.5), (0.5 0.5 0.5)",
        f"taps       {list(DepthHead.for_tower(build()).taps)} (tap-mixer)",
    ):
        assert line in shown


def test_json_has_every_tower(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "python:users_policy:two_eyes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [tower["path"] for tower in data["towers"]] == ["left", "right"]
    assert data["towers"][0]["grid_hw"] == [4, 4]
    assert main(["inspect", "python:users_policy:two_eyes", "--tower", "right", "--json"]) == 0
    assert [tower["path"] for tower in json.loads(capsys.readouterr().out)["towers"]] == ["right"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whether_a_head_fits_and_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str], architecture: str) -> None:
    spec = find_tower(build()).spec
    fitting_head = DepthHead.for_tower(spec, architecture=architecture)
    fitting = fitting_head.save_pretrained(tmp_path / "fits")
    larger = dataclasses.replace(spec, width=48, blocks=12)
    head = DepthHead.for_tower(larger, architecture=architecture)
    wider = head.save_pretrained(tmp_path / "wider")
    assert main(["inspect", HOST, "--head", str(fitting)]) == 0
    shown = capsys.readouterr().out
    assert "head       fits" in shown
    assert f"taps       {list(fitting_head.taps)} ({architecture})" in shown
    assert main(["inspect", HOST, "--head", str(wider), "--json"]) == 0
    (tower,) = json.loads(capsys.readouterr().out)["towers"]
    assert (tower["architecture"], tower["taps"]) == (architecture, list(head.taps))
    assert tower["head"]["fits"] is False
    assert tower["head"]["mismatches"] == [
        "the head reads tokens of width 48, the tower's have 24",
        "the head was made for 12 blocks, the tower has 3",
        "the head taps hidden state 12, the tower's last is 3",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([HOST, "--tower", "eyes"], r"VisionTransformer has no tower at 'eyes'"),
        (["python:users_policy:two_eyes", "--tower", "rigth"], r"did you mean 'right'"),
        (["python:users_policy:blind"], r"no vision tower found in Linear"),
        ([HOST, "--adapter", "tim-vit"], r"unknown adapter 'tim-vit' \(did you mean 'timm-vit'\?\)"),
        ([HOST, "--head", "nowhere"], r"nowhere"),
    ],
)
def test_what_cannot_be_shown(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *argv]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err), captured.err


def knowing(folder: Path, host: nn.Module) -> str:
    """A head that says it was trained on that host's tower."""
    tower = find_tower(host)
    head = DepthHead.for_tower(tower, architecture="tap-mixer")
    fingerprint = fingerprint_of(tower, head.config)
    head.config = dataclasses.replace(head.config, trained_on="numbers", tower_fingerprint=fingerprint)
    return str(head.save_pretrained(folder))


def test_whether_it_is_the_tower_of_the_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same, other = build(), build()
    with torch.no_grad():
        other.blocks[1].mlp.fc1.weight.add_(0.5)
    for host, verdict in ((same, "same"), (other, "other")):
        head = knowing(tmp_path / verdict, host)
        assert main(["inspect", HOST, "--head", head, "--json"]) == 0
        [tower] = json.loads(capsys.readouterr().out)["towers"]
        found = tower["head"]["tower"]
        assert (found["verdict"], list(found["parts"])) == (verdict, ["input", "block 1", "block 2", "block 3"])
        assert (found["parts"]["block 1"] == 0.0, found["parts"]["block 2"] == 0.0) == (True, verdict == "same")
        assert main(["inspect", HOST, "--head", head]) == 0
        said = capsys.readouterr().out
        assert ("weights    the same weights" if verdict == "same" else "weights    other weights: in blocks 2") in said
        assert main(["verify", head]) == 0
        assert "by a fingerprint of its weights" in capsys.readouterr().out


def test_commands_can_refuse_another_tower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = build()
    with torch.no_grad():
        other.blocks[1].mlp.fc1.weight.add_(0.5)
    head = knowing(tmp_path / "head", other)
    command = ["eval", "--host", HOST, "--head", head, "--data", "scenes:2", "--protocol", "whole-image"]
    assert main([*command, "--other-tower", "error"]) == 1
    assert "trained on another tower" in capsys.readouterr().err
    assert main([*command, "--other-tower", "ignore", "--json"]) == 0


def test_a_known_and_an_unknown_tower_are_both_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "python:users_policy:known_and_unknown_eye", "--json"]) == 0
    towers = json.loads(capsys.readouterr().out)["towers"]
    assert [(tower["path"], tower["adapter"]) for tower in towers] == [("known", "timm-vit"), ("unknown", "structural")]


@pytest.mark.parametrize(
    ("trained", "flags", "verdict", "said"),
    [
        (None, [], "unknown", "not compared: the head does not tell"),
        ("stretch", [], "unknown", "not compared: the host does not tell"),
        ("stretch", ["--preparation", "stretch"], "same", "prepared as the head's were (stretch)"),
        (
            "letterbox:centre",
            ["--preparation", "stretch"],
            "other",
            "prepared otherwise than the head's were (letterbox:centre, here stretch)",
        ),
    ],
)
def test_whether_images_are_prepared_as_the_heads_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: str | None, flags: list[str], verdict: str, said: str
) -> None:
    head = DepthHead.for_tower(build())
    head.config = dataclasses.replace(head.config, preparation=trained)
    argv = ["inspect", HOST, "--head", str(head.save_pretrained(tmp_path)), *flags]
    assert main(argv) == 0
    assert f"images     {said}" in capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    [tower] = json.loads(capsys.readouterr().out)["towers"]
    assert (tower["head"]["images"]["verdict"], tower["head"]["images"]["trained"]) == (verdict, trained)
