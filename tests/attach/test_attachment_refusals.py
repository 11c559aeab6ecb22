"""What `attach_depth_head` refuses, with the host untouched."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from clip_world import SMALL, TwoEyes, clip_host, head, host, see
from fresh_heads import fresh_head
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.errors import (
    AdapterError,
    AmbiguousTowerError,
    CheckpointError,
    ConfigError,
    HeadMismatchError,
    HostError,
    SpaceClipError,
    TowerNotFoundError,
)
from spaceclip_plugin.towers import registry
from spaceclip_plugin.towers.spec import Tower

__all__ = ["head", "host"]  # fixtures


def contextless(host: nn.Module) -> Tower:
    """The CLIP tower without what gives its context."""
    return dataclasses.replace(registry.find_towers(host)[0], context_source=None)


@pytest.mark.parametrize("options", [{**SMALL, "film_hidden": None}, {"architecture": "tap-mixer"}])
def test_a_head_that_reads_no_context_is_not_refused_for_it(host: nn.Module, options: dict[str, Any]) -> None:
    head = fresh_head(dataclasses.replace(registry.find_towers(host)[0].spec, context="mean"), **options)
    with attach_depth_head(host, head.eval(), tower=contextless(host)) as depth:
        see(host, 1)
        [frame] = depth.read()
    assert frame.depth_m.shape == (1, 32, 32)


class TestRefusals:
    """Everything is checked before the host is touched."""

    @pytest.fixture(autouse=True)
    def _untouched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def touched(*_: object, **__: object) -> None:
            pytest.fail("a hook was registered on a host that had to be refused")

        monkeypatch.setattr(nn.Module, "register_forward_hook", touched)
        monkeypatch.setattr(nn.Module, "register_forward_pre_hook", touched)

    def test_not_a_module(self) -> None:
        with pytest.raises(HostError, match=r"torch.nn.Module, got dict"):
            attach_depth_head({})  # type: ignore[arg-type]

    def test_no_tower(self) -> None:
        with pytest.raises(TowerNotFoundError, match="no vision tower found in Sequential"):
            attach_depth_head(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))

    def test_two_towers_and_none_chosen(self) -> None:
        with pytest.raises(AmbiguousTowerError, match=r"2 towers: .*'left.*'right.*tower=PATH"):
            attach_depth_head(TwoEyes())

    def test_a_tower_that_is_not_there(self) -> None:
        host = TwoEyes()
        path = registry.find_towers(host)[0].spec.path
        with pytest.raises(TowerNotFoundError, match=f"did you mean '{path}'"):
            attach_depth_head(host, tower=path[:-1])

    def test_a_tower_of_another_host(self, host: nn.Module) -> None:
        with pytest.raises(HostError, match="does not hold the tower"):
            attach_depth_head(host, tower=registry.find_towers(clip_host())[0])

    def test_an_unknown_adapter(self, host: nn.Module) -> None:
        with pytest.raises(AdapterError, match=r"'clipp'.*did you mean 'clip'"):
            registry.find_tower(host, adapter="clipp")

    def test_an_adapter_for_another_family(self, host: nn.Module) -> None:
        with pytest.raises(TowerNotFoundError, match="adapter 'siglip'"):
            registry.find_tower(host, adapter="siglip")

    def test_another_width(self, head: DepthHead) -> None:
        with pytest.raises(HeadMismatchError, match=r"width 32, the tower's have 64"):
            attach_depth_head(clip_host(hidden_size=64), head)

    def test_another_depth(self, head: DepthHead) -> None:
        with pytest.raises(HeadMismatchError, match=r"made for 3 blocks, the tower has 2.*taps hidden state 3"):
            attach_depth_head(clip_host(num_hidden_layers=2), head)

    def test_another_context(self, host: nn.Module) -> None:
        head = fresh_head(host, **SMALL)
        head.config = dataclasses.replace(head.config, context="attention-pool")
        with pytest.raises(HeadMismatchError, match=r"'attention-pool' context, the tower gives 'cls'"):
            attach_depth_head(host, head)

    def test_a_tower_without_a_context(self, host: nn.Module, head: DepthHead) -> None:
        with pytest.raises(HeadMismatchError, match=r"no module that gives one.*as DepthHead.for_tower"):
            attach_depth_head(host, head, tower=contextless(host))

    def test_a_folder_without_a_head(self, host: nn.Module, tmp_path) -> None:
        with pytest.raises(CheckpointError, match="no head at"):
            attach_depth_head(host, tmp_path / "nothing")

    @pytest.mark.parametrize("wrong", [3, {"a": 1}, nn.Linear(2, 2)])
    def test_something_that_is_not_a_head(self, host: nn.Module, wrong: object) -> None:
        with pytest.raises(SpaceClipError, match="DepthHead"):
            attach_depth_head(host, wrong)  # type: ignore[arg-type]

    def test_a_number_of_frames(self, host: nn.Module, head: DepthHead) -> None:
        with pytest.raises(ConfigError, match=r"UnreadFrames.*16"):
            attach_depth_head(host, head, unread=16)  # type: ignore[arg-type]
