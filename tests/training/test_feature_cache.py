"""The cache gives back what the tower gave, as photographed and mirrored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import PROTOCOL, scenes, tiny_head, tiny_host

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.errors import DataError, TrainingError
from spaceclip_plugin.training.feature_cache import CHUNK, FeatureCache, cache_features


@pytest.fixture
def attachment() -> DepthAttachment:
    host = tiny_host().eval()
    return attach_depth_head(host, tiny_head(host))


def cached(attachment: DepthAttachment, samples: list, folder: Path, **options: bool) -> FeatureCache:
    return cache_features(attachment, samples, folder, protocol=PROTOCOL, **{"mirror": True, **options})


def test_batches_are_the_towers_features(attachment: DepthAttachment, tmp_path: Path) -> None:
    samples = scenes(CHUNK + 3)
    cache = cached(attachment, samples, tmp_path)
    assert len(cache) == len(samples)
    assert cache.views == 2
    assert cache.names == tuple(sample.name for sample in samples)
    indices, mirrored = [CHUNK + 1, 0, 5], [False, True, True]
    batch = cache.batch(indices, mirrored)
    for row, (index, flip) in enumerate(zip(indices, mirrored, strict=True)):
        image, depth = samples[index].image, samples[index].depth_m
        attachment.refresh(prepare([image[:, ::-1] if flip else image], attachment.tower))
        [features] = attachment.features()
        for tap in attachment.head.taps:
            expected = features.hidden[tap][0]
            # float16 keeps 11 bits; the batch of 16 that was cached adds rounding of its own.
            torch.testing.assert_close(batch.features.hidden[tap][row], expected, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(batch.features.context[row], features.context[0])
        assert np.array_equal(batch.target_m[row].numpy(), depth[:, ::-1] if flip else depth)


def test_maps_come_back_channels_last(attachment: DepthAttachment, tmp_path: Path) -> None:
    batch = cached(attachment, scenes(4), tmp_path).batch([0, 1], [False, False])
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in batch.features.hidden.values())


def test_without_targets_sizes_may_differ(attachment: DepthAttachment, tmp_path: Path) -> None:
    one, two = scenes(2)
    odd = dataclasses.replace(two, image=two.image[:20], depth_m=two.depth_m[:20])
    cache = cached(attachment, [one, odd], tmp_path, targets=False, mirror=False)
    assert cache.views == 1
    assert cache.batch([1], [False]).target_m.numel() == 0


def test_targets_of_two_sizes_are_refused_by_name(attachment: DepthAttachment, tmp_path: Path) -> None:
    one, two = scenes(2)
    odd = dataclasses.replace(two, image=two.image[:20], depth_m=two.depth_m[:20], name="list.txt:2")
    with pytest.raises(DataError, match=r"list.txt:2: depth of 20x32 .* 32x32"):
        cached(attachment, [one, odd], tmp_path)


def test_features_beyond_half_precision_are_refused(attachment: DepthAttachment, tmp_path: Path) -> None:
    attachment._recorder.tower.blocks[0].register_forward_hook(lambda _m, _a, output: output * 1e6)
    # The tap was there first and sees the block's own output; the next block's is what grew.
    with pytest.raises(TrainingError, match=r"hidden state 2 .*65504"):
        cached(attachment, scenes(2), tmp_path)


def test_an_empty_source(attachment: DepthAttachment, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        cached(attachment, [], tmp_path)


def test_a_folder_that_cannot_be_written(attachment: DepthAttachment, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot make the feature cache"):
        cached(attachment, scenes(2), tmp_path / "absent")
