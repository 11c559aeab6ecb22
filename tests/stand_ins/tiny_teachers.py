"""Depth estimators of transformers as small as they go, with random weights, saved to a folder with their processor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

_VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
_NECK = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}


def depth_anything(**changes: Any) -> nn.Module:
    if "depth_estimation_type" not in inspect.signature(transformers.DepthAnythingConfig).parameters:
        pytest.skip("the Depth Anything of this transformers gives no metres")
    backbone = transformers.Dinov2Config(
        **_VIT, image_size=28, patch_size=14, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    options = {"depth_estimation_type": "metric", "max_depth": 20, **changes}
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=32, head_hidden_size=4, **_NECK, **options
    )
    return transformers.DepthAnythingForDepthEstimation(config)


def glpn() -> nn.Module:
    config = transformers.GLPNConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8
    )
    return transformers.GLPNForDepthEstimation(config)


def dpt() -> nn.Module:
    config = transformers.DPTConfig(**_VIT, image_size=32, patch_size=16, backbone_out_indices=[0, 1, 2, 3], **_NECK)
    return transformers.DPTForDepthEstimation(config)


def zoedepth() -> nn.Module:
    backbone = transformers.BeitConfig(
        **_VIT,
        image_size=32,
        patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone,
        bottleneck_features=8,
        num_relative_features=8,
        num_attractors=[2, 2, 1, 1],
        bin_embedding_dim=8,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
        **_NECK,
    )
    return transformers.ZoeDepthForDepthEstimation(config)


def depth_pro(*, fov: bool = True) -> nn.Module:
    encoder = transformers.Dinov2Config(**_VIT, image_size=32, patch_size=8)
    config = transformers.DepthProConfig(
        fusion_hidden_size=16,
        patch_size=32,
        intermediate_hook_ids=[3, 1],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.2],
        scaled_images_feature_dims=[8, 8],
        merge_padding_value=1,
        use_fov_model=fov,
        image_model_config=encoder,
        patch_model_config=encoder,
        fov_model_config=encoder,
    )
    return transformers.DepthProForDepthEstimation(config)


def tipsv2_dpt() -> nn.Module:
    backbone = {
        **_VIT, "model_type": "tipsv2_vision_model", "image_size": 28, "patch_size": 14, "out_indices": [1, 2, 3, 4],
        "apply_layernorm": True, "reshape_hidden_states": False,
    }  # fmt: skip
    config = transformers.Tipsv2DptConfig(backbone_config=backbone, num_depth_bins=8, **_NECK)
    return transformers.Tipsv2DptForDepthEstimation(config)


def _dpt_processor(side: int, multiple: int) -> Any:
    return transformers.DPTImageProcessor(
        size={"height": side, "width": side}, keep_aspect_ratio=True, ensure_multiple_of=multiple
    )


TEACHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "depth_anything": (depth_anything, lambda: _dpt_processor(28, 14)),
    "glpn": (glpn, lambda: transformers.GLPNImageProcessor(size_divisor=32)),
    "dpt": (dpt, lambda: transformers.DPTImageProcessor(size={"height": 32, "width": 32})),
    "zoedepth": (
        zoedepth,
        lambda: transformers.ZoeDepthImageProcessor(size={"height": 32, "width": 48}, ensure_multiple_of=32),
    ),
    "depth_pro": (depth_pro, lambda: transformers.DepthProImageProcessor(size={"height": 64, "width": 64})),
    "tipsv2_dpt": (
        tipsv2_dpt,
        lambda: transformers.Tipsv2DptImageProcessor(size={"height": 28, "width": 28}),
    ),
}


def save_teacher(folder: Path, kind: str = "depth_anything", *, model: nn.Module | None = None) -> Path:
    """A folder as `save_pretrained` leaves it."""
    build, processor = TEACHERS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Any = build() if model is None else model
    made.save_pretrained(folder, safe_serialization=True)
    processor().save_pretrained(folder)
    return folder
