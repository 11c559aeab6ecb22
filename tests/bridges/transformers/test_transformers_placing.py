"""Where the wrapper for transformers is put by a `device_map`, and the image statistics it keeps in a saved folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from torch import nn
from transformers_world import clip_host

from spaceclip_plugin import DepthHead
from spaceclip_plugin.bridges.transformers import SpaceClipForDepthEstimation, register
from spaceclip_plugin.bridges.transformers.one_device import one_device
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.registry import find_tower

CPU = torch.device("cpu")
OWN = ImageStatistics(mean=(0.11, 0.22, 0.33), std=(0.44, 0.55, 0.66))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose host, around its tower, declared statistics of its own."""
    folder = tmp_path_factory.mktemp("model")
    host = nn.ModuleDict({"eye": clip_host()})
    OWN.declare(host)
    SpaceClipForDepthEstimation.from_host(host, DepthHead.for_tower(host).eval()).save_pretrained(folder)
    return folder


def test_a_live_host_around_the_tower_is_believed(caplog: pytest.LogCaptureFixture) -> None:
    host = nn.ModuleDict({"eye": clip_host()})
    OWN.declare(host)
    model = SpaceClipForDepthEstimation.from_host(host, DepthHead.for_tower(host).eval())
    assert tuple(model.image_processor().image_std) == OWN.std
    assert "normalised" not in caplog.text
    assert ImageStatistics.of(find_tower(host["eye"]).spec) != OWN


@pytest.mark.parametrize(
    ("device_map", "expected"),
    [
        (None, None),
        ("cpu", CPU),
        (CPU, CPU),
        ({"": "cpu"}, CPU),
        ({"tower": "cpu", "head": "cpu"}, CPU),
    ],
)
def test_the_device_that_is_meant(device_map: object, expected: torch.device | None) -> None:
    assert one_device(device_map) == expected


@pytest.mark.parametrize("strategy", ["auto", "balanced", "sequential"])
def test_a_strategy_takes_the_accelerator_if_there_is_one(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert one_device(strategy) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert one_device(strategy) == torch.device("cuda", 3)


@pytest.mark.parametrize(
    "device_map",
    [{"tower": "cpu", "head": "meta"}, {}, "toaster", "disk", {"": "disk"}, "meta", 99, True, 0.5, "cuda:99"],
)
def test_what_is_not_one_device_is_refused(device_map: object, folder: Path) -> None:
    with pytest.raises(ConfigError, match="device_map"):
        SpaceClipForDepthEstimation.from_pretrained(folder, device_map=device_map)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_the_pipeline_takes_it(device_map: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    register()
    photo = Image.new("RGB", (80, 48), (200, 100, 50))
    expected = transformers.pipeline("depth-estimation", model=str(folder))(photo)["predicted_depth"]
    pipe = transformers.pipeline("depth-estimation", model=str(folder), device_map=device_map)
    assert pipe.device == pipe.model.device == CPU
    assert torch.equal(pipe(photo)["predicted_depth"], expected)


def test_statistics_of_the_host_are_saved_and_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="spaceclip_plugin"):
        model = SpaceClipForDepthEstimation.from_pretrained(folder)
    assert ImageStatistics.of(model._spec) == OWN
    assert tuple(model.image_processor().image_mean) == OWN.mean
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_std"] == list(OWN.std)
    assert "normalised" not in caplog.text


def test_a_host_that_declares_none_is_saved_as_ever(tmp_path: Path) -> None:
    host = clip_host()
    model = SpaceClipForDepthEstimation.from_host(host, DepthHead.for_tower(host).eval())
    assert set(model.config.parts) == {"tower", "head", "adapter"}
    model.save_pretrained(tmp_path)
    again = SpaceClipForDepthEstimation.from_pretrained(tmp_path)
    assert ImageStatistics.of(again._spec) == ImageStatistics.of(model._spec)


@pytest.mark.parametrize("values", [[1], {"mean": [0, 0, 0]}, {"mean": [0, 0, 0], "std": [1, 0, 1]}, "x"])
def test_statistics_that_cannot_be_are_refused(values: object, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "statistics": values}))
    with pytest.raises(CheckpointError, match="statistics"):
        SpaceClipForDepthEstimation.from_pretrained(tmp_path)
