"""`spaceclip export`: an ONNX file and what it says about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.bridges.onnx.export import OLDEST_TORCH
from spaceclip_plugin.cli import main

if torch.__version__ < OLDEST_TORCH:
    pytest.skip(f"writing ONNX needs torch {OLDEST_TORCH}, this is {torch.__version__}", allow_module_level=True)
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the packages of the extra `export`")

OPTIONS: dict[str, dict[str, Any]] = {
    "space-clip": {"channels": (4,), "semantic_taps": (2,), "structural_taps": (), "film_hidden": 3},
    "tap-mixer": {"channels": (48,), "taps": (2,), "convolutions": (1,), "attention": 1, "pixels": 4},
}


def saved(folder: Path, architecture: str) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DepthHeadConfig(architecture, OPTIONS[architecture], width=8, blocks=2, trained_on="a room")
        return DepthHead(config).save_pretrained(folder)


@pytest.fixture
def head(tmp_path: Path) -> Path:
    return saved(tmp_path / "head", "space-clip")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "others"),
    [
        ("space-clip", {"context": ["batch", 8]}),
        ("tap-mixer", {"pixels": ["batch", 3, "height", "width"]}),
    ],
)
def test_json_has_all_of_it(
    architecture: str, others: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = saved(tmp_path / "head", architecture)
    out = tmp_path / "new" / "head.onnx"
    argv = ["export", str(head), "--format", "onnx", "--out", str(out), "--patch-size", "14", "--grid", "3", "4"]
    assert main([*argv, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["path"] == str(out)
    assert data["inputs"] == {"hidden_2": ["batch", 8, "h", "w"], **others}
    assert data["output"] == ["batch", "14*h", "14*w"]
    told = {"uncertainty_m": ["batch", "14*h", "14*w"]} if architecture == "tap-mixer" else {}
    assert data["beside"] == {**told, "camera_scale": [1]}
    assert data["opset"] == 18
    assert data["file_bytes"] == out.stat().st_size
    assert data["trained_on"] == "a room"
    assert data["config"]["architecture"] == architecture
    assert data["config"]["options"]["channels"] == list(OPTIONS[architecture]["channels"])
    assert [(case["batch"], case["grid_hw"]) for case in data["comparisons"]] == [(1, [3, 4]), (3, [4, 4])]
    assert all(case["difference_m"] <= case["allowed_m"] for case in data["comparisons"])


@pytest.mark.slow
def test_the_text(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "head.onnx"
    assert main(["export", str(head), "--out", str(out), "--size", "30", "40", "--grid", "2", "2"]) == 0
    shown, noise = capsys.readouterr()
    for line in (
        f"{out}: space-clip, 0.0 MB, opset 18, float32",
        "  hidden_2   batch x 8 x h x w",
        "  context    batch x 8",
        "  depth_m    batch x 30 x 40",
        "  beside it: camera_scale",
        "  trained on a room",
        "  batch 1, grid 2x2: ONNX Runtime and torch differ by at most ",
        "  batch 3, grid 3x2: ONNX Runtime and torch differ by at most ",
    ):
        assert line in shown
    assert noise == ""


@pytest.mark.parametrize(
    "sizes", [[], ["--patch-size", "14", "--size", "28", "28"], ["--size", "28"], ["--patch-size", "x"]]
)
def test_wrong_usage(sizes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", "head", "--out", "head.onnx", *sizes])
    assert stopped.value.code == 2
    assert "usage: spaceclip export" in capsys.readouterr().err


class TestFailures:
    """Exit code 1, a message, and no file."""

    def failed(self, capsys: pytest.CaptureFixture[str], head: Path, out: Path, *more: str) -> str:
        assert main(["export", str(head), "--out", str(out), *(more or ("--patch-size", "14"))]) == 1
        shown, message = capsys.readouterr()
        assert shown == ""
        assert not out.is_file()
        return message

    def test_no_head(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no head at" in self.failed(capsys, tmp_path / "nowhere", tmp_path / "head.onnx")

    def test_an_impossible_size(self, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = self.failed(capsys, head, tmp_path / "head.onnx", "--patch-size", "0")
        assert "patch_size must be an integer from 1 to 1024, got 0" in message

    def test_a_folder_in_the_way(self, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "it is a folder" in self.failed(capsys, head, tmp_path)

    def test_a_missing_package(
        self, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        message = self.failed(capsys, head, tmp_path / "head.onnx")
        assert "onnxscript" in message
        assert "pip install 'spaceclip-plugin[export]'" in message
