"""Checkpoints without a pooler, a classifier or a text tower load; without anything that depth needs they do not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import POOLED, SIZES, clip, siglip, vit
from torch import Tensor, nn

from spaceclip_adapters.hosts import load_hf, load_open_clip, load_timm
from spaceclip_adapters.hosts.absent_parts import drop_absent
from spaceclip_plugin.attach import attach_depth_head
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_plugin.towers.spec import CLS, MEAN

Make = Callable[[], nn.Module]


def classifier() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES))


def saved(folder: Path, model: nn.Module, *, without: tuple[str, ...], more: dict[str, Tensor] | None = None) -> Path:
    """The folder of a model whose checkpoint lacks every weight with one of these in its name."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not any(part in name for part in without)}
    assert len(kept) < len(state) or more
    save_file({**kept, **(more or {})}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def states_of(model: nn.Module) -> list[Tensor]:
    """Hidden states of one image, of the tower alone."""
    tower = find_tower(model)
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(
            lambda module, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        for block in tower.blocks
    ]
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.no_grad():
        tower.adapter.run(tower, pixels)
    for hook in hooks:
        hook.remove()
    return seen


def assert_same_tower(host: nn.Module, original: nn.Module) -> None:
    """The same hidden states bit for bit, and not a weight in the host that the original does not have."""
    expected, found = states_of(original.eval()), states_of(host)
    assert len(expected) == len(found) == 2
    assert all(map(torch.equal, expected, found))
    own = original.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in host.state_dict().items())


@pytest.mark.parametrize("kind", POOLED)
@pytest.mark.parametrize("as_file", [False, True])
def test_a_pooler_that_is_not_there_is_not_made_up(kind: str, as_file: bool, tmp_path: Path) -> None:
    model = POOLED[kind]()
    folder = saved(tmp_path, model, without=("pooler",))
    host = load_hf(str(folder), folder / "model.safetensors" if as_file else None)
    assert type(host) is type(model)
    assert not any("pooler" in name for name in host.state_dict())
    assert_same_tower(host, model)


@pytest.mark.parametrize("as_file", [False, True])
def test_siglip_without_its_head_has_the_mean_patch_for_context(as_file: bool, tmp_path: Path) -> None:
    model = siglip()
    folder = saved(tmp_path, model, without=("head.",))
    host = load_hf(str(folder), folder / "model.safetensors" if as_file else None)
    assert find_tower(host).spec.context == MEAN
    assert_same_tower(host, model)
    head = DepthHead.for_tower(host, architecture="space-clip")
    with attach_depth_head(host, head) as attachment:
        attachment.refresh(torch.zeros(1, 3, 32, 32))
        (features,) = attachment.features()
    with torch.no_grad():
        normed = host(pixel_values=torch.zeros(1, 3, 32, 32)).last_hidden_state
    assert features.context is not None
    assert torch.allclose(features.context, normed.mean(dim=1), atol=1e-6)


def test_a_pool_that_its_library_cannot_leave_out_is_taken_out() -> None:
    """As with transformers before 4.49, whose SigLIP always has a head."""
    host = siglip().eval()
    missing = [name for name in host.state_dict() if "head." in name]
    before = states_of(host)
    parts = drop_absent(host, missing, source="here")
    assert [part.rpartition(".")[2] for part in parts] == ["head"]
    assert find_tower(host).spec.context == MEAN
    assert all(map(torch.equal, before, states_of(host)))
    assert not any("head." in name for name in host.state_dict())


