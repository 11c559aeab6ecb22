"""Structural discovery on families no adapter knows, and on everything that must not be taken for a tower."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from tiny_hosts import BATCH, IMAGE_TOKEN, LANGUAGE, VISION, WIDTH, captured
from torch import Tensor, nn

from spaceclip_plugin.towers.spec import CLS, RAW_MEAN
from spaceclip_plugin.towers.structural import StructuralAdapter

TINY = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}


def _dinov2() -> nn.Module:
    return transformers.Dinov2Model(transformers.Dinov2Config(**TINY))


def _dinov2_registers() -> nn.Module:
    config = transformers.Dinov2WithRegistersConfig(num_register_tokens=4, **TINY)
    return transformers.Dinov2WithRegistersModel(config)


def _google_vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(intermediate_size=64, **TINY), add_pooling_layer=False)


def _torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(56, 14, 3, 4, WIDTH, 64)


def _hidden(module: Any, pixels: Tensor) -> list[Tensor]:
    return list(module(pixels, output_hidden_states=True).hidden_states)


def _torchvision_hidden(module: Any, pixels: Tensor) -> list[Tensor]:
    tokens = module._process_input(pixels)
    tokens = torch.cat([module.class_token.expand(len(pixels), -1, -1), tokens], dim=1)
    hidden = [tokens + module.encoder.pos_embedding]
    for block in module.encoder.layers:
        hidden.append(block(hidden[-1]))
    return hidden


@dataclasses.dataclass(frozen=True)
class Stranger:
    build: Callable[[], nn.Module]
    hidden: Callable[[nn.Module, Tensor], list[Tensor]]
    norm: str
    prefix: int
    needs: str = "Dinov2Model"


STRANGERS = {
    "dinov2": Stranger(_dinov2, _hidden, "layernorm", 1),
    "dinov2-registers": Stranger(_dinov2_registers, _hidden, "layernorm", 5, "Dinov2WithRegistersModel"),
    "google-vit": Stranger(_google_vit, _hidden, "layernorm", 1),
    "torchvision-vit": Stranger(_torchvision_vit, _torchvision_hidden, "encoder.ln", 1),
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
def test_families_without_an_adapter_are_read(stranger: Stranger) -> None:
    if not hasattr(transformers, stranger.needs):
        pytest.skip(f"transformers {transformers.__version__} has no {stranger.needs}")
    host, pixels = stranger.build().eval(), torch.randn(BATCH, 3, 56, 56)
    (tower,) = StructuralAdapter().find(host)
    spec = tower.spec
    assert (spec.adapter, spec.path, spec.width, spec.blocks) == ("structural", "", WIDTH, 3)
    assert (spec.patch_size, spec.image_hw, spec.context) == (14, (56, 56), CLS)
    assert tower.context_source is host.get_submodule(stranger.norm)
    with torch.no_grad(), captured(tower) as frames:
        host(pixels)
    features = tower.adapter.features(frames[0], tower)
    with torch.no_grad():
        hidden = stranger.hidden(host, pixels)
    for index, tokens in enumerate(hidden):
        expected = tokens[:, stranger.prefix :].transpose(1, 2).reshape(BATCH, WIDTH, 4, 4)
        assert torch.equal(features.hidden[index], expected), f"hidden state {index}"
    with torch.no_grad():
        assert torch.equal(features.context, tower.context_source(hidden[-1])[:, 0])


def _idefics3() -> nn.Module:
    config = transformers.Idefics3Config(
        vision_config=VISION,
        text_config=transformers.LlamaConfig(pad_token_id=0, **LANGUAGE),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        pad_token_id=0,
    )
    return transformers.Idefics3ForConditionalGeneration(config)


def _internvl() -> nn.Module:
    language = {key: value for key, value in LANGUAGE.items() if key != "head_dim"}
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [56, 56], "patch_size": [14, 14]},
        text_config=transformers.Qwen2Config(**language),
        image_token_id=IMAGE_TOKEN,
    )
    return transformers.InternVLForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("needs", "build", "tower_name"),
    [("Idefics3Config", _idefics3, "vision_model"), ("InternVLConfig", _internvl, "vision_tower")],
)
def test_the_tower_of_a_vision_language_model_not_its_language(
    needs: str, build: Callable[[], nn.Module], tower_name: str
) -> None:
    if not hasattr(transformers, needs):
        pytest.skip(f"transformers {transformers.__version__} has no {needs}")
    (tower,) = StructuralAdapter().find(build())
    assert tower.spec.path.rpartition(".")[2] == tower_name
    assert tower.spec.blocks == VISION["num_hidden_layers"]


def _language_model() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LANGUAGE))


class Block(nn.Module):
    """A pre-norm residual block, enough of a transformer to be taken for one."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.down(self.up(self.norm(tokens)).relu())


