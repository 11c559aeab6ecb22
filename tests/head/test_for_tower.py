"""Heads sized for a tower: from its spec, the tower, or the host that it is in."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import transformers
from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_plugin.towers.spec import TowerSpec

SPEC = TowerSpec(
    adapter="test",
    path="vision",
    width=8,
    blocks=6,
    patch_size=16,
    image_hw=(32, 48),
    context="cls",
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
)


def tiny_clip() -> nn.Module:
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14
    )
    return transformers.CLIPVisionModel(config).eval()


@pytest.mark.parametrize("name", [None, *ARCHITECTURES])
def test_a_spec_a_tower_and_a_host_give_one_head(name: str | None) -> None:
    host = tiny_clip()
    tower = find_tower(host)
    configs = [DepthHead.for_tower(source, architecture=name).config for source in (host, tower, tower.spec)]
    assert configs[0] == configs[1] == configs[2]
    assert (configs[0].width, configs[0].blocks, configs[0].context) == (16, 4, "cls")
    assert configs[0].architecture == (name or DEFAULT_ARCHITECTURE)
    assert configs[0].options == ARCHITECTURES[configs[0].architecture].options.for_blocks(4)


@pytest.mark.parametrize(("name", "channels"), [("space-clip", (8, 6, 4, 2)), ("tap-mixer", (48, 4))])
def test_overrides_and_architecture(name: str, channels: tuple[int, ...]) -> None:
    head = DepthHead.for_tower(SPEC, architecture=name, trained_on="a room", options={"channels": channels})
    assert head.trained
    assert head.config.options.channels == channels
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        DepthHead.for_tower(SPEC, architecture=name, options={"droput": 0.5})


@pytest.mark.parametrize(
    ("name", "preset"), [(name, one) for name, kind in ARCHITECTURES.items() for one in kind.presets]
)
def test_presets_scale_with_the_tower_and_options_change_them(name: str, preset: str) -> None:
    head = DepthHead.for_tower(SPEC, architecture=name, preset=preset, options={"dropout": 0.3})
    assert head.config.options == dataclasses.replace(ARCHITECTURES[name].options.for_blocks(6, preset), dropout=0.3)
    assert head.taps[-1] <= 6


def test_the_default_reads_hidden_states_alone() -> None:
    presets = ("standard", "light", "fine")
    heads = [DepthHead.for_tower(SPEC), *(DepthHead.for_tower(SPEC, preset=name) for name in presets)]
    assert [head.uses_pixels for head in heads] == [False, False, False, True]


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fine'"):
        DepthHead.for_tower(SPEC, preset="fnie")
    with pytest.raises(ConfigError, match="preset of 'space-clip'"):
        DepthHead.for_tower(SPEC, architecture="space-clip", preset="fine")


def test_an_unknown_architecture() -> None:
    with pytest.raises(ConfigError, match="got 'dpt'"):
        DepthHead.for_tower(SPEC, architecture="dpt")


@pytest.mark.parametrize("source", ["a folder", None, 3])
def test_what_is_no_tower_is_refused(source: Any) -> None:
    with pytest.raises(HostError, match=r"must be a torch\.nn\.Module, got"):
        DepthHead.for_tower(source)


def test_a_host_without_a_tower_is_refused() -> None:
    with pytest.raises(HostError, match="no vision tower"):
        DepthHead.for_tower(nn.Linear(2, 2))
