"""Hosts by name: exact weights or a clear refusal, no pickle, no network, no trace in the random state."""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_hosts import VISION
from torch import nn

from spaceclip_adapters import hosts, timm_vit
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers.hosts import GROUP, load_host

TIMM_NAME = "deit_tiny_patch16_224"


def assert_frozen(host: nn.Module) -> None:
    assert not any(module.training for module in host.modules())
    assert not any(parameter.requires_grad for parameter in host.parameters())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)).save_pretrained(folder)
    return folder


@pytest.fixture
def config_folder(clip_folder: Path, tmp_path: Path) -> Path:
    """A config without weights."""
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    return tmp_path


@pytest.fixture(scope="module")
def own() -> dict[str, torch.Tensor]:
    return dict(hosts.load_timm("vit_tiny_patch16_224", random=True).state_dict())


class TestRandomWeights:
    @pytest.mark.parametrize(
        ("load", "name"),
        [(hosts.load_timm, "vit_tiny_patch16_224"), (hosts.load_open_clip, "ViT-S-32-alt")],
    )
    def test_fixed_frozen_and_announced(self, load, name: str, caplog: pytest.LogCaptureFixture) -> None:
        before = torch.get_rng_state()
        with caplog.at_level(logging.WARNING, logger="spaceclip_adapters"):
            first = load(name, random=True)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
        second = load(name, random=True)
        assert f"{name} has random weights" in caplog.text
        assert_frozen(first)
        for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)

    def test_logging_stays_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """open_clip logs by `logging.info`, which sets up the root logger of a process that has none."""
        monkeypatch.setattr(logging.root, "handlers", [])
        hosts.load_open_clip("ViT-S-32-alt", random=True)
        assert logging.root.handlers == []

    def test_a_default_device_does_not_change_them(self) -> None:
        with torch.device("meta"):
            host = hosts.load_timm("vit_tiny_patch16_224", random=True)
        assert {parameter.device.type for parameter in host.parameters()} == {"cpu"}


