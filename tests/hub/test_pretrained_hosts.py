"""Hosts of timm and open_clip with the weights their name says: from the Hub, then from the cache, else refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from local_hub import LocalHub
from loopback_servers import Fault
from safetensors.torch import save
from torch import Tensor, nn

from spaceclip_adapters.hosts import load_open_clip, load_timm
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers.hosts import load_host, revision_of
from spaceclip_plugin.towers.registry import find_tower

TIMM_NAME, TIMM_REPO = "vit_tiny_patch16_224.augreg_in21k", "timm/vit_tiny_patch16_224.augreg_in21k"
CLIP_NAME, CLIP_REPO, CLIP_FILE = "ViT-tiny/own", "org/clip-tiny", "open_clip_model.safetensors"
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
Setting = Callable[[str, object], None]


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A state dict of the timm host that no seed of the loader gives."""
    model = timm.create_model(TIMM_NAME, pretrained=False)
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(value.shape, generator=generator) / 50 if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


@pytest.fixture(autouse=True)
def _large_chunks(hub: LocalHub, client_setting: Setting) -> None:
    client_setting("DOWNLOAD_CHUNK_SIZE", 1 << 20)


@pytest.fixture
def clip_tags(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """A tiny model that open_clip knows in this test, and its tags."""
    shape = {"width": 32, "layers": 2, "heads": 2}
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, **shape},
    }
    tags: dict[str, dict[str, object]] = {
        "own": {"hf_hub": f"{CLIP_REPO}/", "mean": MEAN, "std": STD, "quick_gelu": True},
        "far": {"url": "https://far.invalid/model.pt"},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-tiny", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-tiny", tags)
    return tags


def clip_state() -> dict[str, Tensor]:
    state = load_open_clip("ViT-tiny", random=True).state_dict()
    return {name: value + 0.25 if value.is_floating_point() else value for name, value in state.items()}


def assert_weights(host: nn.Module, state: dict[str, Tensor]) -> None:
    own = host.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    assert not any(parameter.requires_grad for parameter in host.parameters())


