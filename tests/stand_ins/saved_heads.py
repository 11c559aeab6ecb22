"""Heads whose files tests save, read and damage."""

from __future__ import annotations

import torch

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.head.tap_mixer import TapMixerOptions

OPTIONS = SpaceClipOptions(semantic_taps=(5, 3), structural_taps=(1,), channels=(6, 4), film_hidden=7)


MIXER = TapMixerOptions(taps=(1, 3, 5), channels=(48, 6), attention=1, convolutions=(1, 1), pixels=4)


HUGE = SpaceClipOptions(semantic_taps=(6,) * 6, structural_taps=(1,) * 6, channels=(2048,) * 6, film_hidden=8192)


HUGE_MIXER = TapMixerOptions(
    taps=(1, 3, 5), channels=(4080, *(4096,) * 4), attention=16, convolutions=(16,) * 5, pixels=1024
)


Options = SpaceClipOptions | TapMixerOptions


CONFIG = DepthHeadConfig(
    options=OPTIONS,
    width=8,
    blocks=6,
    image_mean=(0.1, 1 / 3, 0.5),
    image_std=(0.2, 0.3, 0.4),
    depth_range_m=(0.05, 80.0),
    base_model="timm:vit",
    base_model_revision="v1.0",
    trained_on="a room, “Küche”",
)


def make_head(config: DepthHeadConfig = CONFIG, *, seed: int = 0) -> DepthHead:
    """A head with random running statistics too, as training leaves them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = DepthHead(config).eval()
        for name, value in head.state_dict().items():
            if name.endswith("num_batches_tracked"):
                value.fill_(seed + 41)
            elif "running" in name:
                value.uniform_(0.5, 1.5)
    return head
