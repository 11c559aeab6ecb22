"""Small random towers wrapped for transformers, and what the wrapper's tests do with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from clip_world import SMALL, VISION, clip_host
from fresh_heads import fresh_head
from llava_world import llava_host
from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.bridges.transformers import SpaceClipForDepthEstimation


def of(model: str, config: str, **changes: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        if not hasattr(transformers, model):
            pytest.skip(f"transformers {transformers.__version__} has no {model}")
        host: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**{**VISION, **changes}))
        return host

    return build


FAMILIES = {
    "clip": of("CLIPVisionModel", "CLIPVisionConfig"),
    "siglip": of("SiglipVisionModel", "SiglipVisionConfig"),
    "dinov2": of("Dinov2Model", "Dinov2Config"),
    "registers": of("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", num_register_tokens=2),
    "dinov3": of("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=2),
    "vit": of("ViTModel", "ViTConfig"),
    "llava": llava_host,
}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def small_head(host: nn.Module, **changes: Any) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = fresh_head(host, **{**SMALL, "trained_on": "nothing, for tests", **changes}).eval()
        for parameter in head.parameters():  # a fresh head's depth hardly depends on the image
            nn.init.normal_(parameter, std=0.3)
    return head


@pytest.fixture
def host() -> nn.Module:
    return clip_host()


@pytest.fixture
def model(host: nn.Module) -> SpaceClipForDepthEstimation:
    return SpaceClipForDepthEstimation.from_host(host, small_head(host))


@pytest.fixture
def folder(model: SpaceClipForDepthEstimation, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, **kwargs: Any) -> SpaceClipForDepthEstimation:
    return SpaceClipForDepthEstimation.from_pretrained(folder, **kwargs)
