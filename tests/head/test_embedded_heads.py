"""Heads that come with the package: what their name finds, and where it may stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clip_world import clip_host
from embedded_world import HEAD, HOST, NAME, package_in, world
from fresh_heads import fresh_head
from safetensors.torch import load_file

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.bridges.transformers import SpaceClipForDepthEstimation
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.embedded import catalogue
from spaceclip_plugin.towers import load_host

__all__ = ["world"]


class TestByName:
    def test_half_precision_in_the_file_is_single_precision_in_the_head(self, world: Path) -> None:
        head = DepthHead.from_pretrained(HEAD)
        kept = load_file(catalogue.FOLDER / NAME / "model.safetensors")
        assert {value.dtype for value in kept.values()} == {torch.float16}
        for name, value in head.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, kept[name].float()), name
        assert head.trained
        assert not head.training

    def test_it_is_the_head_of_the_run_but_for_rounding(self, world: Path) -> None:
        trained = DepthHead.from_pretrained(world / "run")
        assert DepthHead.from_pretrained(HEAD).config == trained.config
        trained.half().float()
        assert module_digest(trained) == module_digest(DepthHead.from_pretrained(HEAD))

    def test_it_knows_its_tower_again(self, world: Path, caplog: pytest.LogCaptureFixture) -> None:
        host = load_host(HOST, weights=world / "tower.safetensors")
        with attach_depth_head(host, HEAD, other_tower="error") as depth:
            assert depth.tower_match is not None
            assert depth.tower_match.verdict == "same"
        assert not [record for record in caplog.records if record.name.startswith("spaceclip_plugin.attach")]

    @pytest.mark.parametrize("name", ["scene-test-vit", "", ".", "..", f"../{NAME}", f"{NAME}/", NAME.upper()])
    def test_another_name_is_no_head(self, world: Path, name: str) -> None:
        with pytest.raises(CheckpointError, match=f"embedded are {NAME}") as caught:
            DepthHead.from_pretrained(f"embedded:{name}")
        assert (f"did you mean '{NAME}'" in str(caught.value)) == (NAME[-4:] in name)

    def test_where_none_is_embedded_it_is_said(self, tmp_path: Path) -> None:
        with package_in(tmp_path), pytest.raises(CheckpointError, match="no head is embedded"):
            DepthHead.from_pretrained(HEAD)

    def test_it_has_no_revisions(self, world: Path) -> None:
        with pytest.raises(ConfigError, match=f"revision='v1'.*'{HEAD}' is a head of this package"):
            DepthHead.from_pretrained(HEAD, revision="v1")

    def test_a_folder_that_is_called_so_is_a_path(
        self, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        DepthHead.for_tower(clip_host()).save_pretrained(HEAD)
        assert DepthHead.from_pretrained(HEAD).trained
        for place in (Path(HEAD), f"./{HEAD}"):
            assert not DepthHead.from_pretrained(place).trained

    def test_a_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        (tmp_path / NAME).mkdir()
        with package_in(tmp_path), pytest.raises(CheckpointError, match=r"config\.json is missing"):
            DepthHead.from_pretrained(HEAD)


class TestBridges:
    @pytest.fixture(autouse=True)
    def _a_head_for_clip(self, tmp_path: Path) -> None:
        with package_in(tmp_path):
            head = fresh_head(clip_host(), trained_on="numbers")
            self.digest = module_digest(head)
            head.save_pretrained(tmp_path / "tiny-clip")
            yield

    def test_transformers(self) -> None:
        model = SpaceClipForDepthEstimation.from_host(clip_host(), "embedded:tiny-clip")
        assert module_digest(model.head) == self.digest

    def test_lerobot(self) -> None:
        pytest.importorskip("lerobot", reason="make test-lerobot")
        from spaceclip_plugin.bridges.lerobot import DepthProcessorStep

        assert module_digest(DepthProcessorStep("embedded:tiny-clip").head) == self.digest