class Tower(nn.Module):
    """A patch convolution and a stack, with whatever else a test adds."""

    def __init__(self, blocks: int = 3, *, patch: int = 14, width: int = WIDTH) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.stack = nn.Sequential(*(Block(width) for _ in range(blocks)))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.stack(self.patches(pixels).flatten(2).transpose(1, 2))


def _single_stream() -> nn.Module:
    """Words and patches in one stack, as in ViLT: its tokens are not an image's."""
    host = Tower()
    host.words = nn.Embedding(100, WIDTH)
    return host


def _blind_eye() -> nn.Module:
    """A convolutional eye beside a language model: neither may be taken."""
    return nn.ModuleDict({"eye": timm.create_model("convnext_atto", pretrained=False), "language": _language_model()})


def _linear_patches() -> nn.Module:
    host = Tower()
    host.patches = nn.Linear(3 * 14 * 14, WIDTH)
    return host


def _changing_width() -> nn.Module:
    host = Tower()
    host.stack = nn.Sequential(Block(WIDTH), Block(2 * WIDTH))
    return host


@pytest.mark.parametrize(
    "build",
    [
        _language_model,
        _single_stream,
        _blind_eye,
        _linear_patches,
        _changing_width,
        lambda: timm.create_model("convnext_atto", pretrained=False),
        lambda: timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, depths=(2, 2, 2, 2)),
        lambda: timm.create_model("resnet18", pretrained=False),
        lambda: Tower(blocks=1),
        lambda: Tower(patch=2),
        lambda: nn.Linear(3, 3),
    ],
    ids=[
        "language-model",
        "single-stream",
        "convolutional-eye",
        "linear-patches",
        "changing-width",
        "convnext",
        "swin",
        "resnet",
        "one-block",
        "tiny-patch",
        "linear",
    ],
)
def test_what_is_no_token_tower_is_left_alone(build: Callable[[], nn.Module]) -> None:
    assert StructuralAdapter().find(build()) == []


def test_a_bare_tower_is_read_from_its_last_block(caplog: pytest.LogCaptureFixture) -> None:
    host, pixels = Tower(), torch.randn(BATCH, 3, 28, 56)
    with caplog.at_level(logging.INFO, logger="spaceclip_plugin"):
        (tower,) = StructuralAdapter().find(host)
    assert "ImageNet's are assumed" in caplog.text
    assert (tower.spec.image_hw, tower.spec.context) == ((224, 224), RAW_MEAN)
    assert tower.context_source is host.stack[-1]
    with torch.no_grad(), captured(tower) as frames:
        out = host(pixels)
    features = tower.adapter.features(frames[0], tower)
    assert features.hidden[3].shape == (BATCH, WIDTH, 2, 4)
    assert torch.equal(features.context, out.mean(dim=1))


def test_the_longest_fitting_stack_is_the_tower() -> None:
    """A masked autoencoder's decoder is another stack beside the same patch convolution."""
    host = Tower(blocks=3)
    host.decoder = nn.ModuleList(Block() for _ in range(2))
    host.wide = nn.ModuleList(Block(2 * WIDTH) for _ in range(6))
    (tower,) = StructuralAdapter().find(host)
    assert tower.blocks == tuple(host.stack)


def test_a_norm_of_another_width_is_not_the_final_norm() -> None:
    host = Tower()
    host.projected_norm = nn.LayerNorm(2 * WIDTH)
    (tower,) = StructuralAdapter().find(host)
    assert tower.context_source is host.stack[-1]


def test_declared_statistics_are_used() -> None:
    host = nn.ModuleDict({"eye": Tower()})
    host.image_mean, host.image_std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    (tower,) = StructuralAdapter().find(host)
    assert tower.spec.image_mean == (0.5, 0.5, 0.5)
    assert tower.spec.image_std == (0.25, 0.25, 0.25)
    assert tower.spec.path == "eye"
