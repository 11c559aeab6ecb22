"""What is never exported, and what is said then, before seconds are spent on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_heads import SMALL, instant, small_head

from spaceclip_plugin import DepthHead
from spaceclip_plugin.bridges.onnx import export, export_onnx
from spaceclip_plugin.bridges.onnx.export import OLDEST_TORCH
from spaceclip_plugin.errors import ConfigError, ExportError

__all__ = ["instant"]  # a fixture

if torch.__version__ < OLDEST_TORCH:
    pytest.skip(f"writing ONNX needs torch {OLDEST_TORCH}, this is {torch.__version__}", allow_module_level=True)
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the packages of the extra `export`")


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "patch_size.*output_hw"),
            ({"patch_size": 16, "output_hw": (8, 8)}, "patch_size.*output_hw"),
            ({"patch_size": 0}, "patch_size.*1024.* 0"),
            ({"patch_size": 14.0}, "patch_size"),
            ({"output_hw": (0, 8)}, "output_size"),
            ({"patch_size": 16, "grid_hw": (4,)}, "grid_hw"),
            ({"patch_size": 16, "grid_hw": (0, 4)}, r"grid_hw\[0\].*256"),
        ],
    )
    def test_impossible_sizes(self, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "head.onnx", **settings)
        assert list(tmp_path.iterdir()) == []

    def test_a_path_that_cannot_be_written(self, tmp_path: Path, instant: list[DepthHead]) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="folder"):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path, patch_size=4)
        with pytest.raises(ConfigError, match="folder"):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "file" / "head.onnx", patch_size=4)
        assert instant == []  # known before seconds were spent

    @pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
    def test_a_missing_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ExportError, match=rf"{package}.*; pip install 'spaceclip-plugin\[export\]'"):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "head.onnx", patch_size=4)
        assert list(tmp_path.iterdir()) == []

    def test_an_old_torch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.6.0+cpu"))
        with pytest.raises(ExportError, match=r"2\.11.*2\.6\.0\+cpu"):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "head.onnx", patch_size=4)

    def test_a_fused_head(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="fused"):
            export_onnx(small_head(**SMALL["space-clip"]).fuse(), tmp_path / "head.onnx", patch_size=4)

    def test_more_weights_than_a_file_holds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export, "_MAX_BYTES", 1000)
        with pytest.raises(ExportError, match="2 GiB"):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "head.onnx", patch_size=4)
