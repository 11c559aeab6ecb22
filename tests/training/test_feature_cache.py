"""The cache gives back what the tower gave, for every version of an image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import PROTOCOL, scenes, tiny_head, tiny_host

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.augmentation import views_of
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import DataError, TrainingError
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.training.feature_cache import CHUNK, FeatureCache, cache_features


@pytest.fixture
def attachment() -> DepthAttachment:
    host = tiny_host().eval()
    return attach_depth_head(host, tiny_head(host))


def cached(attachment: DepthAttachment, samples: list, folder: Path, **options: object) -> FeatureCache:
    return cache_features(attachment, samples, folder, **{"protocol": PROTOCOL, "views": 2, **options})


@pytest.mark.parametrize("views", [1, 2, 5])
def test_batches_are_the_towers_features(attachment: DepthAttachment, tmp_path: Path, views: int) -> None:
    samples = scenes(CHUNK + 3)
    cache = cached(attachment, samples, tmp_path, views=views, seed=11)
    assert len(cache) == len(samples)
    assert cache.views == views
    assert cache.names == tuple(sample.name for sample in samples)
    indices = [CHUNK + 1, 0, 5, CHUNK]
    chosen = [view % views for view in (3, 1, 4, 2)]
    batch = cache.batch(indices, chosen)
    for row, (index, number) in enumerate(zip(indices, chosen, strict=True)):
        view = views_of(views, seed=11, index=index, image_hw=(32, 32))[number]
        attachment.refresh(prepare([view.image(samples[index].image)], attachment.tower))
        [features] = attachment.features()
        for tap in attachment.head.taps:
            expected = features.hidden[tap][0]
            # float16 keeps 11 bits; the batch of 16 that was cached adds rounding of its own.
            torch.testing.assert_close(batch.features.hidden[tap][row], expected, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(batch.features.context[row], features.context[0])
        assert np.array_equal(batch.target_m[row].numpy(), view.target(samples[index].depth_m, (32, 32)))


def test_the_second_version_is_the_mirrored_photo(attachment: DepthAttachment, tmp_path: Path) -> None:
    samples = scenes(2)
    batch = cached(attachment, samples, tmp_path).batch([1], [1])
    attachment.refresh(prepare([samples[1].image[:, ::-1]], attachment.tower))
    [features] = attachment.features()
    torch.testing.assert_close(batch.features.context, features.context)
    assert np.array_equal(batch.target_m[0].numpy(), samples[1].depth_m[:, ::-1])


def test_versions_depend_on_the_seed_and_targets_on_the_version(attachment: DepthAttachment, tmp_path: Path) -> None:
    batches = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        batches.append(cached(attachment, scenes(2), tmp_path / name, views=3, seed=seed).batch([0], [2]))
    first, same, other = batches
    assert torch.equal(first.features.context, same.features.context)
    assert torch.equal(first.target_m, same.target_m)
    assert not torch.equal(first.features.context, other.features.context)
    assert not torch.equal(first.target_m, other.target_m)


@pytest.mark.parametrize(("side", "hw"), [(None, (20, 32)), (32, (20, 32)), (100, (20, 32)), (8, (5, 8)), (1, (1, 1))])
def test_targets_are_no_larger_than_asked(
    attachment: DepthAttachment, tmp_path: Path, side: int | None, hw: tuple[int, int]
) -> None:
    [sample] = scenes(1)
    wide = dataclasses.replace(sample, image=sample.image[:20], depth_m=sample.depth_m[:20])
    cache = cached(attachment, [wide], tmp_path, views=4, target_side=side)
    assert cache.target_hw == hw
    for number, view in enumerate(views_of(4, seed=0, index=0, image_hw=(20, 32))):
        target = cache.batch([0], [number]).target_m[0].numpy()
        assert np.array_equal(target, view.target(wide.depth_m, hw))
        if side == 8 and number == 0:
            assert np.isin(target, wide.depth_m).all()  # nearest: nothing is averaged


def test_versions_are_of_what_the_protocol_shows(attachment: DepthAttachment, tmp_path: Path) -> None:
    # The benchmark crop is part of the photo, and the target of another size than the image: boxes are fractions.
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (360, 1230, 3), dtype=np.uint8)
    sample = DepthSample(image, generator.uniform(1, 70, (360, 1230)).astype(np.float32), "kitti.txt:1")
    for name, image_hw in (("kitti-eigen", (352, 1216)), ("spaceclip-kitti", (360, 1230))):
        protocol, folder = get_protocol(name), tmp_path / name
        folder.mkdir()
        cache = cached(attachment, [sample], folder, views=3, protocol=protocol, target_side=64)
        view = views_of(3, seed=0, index=0, image_hw=image_hw)[2]
        batch = cache.batch([0], [2])
        assert np.array_equal(batch.target_m[0].numpy(), view.target(protocol.training_target(sample), cache.target_hw))
        attachment.refresh(prepare([view.image(protocol.input_image(sample))], attachment.tower))
        torch.testing.assert_close(batch.features.context, attachment.features()[-1].context)


def test_the_tower_sees_no_more_than_a_chunk_at_once(attachment: DepthAttachment, tmp_path: Path) -> None:
    sizes: list[int] = []
    attachment._recorder.tower.blocks[0].register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    steps: list[int] = []
    cached(attachment, scenes(CHUNK + 3), tmp_path, views=3, progress=steps.append)
    assert sizes == [CHUNK] * 3 + [3] * 3
    assert steps == [CHUNK, 3]


def test_depth_beyond_the_range_is_not_zoomed_into_it(attachment: DepthAttachment, tmp_path: Path) -> None:
    [sample] = scenes(1)
    far = np.where(np.arange(32) < 16, np.float32(PROTOCOL.max_depth_m), sample.depth_m)
    cache = cached(attachment, [dataclasses.replace(sample, depth_m=far)], tmp_path, views=6)
    for view in range(6):
        target = cache.batch([0], [view]).target_m
        assert target.max() < 0.99 * PROTOCOL.max_depth_m * 0.7  # the scene itself is nearer, whatever the zoom
        assert (target == 0).any()


def test_depth_is_stored_once(attachment: DepthAttachment, tmp_path: Path) -> None:
    cached(attachment, scenes(3), tmp_path, views=5, target_side=8)
    assert np.load(tmp_path / "depth_m.npy", mmap_mode="r").shape == (3, 32, 32)
    assert np.load(tmp_path / "hidden_002.npy", mmap_mode="r").shape[:2] == (3, 5)


def test_maps_come_back_channels_last(attachment: DepthAttachment, tmp_path: Path) -> None:
    batch = cached(attachment, scenes(4), tmp_path).batch([0, 1], [0, 0])
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in batch.features.hidden.values())


def test_without_targets_sizes_may_differ(attachment: DepthAttachment, tmp_path: Path) -> None:
    one, two = scenes(2)
    odd = dataclasses.replace(two, image=two.image[:20], depth_m=two.depth_m[:20])
    cache = cached(attachment, [one, odd], tmp_path, targets=False, views=1, target_side=16)
    assert cache.views == 1
    assert cache.batch([1], [0]).target_m.numel() == 0


def test_targets_of_two_sizes_are_refused_by_name(attachment: DepthAttachment, tmp_path: Path) -> None:
    one, two = scenes(2)
    odd = dataclasses.replace(two, image=two.image[:20], depth_m=two.depth_m[:20], name="list.txt:2")
    with pytest.raises(DataError, match=r"list.txt:2: depth of 20x32 .* 32x32"):
        cached(attachment, [one, odd], tmp_path)


def test_features_beyond_half_precision_are_refused(attachment: DepthAttachment, tmp_path: Path) -> None:
    attachment._recorder.tower.blocks[0].register_forward_hook(lambda _m, _a, output: output * 1e6)
    # The tap was there first and sees the block's own output; the next block's is what grew.
    with pytest.raises(TrainingError, match=r"hidden state 2 of .*65504"):
        cached(attachment, scenes(2), tmp_path)


def test_an_empty_source(attachment: DepthAttachment, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        cached(attachment, [], tmp_path)


def test_a_folder_that_cannot_be_written(attachment: DepthAttachment, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot make the feature cache"):
        cached(attachment, scenes(2), tmp_path / "absent")