class TestTimm:
    def test_the_tags_weights_statistics_and_commit(self, hub: LocalHub, trained: dict[str, Tensor]) -> None:
        commit = hub.commit(TIMM_REPO, {"model.safetensors": save(trained)})
        host = load_host(f"timm:{TIMM_NAME}")
        assert_weights(host, trained)
        assert revision_of(host) == commit
        spec = find_tower(host).spec
        assert (spec.image_mean, spec.image_std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def test_offline_from_the_cache(self, hub: LocalHub, trained: dict[str, Tensor], client_setting: Setting) -> None:
        commit = hub.commit(TIMM_REPO, {"model.safetensors": save(trained)})
        load_timm(TIMM_NAME)
        hub.stop()
        client_setting("HF_HUB_OFFLINE", True)
        host = load_timm(TIMM_NAME)
        assert_weights(host, trained)
        assert revision_of(host) == commit

    def test_without_a_tag_the_default_is_named(
        self, hub: LocalHub, trained: dict[str, Tensor], caplog: pytest.LogCaptureFixture
    ) -> None:
        name = TIMM_NAME.partition(".")[0]
        default = timm.models.get_pretrained_cfg(name)
        state = timm.create_model(name, pretrained=False).state_dict()
        hub.commit(default.hf_hub_id, {"model.safetensors": save(state)})
        assert_weights(load_timm(name), state)
        assert f"{name}.{default.tag}" in caplog.text

    @pytest.mark.slow
    def test_at_another_image_size(self, hub: LocalHub, trained: dict[str, Tensor]) -> None:
        hub.commit(TIMM_REPO, {"model.safetensors": save(trained)})
        host = load_host(f"timm:{TIMM_NAME}", image_hw=(96, 128))
        own = host.state_dict()
        assert [name for name, value in trained.items() if not torch.equal(own[name], value)] == ["pos_embed"]
        assert host.patch_embed.img_size == (96, 128)
        assert revision_of(host) is not None

    def test_no_network(self, hub: LocalHub, client_setting: Setting) -> None:
        client_setting("HF_HUB_OFFLINE", True)
        with pytest.raises(HostError, match=rf"{TIMM_REPO}.*cache.*--host-weights FILE.*--host-weights random"):
            load_timm(TIMM_NAME)

    def test_a_server_that_is_gone(self, hub: LocalHub) -> None:
        hub.stop()
        with pytest.raises(HostError, match=TIMM_REPO):
            load_timm(TIMM_NAME)

    def test_no_such_repository(self, hub: LocalHub) -> None:
        with pytest.raises(HostError, match=TIMM_REPO):
            load_timm(TIMM_NAME)

    @pytest.mark.parametrize("others", [{}, {"pytorch_model.bin": b"pickle"}, {"config.json": b"{}"}])
    def test_no_safetensors_in_the_repository(self, hub: LocalHub, others: dict[str, bytes]) -> None:
        hub.commit(TIMM_REPO, others)
        with pytest.raises(HostError, match=r"has no model\.safetensors"):
            load_timm(TIMM_NAME)
        assert not any(request.path.endswith(".bin") for request in hub.requests)

    def test_a_cut_download_is_no_host(self, hub: LocalHub, trained: dict[str, Tensor]) -> None:
        hub.commit(TIMM_REPO, {"model.safetensors": save(trained)})
        hub.faults.append(Fault("GET store/cdn", cut_after=5000))
        with pytest.raises(HostError, match=TIMM_REPO):
            load_timm(TIMM_NAME)
        hub.faults.clear()
        assert_weights(load_timm(TIMM_NAME), trained)

    def test_a_damaged_file_says_that_it_is_downloaded_again(self, hub: LocalHub) -> None:
        hub.commit(TIMM_REPO, {"model.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{"})
        with pytest.raises(HostError, match=r"not a whole safetensors file.*downloaded again"):
            load_timm(TIMM_NAME)

    def test_other_shapes(self, hub: LocalHub, trained: dict[str, Tensor]) -> None:
        hub.commit(TIMM_REPO, {"model.safetensors": save({**trained, "norm.weight": torch.ones(7)})})
        with pytest.raises(HostError, match=r"other shapes .*norm\.weight \(7,\) for \(192,\)"):
            load_timm(TIMM_NAME)

    def test_a_missing_weight_is_not_made_up(self, hub: LocalHub, trained: dict[str, Tensor]) -> None:
        holed = {name: value for name, value in trained.items() if name != "blocks.3.norm1.bias"}
        hub.commit(TIMM_REPO, {"model.safetensors": save(holed)})
        with pytest.raises(HostError, match=r"missing blocks\.3\.norm1\.bias"):
            load_timm(TIMM_NAME)

    def test_timms_own_filter_reads_an_open_clip_file(self, hub: LocalHub, trained: dict[str, Tensor]) -> None:
        """As in repositories that hold the whole of a CLIP model with a timm trunk."""
        state = {f"visual.trunk.{name}": value for name, value in trained.items()} | {"text.bias": torch.ones(3)}
        hub.commit(TIMM_REPO, {"model.safetensors": save(state)})
        assert_weights(load_timm(TIMM_NAME), trained)

    def test_an_unknown_tag_lists_what_there_is(self) -> None:
        with pytest.raises(HostError, match=r"no weights 'augreg'.*did you mean 'augreg_in21k.*augreg_in21k_ft_in1k"):
            load_timm("vit_tiny_patch16_224.augreg")

    def test_a_tag_that_is_no_file_on_the_hub(self, monkeypatch: pytest.MonkeyPatch, hub: LocalHub) -> None:
        config = timm.models.get_pretrained_cfg(TIMM_NAME)
        config.hf_hub_id, config.url = None, "https://far.invalid/model.pth"
        monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: config)
        with pytest.raises(HostError, match=r"far\.invalid/model\.pth.*--host-weights random"):
            load_timm(TIMM_NAME)
        assert hub.requests == []

    def test_weights_that_want_another_activation(self, hub: LocalHub, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(HostError):
            load_timm("vit_base_patch16_clip_224.openai")
        assert "QuickGELU" in caplog.text
        assert "timm:vit_base_patch16_clip_quickgelu_224.openai" in caplog.text


@pytest.mark.usefixtures("clip_tags")
class TestOpenClip:
    def test_the_tags_weights_statistics_activation_and_commit(self, hub: LocalHub) -> None:
        state = clip_state()
        commit = hub.commit(CLIP_REPO, {CLIP_FILE: save(state)})
        host = load_host(f"open_clip:{CLIP_NAME}")
        assert_weights(host, state)
        assert revision_of(host) == commit
        spec = find_tower(host).spec
        assert (spec.image_mean, spec.image_std) == (MEAN, STD)
        assert sum(type(part).__name__ == "QuickGELU" for part in host.visual.modules()) == 2

    def test_offline_from_the_cache(self, hub: LocalHub, client_setting: Setting) -> None:
        state = clip_state()
        hub.commit(CLIP_REPO, {CLIP_FILE: save(state)})
        load_open_clip(CLIP_NAME)
        client_setting("HF_HUB_OFFLINE", True)
        assert_weights(load_open_clip(CLIP_NAME), state)

    def test_no_safetensors_in_the_repository(self, hub: LocalHub) -> None:
        hub.commit(CLIP_REPO, {"open_clip_pytorch_model.bin": b"pickle"})
        with pytest.raises(HostError, match=rf"{CLIP_REPO}' has no {CLIP_FILE}"):
            load_open_clip(CLIP_NAME)

    def test_a_missing_weight_is_not_made_up(self, hub: LocalHub) -> None:
        state = clip_state()
        del state["visual.ln_post.bias"]
        hub.commit(CLIP_REPO, {CLIP_FILE: save(state)})
        with pytest.raises(HostError, match=r"missing visual\.ln_post\.bias"):
            load_open_clip(CLIP_NAME)

    def test_other_shapes(self, hub: LocalHub) -> None:
        hub.commit(CLIP_REPO, {CLIP_FILE: save({**clip_state(), "visual.ln_post.bias": torch.ones(3)})})
        with pytest.raises(HostError, match=r"other shapes .*visual\.ln_post\.bias \(3,\) for \(64,\)"):
            load_open_clip(CLIP_NAME)

    def test_a_file_has_the_statistics_of_the_tag(self, tmp_path: Path) -> None:
        state = clip_state()
        (tmp_path / "w.safetensors").write_bytes(save(state))
        host = load_open_clip(CLIP_NAME, tmp_path / "w.safetensors")
        assert_weights(host, state)
        assert find_tower(host).spec.image_mean == MEAN

    def test_weights_that_are_pickle_elsewhere(self) -> None:
        with pytest.raises(HostError, match=r"far\.invalid/model\.pt"):
            load_open_clip("ViT-tiny/far")

    def test_without_a_tag_all_are_listed(self) -> None:
        with pytest.raises(HostError, match="own, far"):
            load_open_clip("ViT-tiny")

    def test_the_only_tag_needs_no_name(
        self, hub: LocalHub, clip_tags: dict[str, dict[str, object]], caplog: pytest.LogCaptureFixture
    ) -> None:
        del clip_tags["far"]
        state = clip_state()
        hub.commit(CLIP_REPO, {CLIP_FILE: save(state)})
        with caplog.at_level(logging.WARNING, logger="spaceclip_adapters"):
            assert_weights(load_open_clip("ViT-tiny"), state)
        assert "its only tag, own, is taken" in caplog.text

    def test_an_unknown_tag(self) -> None:
        with pytest.raises(HostError, match=r"no weights 'owm' of 'ViT-tiny' \(did you mean 'own'\?\)"):
            load_open_clip("ViT-tiny/owm")

    def test_a_name_with_a_slash_of_its_own(self, hub: LocalHub) -> None:
        state = clip_state()
        hub.commit(CLIP_REPO, {CLIP_FILE: save(state)})
        assert_weights(load_open_clip("ViT/tiny/own"), state)
