"""Adapters come from entry points: one broken stranger harms no one, two of one name are an error."""

from __future__ import annotations

import logging
import sys
import types
from importlib.metadata import EntryPoint

import pytest
from torch import nn

from spaceclip_plugin.errors import AdapterError
from spaceclip_plugin.towers import registry

GROUP = registry.GROUP


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kitchen", "garage"):
        module = types.ModuleType(name)
        module.adapter = registry.STRUCTURAL
        monkeypatch.setitem(sys.modules, name, module)


def test_the_built_in_adapters_are_installed() -> None:
    assert {"clip", "siglip", "timm-vit", "open-clip"} <= registry.installed_adapters().keys()
    assert all(name == adapter.name for name, adapter in registry.installed_adapters().items())


def test_a_broken_adapter_is_left_out_and_named(packages: None, caplog: pytest.LogCaptureFixture) -> None:
    points = [EntryPoint("gone", "no_such_package:adapter", GROUP), EntryPoint("mine", "kitchen:adapter", GROUP)]
    with caplog.at_level(logging.WARNING):
        assert list(registry.collect_adapters(points)) == ["mine"]
    assert "'gone' (no_such_package:adapter) is left out: ModuleNotFoundError" in caplog.text


def test_two_adapters_of_one_name(packages: None) -> None:
    points = [EntryPoint("mine", "kitchen:adapter", GROUP), EntryPoint("mine", "garage:adapter", GROUP)]
    with pytest.raises(AdapterError, match=r"'mine'.*kitchen:adapter.*garage:adapter"):
        registry.collect_adapters(points)


def test_one_package_found_twice_is_one_adapter(packages: None) -> None:
    points = [EntryPoint("mine", "kitchen:adapter", GROUP)] * 2  # an editable install beside a wheel
    assert list(registry.collect_adapters(points)) == ["mine"]


def test_two_adapters_that_claim_one_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, 8)
            block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False).layers

    twin = type("Twin", (type(registry.STRUCTURAL),), {"name": "twin"})()
    monkeypatch.setattr(registry, "installed_adapters", lambda: {"structural": registry.STRUCTURAL, "twin": twin})
    with pytest.raises(AdapterError, match=r"'structural' and 'twin' .*adapter=NAME"):
        registry.find_towers(Host())
    [tower] = registry.find_towers(Host(), adapter="twin")
    assert tower.spec.adapter == "twin"
