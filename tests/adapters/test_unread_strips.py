"""Families whose patches need not fill the image: depth lies where each of them read it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from ramp_world import pixels, places, ramp_head
from torch import nn

from spaceclip_plugin import attach_depth_head


def davit() -> nn.Module:
    heads = [1, 2, 4, 8]
    vision = {"embed_dim": [8, 16, 32, 64], "num_heads": heads, "num_groups": heads, "depths": [1, 1, 2, 1]}
    vision |= {"window_size": 4, "projection_dim": 32, "max_position_embeddings": 20, "max_temporal_embeddings": 10}
    text = {"model_type": "bart", "d_model": 32, "vocab_size": 128, "encoder_layers": 1, "decoder_layers": 1}
    text |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    config = transformers.Florence2Config(vision_config=vision, text_config=text, image_token_id=5)
    return transformers.Florence2Model(config).eval().vision_tower


needs_florence = pytest.mark.skipif(
    not hasattr(transformers, "Florence2Config"), reason="the installed transformers has no Florence-2 yet (from 4.56)"
)


@needs_florence
@pytest.mark.parametrize("hw", [(64, 96), (70, 100), (61, 33)])
def test_stages_that_round_up_cover_one_part_of_the_image(hw: tuple[int, int]) -> None:
    host = davit()
    with attach_depth_head(host, ramp_head(host)) as depth, torch.no_grad():
        host(pixels(hw))
        [features] = depth.features()
        host(pixels(hw))
        [found] = depth.read()
    covered = tuple(-(-side // 32) * 32 for side in hw)
    for tap, maps in features.hidden.items():
        stride = {1: 4, 2: 8, 3: 16, 4: 16, 5: 32}.get(tap, 4)
        assert tuple(maps.shape[2:]) == tuple(side // stride for side in covered)
    assert (features.seen is None) == (covered == hw)
    assert bool(found.valid.all())
    stride = covered[0] // next(iter(features.hidden.values())).shape[2]  # of the map that makes the ramp
    v = places(hw[0], hw[0])
    between = (v > stride / 2 + 1) & (v < covered[0] - stride / 2 - 1)
    torch.testing.assert_close(found.depth_m[0, between, 0], (v / stride + 10)[between], atol=1e-3, rtol=0)


@needs_florence
def test_what_is_real_of_a_rounded_map_is_untouched() -> None:
    host = davit()
    with attach_depth_head(host, ramp_head(host)) as depth, torch.no_grad():
        states: Any = host(pixels((70, 100)))
        [features] = depth.features()
    last = states.last_hidden_state if hasattr(states, "last_hidden_state") else states
    tap = max(features.hidden)
    assert tuple(last.shape[2:]) == (3, 4)
    assert torch.equal(features.hidden[tap], last)


def test_a_mask_of_patches_lies_on_the_patches() -> None:
    config = transformers.Idefics2Config().vision_config
    for name, value in {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 48, "patch_size": 14,
    }.items():  # fmt: skip
        setattr(config, name, value)
    from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

    host = Idefics2VisionTransformer(config).eval()
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    mask[0, 2, 1:] = False
    try:
        with torch.no_grad():
            host(pixels((48, 48)), patch_attention_mask=mask)
    except RuntimeError as error:
        pytest.skip(f"this transformers' Idefics 2 takes no image that its patches do not fill: {error}")
    with attach_depth_head(host, ramp_head(host)) as depth, torch.no_grad():
        host(pixels((48, 48)), patch_attention_mask=mask)
        [found] = depth.read((96, 96))
    expected = torch.zeros(96, 96, dtype=torch.bool)
    expected[:84, :84] = True  # 42 of 48 pixels, twice as large
    expected[56:, 28:] = False
    assert torch.equal(found.valid[0], expected)


def test_the_model_for_pipelines_puts_depth_in_the_same_place() -> None:
    """The model for `pipeline` decodes as an attachment does; into what was not read it continues its edge.

    Its class has no mask, and zeros there would be mixed into the depth that `pipeline` resizes.
    """
    from ramp_world import siglip

    from spaceclip_plugin.bridges.transformers import SpaceClipForDepthEstimation

    host = siglip()
    head = ramp_head(host)
    model = SpaceClipForDepthEstimation.from_host(host, head)
    found = model(pixels((48, 48))).predicted_depth[0]
    assert torch.equal(found[42:], found[41].expand(6, -1))
    assert torch.equal(found[:, 42:], found[:, 41:42].expand(-1, 6))
    torch.testing.assert_close(found[7:35, 0], places(48, 48)[7:35] / 14 + 10)
