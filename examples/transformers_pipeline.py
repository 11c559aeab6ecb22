"""Depth through `pipeline("depth-estimation")` of transformers, from a vision model and a head.

Runs offline: tower and head are small and random, so the depth means nothing. With your own vision model or VLA and a
head trained for its tower (`spaceclip train`), replace `small_clip()` and `DepthHead.for_tower(host)`.
"""

from __future__ import annotations

import tempfile

import torch
import transformers
from PIL import Image
from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.bridges.transformers import SpaceClipForDepthEstimation, register


def small_clip() -> nn.Module:
    """A CLIP tower of four blocks on 56x56 images."""
    config = transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14
    )
    return transformers.CLIPVisionModel(config).eval()


if __name__ == "__main__":
    host = small_clip()
    model = SpaceClipForDepthEstimation.from_host(host, DepthHead.for_tower(host))
    register()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        estimator = transformers.pipeline("depth-estimation", model=folder)
    result = estimator(Image.effect_mandelbrot((320, 240), (-2.0, -1.2, 1.2, 1.2), 100).convert("RGB"))
    print("random weights, so these metres mean nothing:", tuple(result["predicted_depth"].shape), result["depth"])
    pixels = torch.randn(1, 3, 56, 56)
    live, saved = (each(pixels).predicted_depth for each in (model, estimator.model))
    print(f"depth of the live tower and of the saved one: identical={torch.equal(live, saved)}")
