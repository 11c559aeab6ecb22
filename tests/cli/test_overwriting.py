"""What `convert`, `export` and `demo` find where they write, and leave there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin._files import write_json
from spaceclip_plugin.bridges import onnx as onnx_module
from spaceclip_plugin.cli import main
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.demos import policy_demo, training_demo
from spaceclip_worlds.demos.demo import check_demo_folder, digests

SPACE_CLIP = {"channels": (4,), "semantic_taps": (2,), "structural_taps": (), "film_hidden": 3}


def small_head() -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DepthHead(DepthHeadConfig("space-clip", SPACE_CLIP, width=8, blocks=2, trained_on="a room"))


class TestConvert:
    @pytest.fixture
    def argv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The command; what it reads is not the point here."""
        monkeypatch.setattr(DepthHead, "from_spaceclip_checkpoint", lambda *_, **__: small_head())
        return ["convert", "published.pt", "--out", str(tmp_path / "head")]

    def test_an_older_head_only_when_told(
        self, argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(argv) == 0
        weights = tmp_path / "head" / "model.safetensors"
        weights.write_bytes(b"trained for a week")
        assert main(argv) == 1
        assert "config.json" in capsys.readouterr().err
        assert weights.read_bytes() == b"trained for a week"
        weights.unlink()
        assert main([*argv, "--overwrite"]) == 0
        assert DepthHead.from_pretrained(tmp_path / "head").trained

    def test_never_another_model(self, argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "head").mkdir()
        (tmp_path / "head" / "config.json").write_text('{"model_type": "clip"}')
        for more in ([], ["--overwrite"]):
            assert main([*argv, *more]) == 1
            assert "config.json" in capsys.readouterr().err
        assert (tmp_path / "head" / "config.json").read_text() == '{"model_type": "clip"}'


class TestExport:
    def test_a_file_only_when_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        head = small_head().save_pretrained(tmp_path / "head")
        file = tmp_path / "policy.onnx"
        file.write_text("another model")
        asked = []

        def export(_head: DepthHead, path: Path, **_: object) -> object:
            asked.append(path)
            raise ConfigError("far enough")

        monkeypatch.setattr(onnx_module, "export_onnx", export)
        argv = ["export", str(head), "--out", str(file), "--patch-size", "14"]
        assert main(argv) == 1
        assert "policy.onnx" in capsys.readouterr().err
        assert asked == []
        assert main([*argv, "--overwrite"]) == 1
        assert asked == [file]

    @pytest.mark.parametrize("named", ["", "run"])
    def test_the_head_that_is_exported_is_never_replaced(
        self, tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = small_head().save_pretrained(tmp_path / "run" / "head")
        before = (own / "model.safetensors").read_bytes()
        (tmp_path / "link.onnx").symlink_to(own / "model.safetensors")
        for file in (own / "model.safetensors", own / "config.json", tmp_path / "link.onnx"):
            argv = ["export", str(tmp_path / named if named else own), "--out", str(file), "--patch-size", "14"]
            assert main([*argv, "--overwrite"]) == 1
            assert "is read by this command" in capsys.readouterr().err
        assert (own / "model.safetensors").read_bytes() == before


class TestDemo:
    """Both demos, without driving or training: what they find is looked at before."""

    NAMES = ("depth.png", "points.ply", "depth_mm.png", "metrics.json")

    @pytest.fixture(autouse=True)
    def _no_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module, name in ((policy_demo, "load_policy"), (training_demo, "_render")):
            monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("the demo began"))

    @pytest.mark.parametrize("train", [[], ["--train"]], ids=["rover", "training"])
    @pytest.mark.parametrize("name", NAMES)
    def test_a_file_of_the_users(
        self, tmp_path: Path, name: str, train: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / name).write_text("{}")
        assert main(["demo", "--out", str(tmp_path), *train]) == 1
        assert name in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "{}"

    @pytest.mark.parametrize("entry", ["notes.txt", "head/head.onnx"])
    def test_a_file_in_an_older_run(self, tmp_path: Path, entry: str, capsys: pytest.CaptureFixture[str]) -> None:
        run = tmp_path / "training"
        (run / "head").mkdir(parents=True)
        (run / "run.json").write_text('{"protocol": "tabletop"}')
        (run / entry).write_text("mine")
        for more in ([], ["--overwrite"]):
            assert main(["demo", "--train", "--out", str(tmp_path), *more]) == 1
            assert Path(entry).name in capsys.readouterr().err
        assert (run / entry).read_text() == "mine"
        assert (run / "run.json").is_file()


def test_a_demo_replaces_its_own_files_until_they_are_changed(tmp_path: Path) -> None:
    names = ("depth.png", "points.ply")
    check_demo_folder(tmp_path / "absent", overwrite=False)
    for name in names:
        (tmp_path / name).write_text(name)
    with pytest.raises(ConfigError, match=r"depth\.png"):
        check_demo_folder(tmp_path, overwrite=False)
    write_json(tmp_path / "metrics.json", {"written": digests(tmp_path / name for name in names)})
    check_demo_folder(tmp_path, overwrite=False)
    (tmp_path / "depth.png").write_text("a picture of the kitchen")
    with pytest.raises(ConfigError, match=r"depth\.png"):
        check_demo_folder(tmp_path, overwrite=False)
    check_demo_folder(tmp_path, overwrite=True)
    (tmp_path / "depth.png").unlink()
    check_demo_folder(tmp_path, overwrite=False)
    (tmp_path / "depth.png").mkdir()
    with pytest.raises(ConfigError, match=r"depth\.png"):
        check_demo_folder(tmp_path, overwrite=True)
