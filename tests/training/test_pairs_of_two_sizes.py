"""Depth that is smaller than its photo is learnt and scored at its own size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import PROTOCOL, QUIET, RESUMED, tiny_host, tiny_mixer

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.training import DepthTrainer
from spaceclip_worlds.render.tabletop import TabletopScenes


def pairs(count: int, seed: int = 0) -> list[DepthSample]:
    """Photos of 48x64 pixels, and every second pixel of their depth."""
    source = TabletopScenes(count, image_hw=(48, 64), seed=seed)
    return [
        dataclasses.replace(sample, depth_m=sample.depth_m[::2, ::2].copy())
        for sample in map(source.__getitem__, range(count))
    ]


@pytest.mark.parametrize("storage", ["fp16", "none"])
def test_training_and_evaluation_agree(tmp_path: Path, storage: str) -> None:
    host = tiny_host()
    recipe = dataclasses.replace(RESUMED, epochs=1, cache=storage, target_side=None)
    result = DepthTrainer(host, tiny_mixer(host), recipe=recipe, protocol=PROTOCOL).fit(
        pairs(6), pairs(3, seed=1), tmp_path / "out", trained_on="pairs", options=QUIET
    )
    head = DepthHead.from_pretrained(result.folder)
    with attach_depth_head(tiny_host().eval(), head) as attachment:
        scored = evaluate(attachment, pairs(3, seed=1), protocol=PROTOCOL, keep_worst=1)
    assert scored.mean.abs_rel == pytest.approx(result.validation.abs_rel, rel=1e-3)
    assert {score.valid_pixels for score in scored.per_image} == {24 * 32}
    [worst] = scored.worst
    assert (worst.image.shape, worst.prediction_m.shape, worst.target_m.shape) == ((48, 64, 3), (24, 32), (24, 32))


def test_a_crop_of_pixels_needs_one_size() -> None:
    photo = np.zeros((375, 1242, 3), np.uint8)
    sample = DepthSample(photo, np.full((188, 621), 5.0, np.float32), "drive.png")
    for use in (
        lambda protocol: protocol.check(sample),
        lambda protocol: protocol.input_image(sample),
        lambda protocol: protocol.score(torch.ones(8, 8), sample),
    ):
        with pytest.raises(DataError, match=r"drive\.png: protocol 'kitti-eigen' crops .*\(375, 1242\).*\(188, 621\)"):
            use(get_protocol("kitti-eigen"))
    whole = get_protocol("spaceclip-kitti")
    whole.check(sample)
    assert whole.input_image(sample).shape == (375, 1242, 3)
