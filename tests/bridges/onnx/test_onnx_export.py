"""A head as an ONNX file: it gives torch's depth for any batch and grid, says what it is, and is whole or absent."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx_heads import EMPTY, SMALL, WIDTH, half_empty, instant, knowing, small_head
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.bridges.onnx import OnnxFile, export, export_onnx
from spaceclip_plugin.bridges.onnx.comparison import ROUNDING, TOLERANCE, named_inputs, random_features
from spaceclip_plugin.bridges.onnx.export import OLDEST_TORCH, OPSET
from spaceclip_plugin.depth.strangeness import widened
from spaceclip_plugin.errors import ExportError
from spaceclip_plugin.head.architectures import ARCHITECTURES
from spaceclip_plugin.head.decoder import HeadOutput, predicts_uncertainty
from spaceclip_plugin.towers.spec import TowerFeatures

__all__ = ["instant"]  # a fixture

if torch.__version__ < OLDEST_TORCH:
    pytest.skip(f"writing ONNX needs torch {OLDEST_TORCH}, this is {torch.__version__}", allow_module_level=True)
onnx = pytest.importorskip("onnx", reason="needs the packages of the extra `export`")
pytest.importorskip("onnxscript", reason="needs the packages of the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the packages of the extra `export`")

Output = dict[str, tuple[int, int]]

# What makes other graphs; an export takes seconds, so each is made once.
HEADS: dict[str, tuple[Callable[[], DepthHead], Output]] = {
    **{
        f"small {name}": (lambda name=name: small_head(name, **SMALL.get(name, {})), {"patch_size": 14})
        for name in ARCHITECTURES
    },
    "no pixels": (lambda: small_head("tap-mixer", **{**SMALL["tap-mixer"], "pixels": 0}), {"patch_size": 14}),
    "no context, no structural taps": (
        lambda: small_head(**{**SMALL["space-clip"], "structural_taps": (), "film_hidden": None}),
        {"output_hw": (30, 41)},
    ),
    "taps of several widths": (
        lambda: small_head(**SMALL["space-clip"], config={"tap_widths": (4, 4, 4, 8)}),
        {"patch_size": 8},
    ),
    "mixed taps of several widths": (
        lambda: small_head("tap-mixer", **SMALL["tap-mixer"], config={"tap_widths": (4, 4, 8)}),
        {"patch_size": 8},
    ),
    "tells familiar images": (lambda: knowing(small_head("tap-mixer", **SMALL["tap-mixer"])), {"patch_size": 8}),
    "tells where nothing is": (lambda: half_empty(small_head("tap-mixer", **EMPTY)), {"patch_size": 8}),
}


@dataclasses.dataclass(frozen=True)
class Exported:
    head: DepthHead
    output: Output
    written: OnnxFile
    kept: dict[str, bool]

    def features(self, batch: int, grid_hw: tuple[int, int], *, seed: int = 7) -> TowerFeatures:
        patch = self.output.get("patch_size", 1)
        output_hw = self.output.get("output_hw", (patch * grid_hw[0], patch * grid_hw[1]))
        return random_features(self.head, batch, grid_hw, output_hw, seed=seed)

    def run(self, features: TowerFeatures) -> np.ndarray:
        return self.all_of(features)["depth_m"]

    def all_of(self, features: TowerFeatures) -> dict[str, np.ndarray]:
        session = onnxruntime.InferenceSession(str(self.written.path), providers=["CPUExecutionProvider"])
        found = session.run(None, {name: value.numpy() for name, value in named_inputs(features).items()})
        return dict(zip((output.name for output in session.get_outputs()), found, strict=True))


@pytest.fixture(scope="module", params=HEADS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    build, output = HEADS[request.param]
    head = build()
    path = tmp_path_factory.mktemp("onnx") / "head.onnx"
    next(head.train().decoder.children()).eval()
    before, modes = copy.deepcopy(head.state_dict()), [module.training for module in head.modules()]
    random = torch.random.get_rng_state()
    written = export_onnx(head, path, grid_hw=(4, 4), **output)
    kept = {
        "weights and buffers": all(torch.equal(value, before[name]) for name, value in head.state_dict().items()),
        "modes": [module.training for module in head.modules()] == modes,
        "requires_grad": all(parameter.requires_grad for parameter in head.parameters()),
        "no new attributes": vars(head).keys() == vars(build()).keys(),
        "random state": torch.equal(torch.random.get_rng_state(), random),
    }
    return Exported(head.eval(), output, written, kept)


class TestTheFile:
    @pytest.mark.slow
    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("grid_hw", [(4, 4), (3, 5)])
    def test_gives_torchs_depth(self, exported: Exported, batch: int, grid_hw: tuple[int, int]) -> None:
        features = exported.features(batch, grid_hw)
        with torch.no_grad():
            output = exported.head(features)
        found = exported.run(features)
        assert found.dtype == np.float32
        assert found.shape == (batch, *features.image_hw)
        allowed = TOLERANCE * output.depth_m.std() + ROUNDING * output.depth_m.max()
        assert np.abs(found - output.present_m.numpy()).max() <= allowed
        assert output.empty is None or 0 < (found == 0).mean() < 1

    @pytest.mark.slow
    def test_nothing_of_its_example_is_in_it(self, exported: Exported) -> None:
        first, second = exported.features(1, (4, 4)), exported.features(1, (4, 4), seed=8)
        depths = [exported.run(first)]
        for name in exported.written.inputs:  # every input matters
            kind, _, tap = name.partition("_")
            if kind == "hidden":
                changed = dataclasses.replace(first, hidden={**first.hidden, int(tap): second.hidden[int(tap)]})
            else:
                changed = dataclasses.replace(first, **{name: getattr(second, name)})
            depths.append(exported.run(changed))
        least = 10 * exported.written.comparisons[0].allowed_m
        assert all(np.abs(depth - depths[0]).max() > least for depth in depths[1:])

    @pytest.mark.slow
    def test_has_these_inputs_and_outputs(self, exported: Exported) -> None:
        head, written = exported.head, exported.written
        several = head.config.tap_widths is not None
        grids = {tap: (f"h_{tap}", f"w_{tap}") if several else ("h", "w") for tap in head.taps}
        expected = {f"hidden_{tap}": ("batch", width, *grids[tap]) for tap, width in head.config.width_of.items()}
        if head.uses_context:
            expected["context"] = ("batch", WIDTH)
        if head.uses_pixels:
            expected["pixels"] = ("batch", 3, "height", "width")
        assert written.inputs == expected
        patch = exported.output.get("patch_size")
        deepest = grids[head.taps[-1]]
        assert written.output == (
            "batch",
            *(exported.output.get("output_hw") or (f"{patch}*{s}" for s in deepest)),
        )
        session = onnxruntime.InferenceSession(str(written.path), providers=["CPUExecutionProvider"])
        assert [given.name for given in session.get_inputs()] == list(expected)
        told = {"uncertainty_m": predicts_uncertainty(head.decoder), "familiarity": head.familiarity is not None}
        names = ["depth_m", *(name for name, there in told.items() if there), "camera_scale"]
        assert [given.name for given in session.get_outputs()] == names == ["depth_m", *written.beside]
        assert written.beside["camera_scale"] == (1,)

    @pytest.mark.slow
    @pytest.mark.parametrize("strange", [False, True])
    def test_gives_what_a_read_gives_beside_the_depth(self, exported: Exported, strange: bool) -> None:
        features, head = exported.features(3, (4, 5)), exported.head
        if strange:
            features = dataclasses.replace(features, hidden={tap: 9 + value for tap, value in features.hidden.items()})
        found = exported.all_of(features)
        assert found["camera_scale"].tolist() == [1.0]
        with torch.no_grad():
            output, familiarity = head(features), head.familiarity_of(features)
        if familiarity is not None:
            assert np.abs(found["familiarity"] - familiarity.numpy()).max() <= 2 / 200
            assert found["familiarity"].max() < 0.05 if strange else found["familiarity"].max() > 0.05
        if output.uncertainty_m is not None:
            sd_m = output.uncertainty_m
            if familiarity is not None:
                sd_m = widened(sd_m, output.depth_m, torch.from_numpy(found["familiarity"]))
            np.testing.assert_allclose(found["uncertainty_m"], sd_m.numpy(), rtol=1e-4)

    @pytest.mark.slow
    def test_says_what_it_is(self, exported: Exported) -> None:
        model = onnx.load(exported.written.path)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert DepthHeadConfig.from_dict(json.loads(metadata["spaceclip_config"])) == exported.head.config
        assert metadata["units"] == "metres along the optical axis"
        assert metadata["trained"] == "false"
        assert json.loads(metadata["patch_size"]) == exported.output.get("patch_size")
        assert json.loads(metadata["output_hw"]) == (list(exported.output.get("output_hw", ())) or None)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
        assert metadata["opset"] == str(OPSET) == str(exported.written.opset)

    @pytest.mark.slow
    def test_is_small_and_private(self, exported: Exported) -> None:
        model = onnx.load(exported.written.path)
        assert not [value.name for value in model.graph.initializer if "auxiliary" in value.name]
        assert not {node.op_type for node in model.graph.node} & {"BatchNormalization", "Dropout"}
        content = exported.written.path.read_bytes()
        for place in ("site-packages", "export.py", str(Path(export.__file__).parent)):
            assert place.encode() not in content
        assert exported.written.file_bytes == len(content)
        assert list(exported.written.path.parent.iterdir()) == [exported.written.path]

    @pytest.mark.slow
    def test_was_compared(self, exported: Exported) -> None:
        comparisons = exported.written.comparisons
        assert [(case.batch, case.grid_hw) for case in comparisons] == [(1, (4, 4)), (3, (5, 4))]
        assert all(0 <= case.difference_m <= case.allowed_m < 1e-2 * case.std_m for case in comparisons)


class TestTheHead:
    @pytest.mark.slow
    def test_stays_as_it_is(self, exported: Exported) -> None:
        assert all(exported.kept.values()), exported.kept

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_is_written_in_float32(
        self, tmp_path: Path, instant: list[DepthHead], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
    ) -> None:
        monkeypatch.setattr(export, "compare", lambda *_, **__: ())
        head = small_head(**SMALL["space-clip"]).to(dtype)
        export_onnx(head, tmp_path / "head.onnx", patch_size=4)
        assert {parameter.dtype for parameter in instant[0].parameters()} == {torch.float32}
        assert {parameter.dtype for parameter in head.parameters()} == {dtype}

    def test_that_is_trained_says_so(
        self, tmp_path: Path, instant: list[DepthHead], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "compare", lambda *_, **__: ())
        head = small_head(config={"trained_on": "a room"}, **SMALL["space-clip"])
        export_onnx(head, tmp_path / "head.onnx", patch_size=4)
        metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "head.onnx").metadata_props}
        assert metadata["trained"] == "true"
        assert json.loads(metadata["spaceclip_config"])["trained_on"] == "a room"


class TestAWrongFile:
    """Whatever is wrong, no file is left, and an older one stays."""

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, tmp_path: Path) -> Iterator[None]:
        (tmp_path / "head.onnx").write_bytes(b"an older file")
        yield
        assert [path.name for path in tmp_path.iterdir()] == ["head.onnx"]
        assert (tmp_path / "head.onnx").read_bytes() == b"an older file"

    @pytest.mark.slow
    def test_of_other_weights(self, tmp_path: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export, "_converted", lambda *_: onnx.load(exported.written.path))
        other = copy.deepcopy(exported.head)
        with torch.no_grad():
            next(value for name, value in other.named_parameters() if name.endswith("weight")).mul_(1.01)
        with pytest.raises(ExportError, match=r"1 images.*4x4"):
            export_onnx(other, tmp_path / "head.onnx", grid_hw=(4, 4), **exported.output)

    def test_that_onnx_runtime_refuses(self, tmp_path: Path, instant: list[DepthHead]) -> None:
        with pytest.raises(ExportError, match=f"ONNX Runtime {onnxruntime.__version__}"):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "head.onnx", patch_size=4)

    def test_that_is_no_onnx_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for named in ("_tell", "_describe"):
            monkeypatch.setattr(export, named, lambda *_: None)
        broken = SimpleNamespace(SerializeToString=lambda: b"no protobuf")
        monkeypatch.setattr(export, "_converted", lambda *_: broken)
        with pytest.raises(ExportError, match=f"ONNX Runtime {onnxruntime.__version__}"):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "head.onnx", patch_size=4)

    @pytest.mark.parametrize(
        ("depth", "message"),
        [
            (lambda depth: depth[:, 1:], r"torch\.float32.*\(1, 7, 12\)"),
            (lambda depth: depth.astype(np.float64), r"torch\.float64.*\(1, 8, 12\)"),
            (lambda depth: depth * np.nan, "nan m"),
            (lambda depth: depth + 1e-3, r"0\.001 m"),
        ],
    )
    def test_that_gives_another_depth(
        self, tmp_path: Path, instant: list[DepthHead], monkeypatch: pytest.MonkeyPatch, depth: Any, message: str
    ) -> None:
        class Session:
            def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

            def run(self, _names: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
                maps = {int(name[7:]): torch.from_numpy(value) for name, value in inputs.items() if name != "context"}
                features = TowerFeatures(maps, torch.from_numpy(inputs["context"]), (8, 12))
                with torch.no_grad():
                    return [depth(instant[0](features).depth_m.numpy()), np.ones(1, np.float32)]

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        with pytest.raises(ExportError, match=message):
            export_onnx(small_head(**SMALL["space-clip"]), tmp_path / "head.onnx", patch_size=4, grid_hw=(2, 3))

    def test_that_nothing_tells_from_a_right_one(
        self, tmp_path: Path, instant: list[DepthHead], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dead = small_head(**SMALL["space-clip"])
        nn.init.constant_(dead.decoder.depth[-1].bias, -100.0)  # the ReLU after it gives zeros
        zeros, one = np.zeros((8, 12), np.float32), np.ones(1, np.float32)
        session = SimpleNamespace(run=lambda _names, given: [np.stack([zeros] * len(given["context"])), one])
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
        with pytest.raises(ExportError, match=r"one depth everywhere"):
            export_onnx(dead, tmp_path / "head.onnx", output_hw=(8, 12), grid_hw=(2, 3))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("decide", "message"),
        [
            (lambda depth: depth if depth.mean() > 0 else 2 * depth, "'space-clip'"),
            (lambda depth: depth if depth.shape[1] > 6 else 2 * depth, "14x14|15x14"),  # traced at 5
        ],
    )
    def test_of_a_decoder_that_decides(self, tmp_path: Path, decide: Callable[[Tensor], Tensor], message: str) -> None:
        class Deciding(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(1))

            def forward(self, features: TowerFeatures, _output_hw: Any, *, auxiliary: bool) -> HeadOutput:
                return HeadOutput(decide(self.scale * features.hidden[5][:, 0]))

        head = small_head(**SMALL["space-clip"])
        head.decoder = Deciding()
        with pytest.raises(ExportError, match=message):
            export_onnx(head, tmp_path / "head.onnx", patch_size=1)

    @pytest.mark.slow
    def test_of_a_fixed_grid(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Exported) -> None:
        model = onnx.load(exported.written.path)
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 5  # what the exporter does when in doubt
        monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(model_proto=model))
        with pytest.raises(ExportError, match=r"'hidden_\d'.*\('batch', \d, 5, 'w"):
            export_onnx(exported.head, tmp_path / "head.onnx", **exported.output)