@pytest.mark.parametrize(
    ("make", "without", "path", "gone"),
    [
        (classifier, ("classifier",), "vit", "classifier"),
        (clip, ("text_", "logit_scale"), "vision_model", "text_model"),
    ],
)
def test_what_lies_outside_of_the_tower_is_left_out(
    make: Make, without: tuple[str, ...], path: str, gone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    with caplog.at_level(logging.WARNING, logger="spaceclip_adapters"):
        host = load_hf(str(saved(tmp_path, model, without=without)))
    tower = find_tower(host)
    assert (tower.spec.path, tower.spec.context) == (path, CLS)
    assert getattr(host, gone) is None
    assert gone in caplog.text
    assert_same_tower(host, model)


@pytest.mark.parametrize(
    ("make", "without", "missing"),
    [
        (vit, ("1.layernorm_after",), r"1\.layernorm_after\.bias"),
        (vit, ("layernorm.weight",), r"layernorm\.weight"),
        (vit, ("position_embeddings",), r"embeddings\.position_embeddings"),
        (clip, ("text_", "logit_scale", "post_layernorm"), r"vision_model\.post_layernorm\.bias"),
        (siglip, ("embeddings.patch",), r"embeddings\.patch_embedding\.bias"),
    ],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_what_the_tower_needs_is_refused_by_name(
    make: Make, without: tuple[str, ...], missing: str, as_file: bool, tmp_path: Path
) -> None:
    folder = saved(tmp_path, make(), without=without)
    with pytest.raises(HostError, match=missing):
        load_hf(str(folder), folder / "model.safetensors" if as_file else None)


def test_positions_that_an_embedding_would_do_without_are_refused_too(tmp_path: Path) -> None:
    """BEiT adds its positions only where it has some: leaving them out would run, and give other hidden states."""
    model = transformers.BeitModel(transformers.BeitConfig(**SIZES, use_absolute_position_embeddings=True))
    with pytest.raises(HostError, match=r"embeddings\.position_embeddings"):
        load_hf(str(saved(tmp_path, model, without=("position_embeddings",))))


class TestLeftOver:
    def test_a_classifier_is_fine(self, tmp_path: Path) -> None:
        model = classifier()
        folder = saved(tmp_path, model, without=("no such",), more={"more.bias": torch.ones(2)})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["ViTModel"]}))
        host = load_hf(str(folder))
        assert type(host) is transformers.ViTModel
        assert all(map(torch.equal, states_of(host), states_of(model.eval())))

    def test_blocks_beyond_those_of_the_config_are_not(self, tmp_path: Path) -> None:
        folder = saved(tmp_path, vit(), without=("no such",), more={"more": torch.ones(2)})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        with pytest.raises(HostError, match=r"layers?\.1\..*does not have|does not have: .*layers?\.1\."):
            load_hf(str(folder))

    @pytest.mark.parametrize("name", ["0.mlp.fc1.lora_A.weight", "1.layer_scale1.lambda1"])
    def test_more_inside_a_block_is_not(self, name: str, tmp_path: Path) -> None:
        """A checkpoint with an adapter beside its weights was trained as another function."""
        more = {f"vision_model.encoder.layers.{name}": torch.ones(4, 4)}
        folder = saved(tmp_path, siglip(), without=("no such",), more=more)
        with pytest.raises(HostError, match=name.replace(".", r"\.")):
            load_hf(str(folder))


def test_random_numbers_stay_as_they_were(tmp_path: Path) -> None:
    folder = saved(tmp_path, classifier(), without=("classifier",))
    before = torch.get_rng_state()
    load_hf(str(folder))
    assert torch.equal(torch.get_rng_state(), before)


class TestOtherLibraries:
    def test_timm_without_its_classifier(self, tmp_path: Path) -> None:
        state = load_timm("vit_tiny_patch16_224", random=True).state_dict()
        kept = {name: value for name, value in state.items() if not name.startswith("head.")}
        save_file(kept, tmp_path / "w.safetensors")
        host = load_timm("vit_tiny_patch16_224", tmp_path / "w.safetensors")
        assert host.state_dict().keys() == kept.keys()
        wide = load_timm("vit_tiny_patch16_224", tmp_path / "w.safetensors", image_hw=(96, 128))
        assert wide.state_dict().keys() == kept.keys()
        with torch.no_grad():
            assert wide(torch.zeros(1, 3, 96, 128)).shape == (1, 192)

    @pytest.mark.parametrize("name", ["norm.weight", "cls_token", "pos_embed", "blocks.5.mlp.fc1.bias"])
    def test_timm_without_what_depth_needs(self, name: str, tmp_path: Path) -> None:
        state = dict(load_timm("vit_tiny_patch16_224", random=True).state_dict())
        del state[name]
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(HostError, match=name.replace(".", r"\.")):
            load_timm("vit_tiny_patch16_224", tmp_path / "w.safetensors")

    def test_open_clip_without_its_text_tower(self, tmp_path: Path) -> None:
        state = load_open_clip("ViT-S-32-alt", random=True).state_dict()
        kept = {name: value for name, value in state.items() if name.startswith("visual.")}
        save_file(kept, tmp_path / "w.safetensors")
        host = load_open_clip("ViT-S-32-alt", tmp_path / "w.safetensors")
        assert host.state_dict().keys() == kept.keys()
        assert find_tower(host).spec.path == "visual"
