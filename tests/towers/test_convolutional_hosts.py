"""A host whose images go through a convolutional network is told so: there is no tower, and no adapter can make one."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.errors import TowerNotFoundError
from spaceclip_plugin.towers.convolutional import convolutional_networks
from spaceclip_plugin.towers.registry import find_towers


class Encoder(nn.Module):
    """Four convolutions over stacked frames, as small policies have them."""

    def __init__(self, channels: int = 9) -> None:
        super().__init__()
        sizes = ((channels, 7), (8, 5), (8, 3), (8, 3))
        self.layers = nn.Sequential(*(nn.Conv2d(inner, 8, kernel, stride=2) for inner, kernel in sizes))


class Policy(nn.Module):
    """Whatever it looks with, a transformer acts on it, as in ACT."""

    def __init__(self, *eyes: nn.Module) -> None:
        super().__init__()
        self.eyes = nn.ModuleList(eyes)
        self.project = nn.Conv2d(8, 8, 1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)


def timm_model(name: str) -> Any:
    try:
        with torch.device("meta"):  # nothing is run
            return timm.create_model(name)
    except RuntimeError:  # older versions read or copy numbers while they build
        return timm.create_model(name)


@pytest.mark.parametrize(
    ("name", "network", "block"),
    [
        ("resnet18", "ResNet (17 convolutions", "timm.models.resnet.BasicBlock"),
        ("convnext_atto", "ConvNeXt (1", "timm.models.convnext.ConvNeXtBlock"),
        ("efficientnet_lite0", "EfficientNet (17 convolutions", "InvertedResidual"),
        ("vgg11", "VGG (9 convolutions)", ""),
        ("resnet26d", "ResNet (11 convolutions", "Bottleneck"),
    ],
)
def test_a_network_of_convolutions(name: str, network: str, block: str) -> None:
    host = timm_model(name)
    assert find_towers(host) == []
    [found] = convolutional_networks(host)
    assert str(found).startswith(network)
    assert block in str(found)
    assert found.path == ""
    with pytest.raises(TowerNotFoundError) as told:
        attach_depth_head(host)
    for word in ("convolutional network", network, "no adapter can help"):
        assert word in str(told.value)
    assert "adapters/README.md" not in str(told.value)


def test_inside_a_policy() -> None:
    host = Policy(timm_model("resnet18"), timm_model("resnet18"))
    assert [(each.name, each.path, each.convolutions) for each in convolutional_networks(host)] == [
        ("ResNet", "eyes.0", 17),
        ("ResNet", "eyes.1", 17),
    ]
    with pytest.raises(TowerNotFoundError, match=r"ResNet at 'eyes\.0'.*ResNet at 'eyes\.1'"):
        DepthHead.for_tower(host)


def test_of_another_library() -> None:
    config = transformers.ResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 32, 64], embedding_size=8)
    [found] = convolutional_networks(transformers.ResNetModel(config))
    assert (found.name, found.path) == ("ResNetModel", "")


def test_a_small_one() -> None:
    [found] = convolutional_networks(nn.Sequential(Encoder(), nn.Linear(8, 2)))
    assert (found.name, found.path, found.convolutions, found.block) == ("Encoder", "0", 4, "")
    with pytest.raises(TowerNotFoundError, match=r"Encoder at '0' \(4 convolutions\)"):
        attach_depth_head(nn.Sequential(Encoder(), nn.Linear(8, 2)))


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",  # a patch embedding before blocks that no adapter reads
        "vit_small_resnet26d_224",  # its patch embedding is a ResNet
        "levit_128",  # a stem of four convolutions before a transformer
        "maxvit_tiny_tf_224",
    ],
)
def test_a_transformer_is_none(name: str) -> None:
    assert convolutional_networks(timm_model(name)) == []


def test_no_pictures_at_all() -> None:
    for host in (nn.Linear(3, 3), nn.TransformerEncoderLayer(8, 2, 16), nn.Sequential(nn.Conv1d(3, 8, 3))):
        assert convolutional_networks(host) == []
    deep_in_a_network = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3))
    assert convolutional_networks(deep_in_a_network) == []
    with pytest.raises(TowerNotFoundError, match="Linear"):
        attach_depth_head(nn.Linear(3, 3))
