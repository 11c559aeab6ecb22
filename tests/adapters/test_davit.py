"""Towers of several stages: Florence-2's DaViT, whose maps differ in width and stride."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from fresh_heads import fresh_head
from tiny_hosts import contract_of
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import ConfigError, HeadMismatchError
from spaceclip_plugin.head.architectures import ARCHITECTURES
from spaceclip_plugin.towers.registry import find_towers
from spaceclip_plugin.towers.spec import RAW_MEAN

pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "Florence2Config"), reason="the installed transformers has no Florence-2 yet (from 4.56)"
)

DEPTHS, WIDTHS = [1, 1, 3, 1], [8, 16, 32, 64]
IMAGE_HW = (64, 96)
SMALL: dict[str, dict[str, Any]] = {  # a hidden state of every stage
    "space-clip": {"channels": (8, 6), "film_hidden": 4, "semantic_taps": (6, 4), "structural_taps": (2, 0)},
    "tap-mixer": {"channels": (48, 8), "convolutions": (1, 1), "attention": 1, "taps": (0, 2, 4, 6), "pixels": 4},
}


@pytest.fixture
def host() -> nn.Module:
    heads = [1, 2, 4, 8]
    vision = {"embed_dim": WIDTHS, "num_heads": heads, "num_groups": heads, "depths": DEPTHS, "window_size": 4}
    vision |= {"projection_dim": 32, "max_position_embeddings": 20, "max_temporal_embeddings": 10}
    text = {"model_type": "bart", "d_model": 32, "vocab_size": 128, "encoder_layers": 1, "decoder_layers": 1}
    text |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    text |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.Florence2Config(vision_config=vision, text_config=text, image_token_id=5)
        return transformers.Florence2Model(config).eval()


@pytest.fixture(params=ARCHITECTURES)
def head(host: nn.Module, request: pytest.FixtureRequest) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(host, architecture=request.param, **SMALL[request.param]).eval()


def pixels(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *IMAGE_HW, generator=torch.Generator().manual_seed(2))


def see(host: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = host.get_image_features(images)  # a tensor up to transformers 4.57
    return output if isinstance(output, Tensor) else output.pooler_output


def test_the_tower_is_described(host: nn.Module, record_property: Callable[[str, object], None]) -> None:
    for name, value in contract_of("florence2", "davit", host, host.get_submodule("vision_tower")).items():
        record_property(name, value)
    (tower,) = find_towers(host)
    assert (tower.spec.adapter, tower.spec.path) == ("davit", "vision_tower")
    assert (tower.spec.blocks, tower.spec.width, tower.spec.patch_size) == (6, 64, 32)
    assert tower.spec.widths == (8, 8, 16, 32, 32, 32, 64)
    assert tower.spec.context == RAW_MEAN
    assert tower.module is host.get_submodule("vision_tower")


def stage_by_stage(tower: Any) -> list[Tensor]:
    """The first block's input and every block's output; the tower reports them itself only from transformers 5."""
    states, state = [], pixels()
    with torch.no_grad():
        for convolution, stage in zip(tower.convs, tower.blocks, strict=True):
            state = convolution(state)
            states += [] if states else [state]
            for block in stage:
                state = block(state)
                states.append(state)
        try:
            output = copy.deepcopy(tower)(pixels(), output_hidden_states=True)  # it leaves hooks of its own behind
        except TypeError:
            return states
    assert all(torch.equal(*pair) for pair in zip(states, output.hidden_states, strict=True))
    return states


def test_maps_are_the_tower_s_own_hidden_states(host: Any) -> None:
    every = {"architecture": "space-clip", "semantic_taps": (6, 5), "structural_taps": (4, 3), "channels": (8, 6)}
    for taps in (every, {**every, "semantic_taps": (2, 1), "structural_taps": (0,)}):
        with attach_depth_head(host, fresh_head(host, **taps)) as depth:
            see(host, pixels())
            [features] = depth.features()
        states = stage_by_stage(host.vision_tower)
        for tap, patch_map in features.hidden.items():
            assert torch.equal(patch_map, states[tap]), f"hidden state {tap}"
        assert torch.equal(features.context, states[-1].mean(dim=(2, 3)))
        assert features.image_hw == IMAGE_HW


def test_depth_comes_out_and_the_host_stays_as_it_was(host: nn.Module, head: DepthHead) -> None:
    plain, digest = see(host, pixels()), module_digest(host)
    with attach_depth_head(host, head) as depth:
        assert torch.equal(see(host, pixels()), plain)
        [frame] = depth.read()
        depth.refresh(pixels())
        [alone] = depth.read()
    assert frame.depth_m.shape == (2, *IMAGE_HW)
    assert torch.equal(frame.depth_m, alone.depth_m)
    assert module_digest(host) == digest
    assert torch.equal(see(host, pixels()), plain)


def test_every_stage_is_felt(host: nn.Module, head: DepthHead) -> None:
    with attach_depth_head(host, head) as depth, torch.no_grad():
        see(host, pixels())
        [features] = depth.features()
    with torch.no_grad():
        plain = head(features).depth_m
        for tap, value in features.hidden.items():
            flipped = replace(features, hidden={**features.hidden, tap: value.flip(1)})
            assert (head(flipped).depth_m - plain).abs().max() > 1e-4, f"hidden state {tap}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_head_of_all_default_taps(host: nn.Module, architecture: str) -> None:
    with torch.no_grad(), attach_depth_head(host, DepthHead.for_tower(host, architecture=architecture)) as depth:
        see(host, pixels())
        [frame] = depth.read()
    assert frame.depth_m.shape == (2, *IMAGE_HW)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (36, 100)])
def test_sizes_that_the_strides_do_not_divide(host: nn.Module, head: DepthHead, size: tuple[int, int]) -> None:
    with attach_depth_head(host, head) as depth:
        depth.refresh(torch.randn(1, 3, *size))
        [frame] = depth.read()
    assert frame.depth_m.shape == (1, *size)


def test_a_head_of_this_tower_is_saved_and_loaded(host: nn.Module, head: DepthHead, tmp_path: Any) -> None:
    loaded = DepthHead.from_pretrained(head.save_pretrained(tmp_path / "head"))
    assert loaded.config == head.config
    assert loaded.config.tap_widths == (8, 16, 32, 64)
    with attach_depth_head(host, head) as depth, attach_depth_head(host, loaded) as again:
        see(host, pixels())
        assert torch.equal(depth.read()[0].depth_m, again.read()[0].depth_m)


def test_a_head_for_other_widths_is_refused(host: nn.Module, head: DepthHead) -> None:
    config = head.config
    other = DepthHead(replace(config, tap_widths=(8, 8, 32, 64)))
    with pytest.raises(HeadMismatchError, match=r"hidden state 2.*16"):
        attach_depth_head(host, other)
    with pytest.raises(ConfigError, match=r"tap_widths.*4"):
        type(config)(options=config.options, width=64, tap_widths=(8, 16), blocks=6)


def test_kernels_by_channel_are_no_adapters(caplog: pytest.LogCaptureFixture) -> None:
    """From 36 channels on, a 3x3 kernel for each is as thin as a factor of LoRA."""
    widths, heads = [64, 128, 256, 512], [2, 4, 8, 16]
    config = transformers.Florence2VisionConfig(
        embed_dim=widths, num_heads=heads, num_groups=heads, depths=[1, 1, 1, 1], window_size=4
    )
    tower = transformers.models.florence2.modeling_florence2.Florence2VisionBackbone(config).eval()
    with attach_depth_head(tower, DepthHead.for_tower(tower)) as depth:
        assert depth.tower_match is not None
        assert depth.tower_match.adapted == ()
    assert not caplog.records
    block = tower.blocks[2][0].channel_block
    block.down, block.up = nn.Linear(256, 4, bias=False), nn.Linear(4, 256, bias=False)
    with attach_depth_head(tower, DepthHead.for_tower(tower)) as depth:
        assert depth.tower_match is not None
        assert depth.tower_match.adapted == (3,)