class TestAnotherImageSize:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224"])
    def test_timm_interpolates_positions_and_keeps_all_else(self, name: str, tmp_path: Path) -> None:
        square = hosts.load_timm(name, random=True)
        save_file(square.state_dict(), tmp_path / "w.safetensors")
        wide = hosts.load_timm(name, tmp_path / "w.safetensors", image_hw=(96, 128))
        assert_frozen(wide)
        expected, found = square.state_dict(), wide.state_dict()
        changed = [key for key in expected if not torch.equal(expected[key], found[key])]
        assert changed == ["pos_embed"]
        with torch.no_grad():
            assert wide(torch.zeros(1, 3, 96, 128)).isfinite().all()
        grid = timm_vit.adapter.find(wide)[0].spec.image_hw
        assert grid == (96, 128)

    def test_positions_keep_their_places(self, tmp_path: Path) -> None:
        """Halving the image halves the grid: every new position is the mean of those it covers, the class's stays."""
        square = hosts.load_timm("vit_tiny_patch16_224", random=True)
        ramp = torch.linspace(0, 1, 14)[:, None, None].expand(14, 14, 192).reshape(1, 196, 192)
        state = {**square.state_dict(), "pos_embed": torch.cat([torch.full((1, 1, 192), 9.0), ramp], dim=1)}
        save_file(state, tmp_path / "w.safetensors")
        half = hosts.load_timm("vit_tiny_patch16_224", tmp_path / "w.safetensors", image_hw=(112, 224))
        assert (half.pos_embed[0, 0] == 9).all()
        got = half.pos_embed[0, 1:].view(7, 14, 192)
        expected = torch.linspace(0, 1, 14).view(7, 2).mean(1)[:, None, None].expand(7, 14, 192)
        assert (got[1:-1] - expected[1:-1]).abs().max() < 0.02

    def test_its_own_size_changes_nothing(self) -> None:
        plain = hosts.load_timm(TIMM_NAME, random=True)
        asked = hosts.load_timm(TIMM_NAME, image_hw=(224, 224), random=True)
        for ours, theirs in zip(plain.state_dict().values(), asked.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize(
        ("name", "image_hw", "message"),
        [
            (TIMM_NAME, (200, 224), r"images of 200x224: .*Choose sides that are multiples"),
            ("resnet18", (96, 128), r"'resnet18' cannot be built for images of 96x128"),
        ],
    )
    def test_what_cannot_be_is_refused(self, name: str, image_hw: tuple[int, int], message: str) -> None:
        with pytest.raises(HostError, match=message):
            hosts.load_timm(name, image_hw=image_hw, random=True)

    def test_weights_of_the_own_size_alone_fit(self, tmp_path: Path) -> None:
        wide = hosts.load_timm(TIMM_NAME, image_hw=(96, 128), random=True)
        save_file(wide.state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(HostError, match="other shapes than"):
            hosts.load_timm(TIMM_NAME, tmp_path / "w.safetensors", image_hw=(96, 128))

    def test_other_hosts_say_that_they_cannot(self, clip_folder: Path) -> None:
        with pytest.raises(HostError, match=r"'hf'.*96x"):
            load_host(f"hf:{clip_folder}", image_hw=(96, 128))

    def test_by_name(self) -> None:
        host = load_host(f"timm:{TIMM_NAME}", weights="random", image_hw=(96, 128))
        assert host.patch_embed.img_size == (96, 128)


class TestOtherPeoplesLoaders:
    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A loader of a package that knows nothing but names and files."""

        class Point:
            name = "mine"

            def load(self) -> object:
                return lambda model, weights: nn.Linear(1, 1) if weights is None else nn.Linear(len(weights.name), 1)

        found = metadata.entry_points

        def entry_points(*, group: str) -> object:
            return [Point()] if group == GROUP else found(group=group)

        monkeypatch.setattr(metadata, "entry_points", entry_points)

    def test_a_file_called_random_is_a_file(self) -> None:
        for weights in ("./random", Path("random")):
            assert load_host("mine:x", weights=weights).in_features == len("random")

    def test_random_weights_are_not_taken_for_one(self) -> None:
        with pytest.raises(HostError, match="'mine'"):
            load_host("mine:x", weights="random")

    def test_statistics_need_nothing_of_it(self) -> None:
        assert_frozen(load_host("mine:x", image_mean=(0, 0, 0), image_std=(1, 1, 1)))

    def test_the_error_names_every_kind(self) -> None:
        with pytest.raises(HostError, match=r"mine:NAME.*python:MODULE:FUNCTION"):
            load_host("yours:x")


class TestUnknownNames:
    def test_timm(self) -> None:
        with pytest.raises(HostError, match=r"'deit_tiny_patch16_244'.*'deit_tiny_patch16_224'"):
            hosts.load_timm("deit_tiny_patch16_244")

    def test_timm_tag(self) -> None:
        with pytest.raises(HostError, match=r"'no_such_tag' of 'deit_tiny_patch16_224'.*fb_in1k"):
            hosts.load_timm(f"{TIMM_NAME}.no_such_tag")

    def test_open_clip(self) -> None:
        with pytest.raises(HostError, match=r"'ViT-B/32'.*'ViT-B-32'"):
            hosts.load_open_clip("ViT-B/32")

    @pytest.mark.usefixtures("offline")
    def test_open_clip_with_a_text_tower_of_the_hub(self) -> None:
        with pytest.raises(HostError, match="described on the Hub"):
            hosts.load_open_clip("roberta-ViT-B-32", random=True)

    @pytest.mark.usefixtures("offline")
    def test_transformers_offline(self) -> None:
        with pytest.raises(HostError, match=r"'nobody/no-such-model'.*snapshot_download"):
            hosts.load_hf("nobody/no-such-model")

    def test_transformers_folder_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(HostError, match=r"config\.json"):
            hosts.load_hf(str(tmp_path))

    def test_transformers_unknown_type(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(HostError, match="cannot describe"):
            hosts.load_hf(str(tmp_path))


class TestTransformersFolder:
    def test_own_weights(self, clip_folder: Path) -> None:
        host = hosts.load_hf(str(clip_folder))
        assert_frozen(host)
        assert type(host) is transformers.CLIPVisionModel
        saved = load_file(clip_folder / "model.safetensors")
        for name, tensor in host.state_dict().items():
            assert torch.equal(tensor, saved[name])

    def test_no_weights(self, config_folder: Path) -> None:
        with pytest.raises(HostError, match=r"--host-weights FILE"):
            hosts.load_hf(str(config_folder))

    def test_pickled_weights_are_not_read(self, config_folder: Path) -> None:
        (config_folder / "pytorch_model.bin").touch()
        with pytest.raises(HostError, match=r"\.bin"):
            hosts.load_hf(str(config_folder))

    def test_config_with_a_state_dict(self, config_folder: Path, clip_folder: Path) -> None:
        host = hosts.load_hf(str(config_folder), clip_folder / "model.safetensors")
        assert_frozen(host)
        saved = load_file(clip_folder / "model.safetensors")
        assert all(torch.equal(tensor, saved[name]) for name, tensor in host.state_dict().items())

    def test_weights_with_holes(self, config_folder: Path, clip_folder: Path) -> None:
        """transformers fills holes with random weights; a tower with random parts must not pass for a trained one."""
        saved = load_file(clip_folder / "model.safetensors")
        hole = next(name for name in saved if name.endswith("layers.1.mlp.fc1.weight"))
        del saved[hole]
        save_file(saved, config_folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(HostError, match=rf"missing {hole}"):
            hosts.load_hf(str(config_folder))

    def test_broken_weights(self, config_folder: Path) -> None:
        (config_folder / "model.safetensors").write_bytes(b"not safetensors")
        with pytest.raises(HostError, match="no safetensors weights could be loaded"):
            hosts.load_hf(str(config_folder))

    def test_tied_weights_are_there_once(self, tmp_path: Path) -> None:
        config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        assert "lm_head.weight" not in load_file(weights)
        assert_frozen(hosts.load_hf(str(tmp_path), weights))


class TestStateDict:
    def test_missing_and_unexpected_are_named(self, own: dict[str, torch.Tensor], tmp_path: Path) -> None:
        wrong = {f"visual.{name}": tensor for name, tensor in own.items()}
        save_file(wrong, tmp_path / "wrong.safetensors")
        named = r"missing blocks\.0\.attn\.proj\.bias, .* and 147 more; unexpected visual\.blocks\.0\..* and 147 more"
        with pytest.raises(HostError, match=named):
            hosts.load_timm("vit_tiny_patch16_224", tmp_path / "wrong.safetensors")

    def test_other_shapes_are_named(self, own: dict[str, torch.Tensor], tmp_path: Path) -> None:
        save_file({**own, "head.bias": torch.zeros(7)}, tmp_path / "wrong.safetensors")
        with pytest.raises(HostError, match=r"other shapes .* head\.bias \(7,\) for \(1000,\)"):
            hosts.load_timm("vit_tiny_patch16_224", tmp_path / "wrong.safetensors")

    def test_pickle_is_refused_unread(self, tmp_path: Path) -> None:
        with pytest.raises(HostError, match=r"\.safetensors"):
            hosts.load_timm(TIMM_NAME, tmp_path / "model.pt")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(HostError, match="no weights file"):
            hosts.load_timm(TIMM_NAME, tmp_path / "absent.safetensors")

    def test_half_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "half.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
        with pytest.raises(HostError, match="not a whole safetensors file"):
            hosts.load_timm(TIMM_NAME, tmp_path / "half.safetensors")


@pytest.mark.real
class TestRealDeit:
    def test_loads_exactly(self, real_weights: Path, caplog: pytest.LogCaptureFixture) -> None:
        weights = real_weights / "deit_tiny" / "deit_tiny_timm.safetensors"
        with caplog.at_level(logging.WARNING, logger="spaceclip_adapters"):
            host = hosts.load_timm(TIMM_NAME, weights)
        assert caplog.text == ""
        saved = load_file(weights)
        assert all(torch.equal(tensor, saved[name]) for name, tensor in host.state_dict().items())
        (tower,) = timm_vit.adapter.find(host)
        assert (tower.spec.width, tower.spec.blocks, tower.spec.patch_size) == (192, 12, 16)

    def test_another_model_refuses_them(self, real_weights: Path) -> None:
        weights = real_weights / "deit_tiny" / "deit_tiny_timm.safetensors"
        with pytest.raises(HostError, match="other shapes"):
            hosts.load_timm("deit_small_patch16_224", weights)
        with pytest.raises(HostError, match="missing dist_token, head_dist"):
            hosts.load_timm("deit_tiny_distilled_patch16_224", weights)
