"""Whose metres an ONNX file gives: those of the camera that was told, or of the one the head assumes; it says which."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from heads_that_tell import telling

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.bridges.onnx import OnnxFile, export, export_onnx
from spaceclip_plugin.bridges.onnx.comparison import named_inputs, outputs, random_features
from spaceclip_plugin.bridges.onnx.export import OLDEST_TORCH
from spaceclip_plugin.cli import main
from spaceclip_plugin.errors import ConfigError, ExportError

if torch.__version__ < OLDEST_TORCH:
    pytest.skip(f"writing ONNX needs torch {OLDEST_TORCH}, this is {torch.__version__}", allow_module_level=True)
onnx = pytest.importorskip("onnx", reason="needs the packages of the extra `export`")
pytest.importorskip("onnxscript", reason="needs the packages of the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the packages of the extra `export`")

OWN = (0.8, 1.2)
TWICE_AS_LONG = (1.6, 2.4)


def small_head(*, tells: bool = True) -> DepthHead:
    options = {"channels": (48,), "taps": (2,), "convolutions": (1,), "attention": 1, "pixels": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = DepthHead(DepthHeadConfig("tap-mixer", options, width=8, blocks=2)).eval()
    return telling(head, focal_length=OWN) if tells else head


def metadata_of(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Without the conversion and the comparison; lists what the graph and the comparison would multiply by."""
    seen: list[float] = []

    def empty(head: DepthHead, size: object, scale: float) -> Any:
        seen.append(scale)
        value = onnx.helper.make_tensor_value_info("depth_m", onnx.TensorProto.FLOAT, ["batch", "h", "w"])
        return onnx.helper.make_model(onnx.helper.make_graph([], "empty", [value], [value]))

    monkeypatch.setattr(export, "_converted", empty)
    monkeypatch.setattr(export, "compare", lambda *_, scale: seen.append(scale) or ())
    return seen


@pytest.mark.parametrize(
    ("tells", "given", "lens", "focal_length", "scale"),
    [
        (True, None, "assumed", OWN, 1.0),
        (True, OWN, "known", OWN, 1.0),
        (True, TWICE_AS_LONG, "known", TWICE_AS_LONG, 2.0),
        (False, None, "unknown", None, 1.0),
    ],
)
def test_the_file_says_whose_metres_they_are(
    tmp_path: Path, scales: list[float], tells: bool, given: Any, lens: str, focal_length: Any, scale: float
) -> None:
    head = small_head(tells=tells)
    written = export_onnx(head, tmp_path / "head.onnx", patch_size=4, focal_length=given)
    assert scales == pytest.approx([scale, scale])
    assert (written.lens, written.focal_length) == (lens, focal_length)
    said = metadata_of(written.path)
    assert (said["lens"], json.loads(said["focal_length"])) == (lens, focal_length and list(focal_length))
    assert "sqrt" in said["focal_length_means"]
    assert DepthHeadConfig.from_dict(json.loads(said["spaceclip_config"])) == head.config  # its own camera stays in it


@pytest.mark.parametrize("given", [(600.0, 600.0), (0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0,), "1,1"])
def test_focal_lengths_that_cannot_be(tmp_path: Path, scales: list[float], given: Any) -> None:
    with pytest.raises(ConfigError, match="focal_length"):
        export_onnx(small_head(), tmp_path / "head.onnx", patch_size=4, focal_length=given)
    assert (scales, [*tmp_path.iterdir()]) == ([], [])


def test_a_head_that_does_not_tell_its_own(tmp_path: Path, scales: list[float]) -> None:
    with pytest.raises(ConfigError, match="does not tell"):
        export_onnx(small_head(tells=False), tmp_path / "head.onnx", patch_size=4, focal_length=OWN)
    assert scales == []


def test_a_file_without_the_factor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = small_head()
    value = onnx.helper.make_tensor_value_info("depth_m", onnx.TensorProto.FLOAT, ["batch", "h", "w"])
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [value], [value]))
    monkeypatch.setattr(export, "_converted", lambda *_: empty)

    def run(_names: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        features = random_features(head, *inputs["hidden_2"].shape[:1], (2, 3), (8, 12), seed=0)
        features = dataclasses.replace(features, hidden={2: torch.from_numpy(inputs["hidden_2"])})
        with torch.no_grad():
            found = [value.numpy() for value in outputs(head, head(features), features, 1.0).values()]
        return [*found, np.ones(1, np.float32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: SimpleNamespace(run=run))
    with pytest.raises(ExportError, match="differs from torch's"):
        export_onnx(head, tmp_path / "head.onnx", output_hw=(8, 12), grid_hw=(2, 3), focal_length=TWICE_AS_LONG)
    export_onnx(head, tmp_path / "head.onnx", output_hw=(8, 12), grid_hw=(2, 3), focal_length=OWN)


@pytest.mark.slow
def test_the_factor_is_in_the_graph(tmp_path: Path) -> None:
    head = small_head()
    features = random_features(head, 2, (3, 4), (12, 16), seed=1)

    def run(written: OnnxFile) -> tuple[np.ndarray, int]:
        session = onnxruntime.InferenceSession(str(written.path), providers=["CPUExecutionProvider"])
        named = {name: value.numpy() for name, value in named_inputs(features).items()}
        return session.run(["depth_m"], named)[0], len(onnx.load(written.path).graph.node)

    plain, alike, twice = (
        run(export_onnx(head, tmp_path / f"{name}.onnx", patch_size=4, grid_hw=(4, 4), focal_length=given))
        for name, given in {"plain": None, "alike": OWN, "twice": TWICE_AS_LONG}.items()
    )
    np.testing.assert_array_equal(alike[0], plain[0])
    np.testing.assert_allclose(twice[0], 2 * plain[0], rtol=1e-6)
    assert (alike[1] - plain[1], twice[1] - plain[1]) == (0, 2)  # of depth and of its uncertainty


class TestCommand:
    def argv(self, tmp_path: Path, given: str, *, tells: bool = True) -> list[str]:
        head = small_head(tells=tells).save_pretrained(tmp_path / "head")
        return ["export", str(head), "--out", str(tmp_path / "a.onnx"), "--patch-size", "4", "--focal-length", given]

    def test_it_says_whose_metres(
        self, tmp_path: Path, scales: list[float], capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = self.argv(tmp_path, "1.6,2.4")
        assert main(argv) == 0
        assert "metres of the camera given, focal length 1.6 x 2.4" in capsys.readouterr().out
        assert main([*argv[:-2], "--json", "--overwrite"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert (data["lens"], data["focal_length"]) == ("assumed", [*OWN])

    @pytest.mark.parametrize("given", ["1.6", "1,2,3", "wide,high", ""])
    def test_what_is_no_focal_length(self, tmp_path: Path, given: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(self.argv(tmp_path, given))
        assert stopped.value.code == 2

    def test_a_head_that_does_not_tell(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(self.argv(tmp_path, "1,1", tells=False)) == 1
        assert "does not tell" in capsys.readouterr().err
