"""The cache gives back what the tower gave, for every version of an image, and nothing that is stale or damaged."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from small_world import PROTOCOL, cached, scenes, tiny_head, tiny_host, tiny_mixer

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import CaptureError, DataError, TrainingError
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.training.cache import maker
from spaceclip_plugin.training.cache.feature_cache import FeatureCache, cache_index
from spaceclip_plugin.training.cache.shards import CacheShard
from spaceclip_plugin.training.features import Batch

RANDOM = Augmentation.named("recommended")
CPU = torch.device("cpu")


def batch(cache: FeatureCache, indices: list[int], versions: list[int]) -> Batch:
    return cache.decode(cache.load(indices, versions), CPU)


@pytest.fixture
def attachment() -> DepthAttachment:
    host = tiny_host().eval()
    return attach_depth_head(host, tiny_head(host))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "SHARD_BYTES", 35_000)


@pytest.mark.parametrize("versions", [1, 2, 5])
def test_batches_are_the_towers_features(attachment: DepthAttachment, tmp_path: Path, versions: int) -> None:
    samples = scenes(19)
    cache = cached(attachment, samples, tmp_path, versions=versions, seed=11)
    assert len(cache) == len(samples)
    assert cache.versions == versions
    assert [cache.name(i) for i in range(19)] == [sample.name for sample in samples]
    indices = [17, 0, 5, 16]
    chosen = [view % versions for view in (3, 1, 4, 2)]
    read = batch(cache, indices, chosen)
    for row, (index, number) in enumerate(zip(indices, chosen, strict=True)):
        view = RANDOM.version(number, seed=11, index=index, image_hw=(32, 32))
        attachment.refresh(prepare([view.image(samples[index].image)], attachment.tower))
        [features] = attachment.features()
        for tap in attachment.head.taps:
            expected = features.hidden[tap][0]
            # float16 keeps 11 bits; the batch of 16 that was cached adds rounding of its own.
            torch.testing.assert_close(read.features.hidden[tap][row], expected, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(read.features.context[row], features.context[0])
        assert np.array_equal(read.target_m[row].numpy(), view.target(samples[index].depth_m, (32, 32)))


def test_the_second_version_is_the_mirrored_photo(attachment: DepthAttachment, tmp_path: Path) -> None:
    samples = scenes(2)
    read = batch(cached(attachment, samples, tmp_path), [1], [1])
    attachment.refresh(prepare([samples[1].image[:, ::-1]], attachment.tower))
    [features] = attachment.features()
    torch.testing.assert_close(read.features.context, features.context)
    assert np.array_equal(read.target_m[0].numpy(), samples[1].depth_m[:, ::-1])


def test_versions_depend_on_the_seed_and_targets_on_the_version(attachment: DepthAttachment, tmp_path: Path) -> None:
    batches = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cache = cached(attachment, scenes(2), tmp_path / name, versions=3, seed=seed)
        batches.append(batch(cache, [0], [2]))
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
    cache = cached(attachment, [wide], tmp_path, versions=4, target_side=side)
    assert cache.target_hw == hw
    for number in range(4):
        view = RANDOM.version(number, seed=0, index=0, image_hw=(20, 32))
        target = batch(cache, [0], [number]).target_m[0].numpy()
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
        cache = cached(attachment, [sample], folder, versions=3, protocol=protocol, target_side=64)
        view = RANDOM.version(2, seed=0, index=0, image_hw=image_hw)
        read = batch(cache, [0], [2])
        assert np.array_equal(read.target_m[0].numpy(), view.target(protocol.training_target(sample), cache.target_hw))
        attachment.refresh(prepare([view.image(protocol.input_image(sample))], attachment.tower))
        torch.testing.assert_close(read.features.context, attachment.features()[-1].context)


def test_the_tower_sees_no_more_than_a_batch_at_once(attachment: DepthAttachment, tmp_path: Path) -> None:
    sizes: list[int] = []
    attachment._recorder.tower.blocks[0].register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    steps: list[int] = []
    cached(attachment, scenes(3), tmp_path, versions=19, progress=steps.append)
    assert sizes == [16, 3] * 5  # twice the first image, to tell what the cache will cost
    assert steps == [1, 1, 1]
    sizes.clear()
    cached(attachment, scenes(12), tmp_path / "five", versions=5)
    assert sizes == [5, 5, 15, 15, 15, 15]


def test_depth_beyond_the_range_is_not_zoomed_into_it(attachment: DepthAttachment, tmp_path: Path) -> None:
    [sample] = scenes(1)
    far = np.where(np.arange(32) < 16, np.float32(PROTOCOL.max_depth_m), sample.depth_m)
    cache = cached(attachment, [dataclasses.replace(sample, depth_m=far)], tmp_path, versions=6)
    for view in range(6):
        target = batch(cache, [0], [view]).target_m
        assert target.max() < 0.99 * PROTOCOL.max_depth_m * 0.7  # the scene itself is nearer, whatever the zoom
        assert (target == 0).any()


def test_where_nothing_is_is_kept_as_it_is(attachment: DepthAttachment, tmp_path: Path) -> None:
    [sample] = scenes(1)
    sky = np.where(np.arange(32)[:, None] < 16, np.float32(np.inf), sample.depth_m)
    cache = cached(attachment, [dataclasses.replace(sample, depth_m=sky)], tmp_path)
    for view in range(2):
        target = batch(cache, [0], [view]).target_m[0]
        assert target[:16].isinf().all()
        assert target[16:].isfinite().all()


def test_maps_come_back_channels_last(attachment: DepthAttachment, tmp_path: Path) -> None:
    read = batch(cached(attachment, scenes(4), tmp_path), [0, 1], [0, 0])
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in read.features.hidden.values())


def test_without_targets_sizes_may_differ(attachment: DepthAttachment, tmp_path: Path) -> None:
    one, two = scenes(2)
    odd = dataclasses.replace(two, image=two.image[:20], depth_m=two.depth_m[:20])
    cache = cached(attachment, [one, odd], tmp_path, targets=False, versions=1, target_side=16)
    assert cache.versions == 1
    assert batch(cache, [1], [0]).target_m.numel() == 0


def test_targets_of_two_sizes_come_in_the_first_ones(attachment: DepthAttachment, tmp_path: Path) -> None:
    one, two = scenes(2)
    odd = dataclasses.replace(two, image=two.image[:20], depth_m=two.depth_m[:20])
    cache = cached(attachment, [one, odd], tmp_path)
    assert cache.target_hw == (32, 32)
    target = batch(cache, [1], [1]).target_m[0].numpy()
    assert np.array_equal(target, RANDOM.version(1, seed=0, index=1, image_hw=(20, 32)).target(
        odd.depth_m, (32, 32)
    ))  # fmt: skip


def test_features_beyond_half_precision_are_refused(attachment: DepthAttachment, tmp_path: Path) -> None:
    attachment._recorder.tower.blocks[0].register_forward_hook(lambda _m, _a, output: output * 1e6)
    # The tap was there first and sees the block's own output; the next block's is what grew.
    with pytest.raises(TrainingError, match=r"tabletop.*hidden state 2: .*65504"):
        cached(attachment, scenes(2), tmp_path / "fp16")
    cached(attachment, scenes(2), tmp_path / "int8", storage="int8")


@pytest.mark.parametrize("versions", [2, 19])
def test_an_image_that_the_tower_cannot_take_is_named(tmp_path: Path, versions: int) -> None:
    host = tiny_host().eval()
    attachment = attach_depth_head(host, tiny_head(host))
    samples = scenes(6)
    marked = np.zeros_like(samples[4].image)
    samples[4] = dataclasses.replace(samples[4], image=marked, name="list.txt:5 black.png")
    darkest = prepare([marked], attachment.tower)

    def spoil(_module: object, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        black = (args[0] == darkest).flatten(1).all(dim=1)
        return torch.where(black[:, None, None], torch.nan, output)

    host.patch_embed.register_forward_hook(spoil)
    with pytest.raises(CaptureError, match=r"^list\.txt:5 black\.png: .*NaN or infinity"):
        cached(attachment, samples, tmp_path, versions=versions)


def test_an_empty_source(attachment: DepthAttachment, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        cached(attachment, [], tmp_path)


def test_a_folder_that_cannot_be_written(attachment: DepthAttachment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TrainingError, match="cannot make the feature cache"):
        cached(attachment, scenes(2), tmp_path / "file" / "cache")


@pytest.mark.usefixtures("small_shards")
class TestShards:
    @pytest.mark.parametrize("storage", ["fp16", "int8"])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_many_read_like_one(
        self, attachment: DepthAttachment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, workers: int
    ) -> None:
        samples = scenes(14)
        many = cached(attachment, samples, tmp_path / "many", storage=storage, workers=workers)
        monkeypatch.setattr(maker, "SHARD_BYTES", 1 << 30)
        one = cached(attachment, samples, tmp_path / "one", storage=storage)
        assert len(list((tmp_path / "many").glob("shard-*"))) >= 3
        assert len(list((tmp_path / "one").glob("shard-*"))) == 1
        indices, versions = [13, 0, 5, 6, 13], [1, 0, 1, 1, 0]
        first, second = (cache.load(indices, versions) for cache in (many, one))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_few_stay_open(self, attachment: DepthAttachment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("spaceclip_plugin.training.cache.feature_cache.OPEN_SHARDS", 2)
        samples = scenes(14)
        cache = cached(attachment, samples, tmp_path)
        assert [cache.name(i) for i in range(14)] == [sample.name for sample in samples]
        assert len(cache._shards) == 2

    def test_a_worker_opens_files_of_its_own(self, attachment: DepthAttachment, tmp_path: Path) -> None:
        cache = cached(attachment, scenes(5), tmp_path)
        copy = pickle.loads(pickle.dumps(cache))
        first, second = cache.load([4, 1], [0, 1]), copy.load([4, 1], [0, 1])
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_what_is_there_is_not_made_again(self, attachment: DepthAttachment, tmp_path: Path) -> None:
        samples = scenes(14)
        cached(attachment, samples, tmp_path)
        shards = sorted(tmp_path.glob("shard-*"))
        before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in shards}
        shards[1].unlink()
        (tmp_path / "index.json").unlink()
        (tmp_path / ".shard-00001.0123456789ab.tmp.safetensors").write_text("half of a shard")
        seen: list[int] = []
        hook = attachment._recorder.tower.blocks[0].register_forward_hook(
            lambda _m, args, _o: seen.append(len(args[0]))
        )
        cached(attachment, samples, tmp_path)
        hook.remove()
        first, second = (row["start"] for row in json.loads((tmp_path / "index.json").read_text())["shards"][1:3])
        assert sum(seen) == 2 * (2 + second - first)  # two to tell what it will cost; in two versions
        assert {path: path.read_bytes() for path in shards} == {path: content for path, (_, content) in before.items()}
        changed = [path for path in shards if path.stat().st_mtime_ns != before[path][0]]
        assert changed == [shards[1]]
        assert not list(tmp_path.glob(".*"))

    @pytest.mark.parametrize("bit", [0, 4])
    def test_a_flipped_bit_is_found_and_the_file_named(
        self, attachment: DepthAttachment, tmp_path: Path, bit: int
    ) -> None:
        """In every byte of the header, and in some of what follows."""
        cached(attachment, scenes(6), tmp_path)
        damaged = sorted(tmp_path.glob("shard-*"))[1]
        whole = damaged.read_bytes()
        key = json.loads((tmp_path / "index.json").read_text())["key"]
        header = 8 + int.from_bytes(whole[:8], "little")
        for place in [*range(header), *range(header, len(whole), 997), len(whole) - 1]:
            content = bytearray(whole)
            content[place] ^= 1 << bit
            damaged.write_bytes(content)
            with pytest.raises(TrainingError, match=rf"{damaged.name}' (is damaged|holds features of another)"):
                CacheShard(damaged, key=key).verify()
        with pytest.raises(TrainingError, match=rf"{damaged.name}' is damaged"):
            cached(attachment, scenes(6), tmp_path)
        damaged.unlink()
        cached(attachment, scenes(6), tmp_path)
        assert damaged.read_bytes() == whole

    @pytest.mark.parametrize("complete", [True, False], ids=["complete", "killed before its index"])
    def test_every_shard_can_be_made_again_as_the_message_says(
        self, attachment: DepthAttachment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool
    ) -> None:
        samples = scenes(14)
        cache = cached(attachment, samples, tmp_path)
        everything = cache.load(list(range(14)), [i % 2 for i in range(14)])
        shards = sorted(tmp_path.glob("shard-*"))
        whole = {path: path.read_bytes() for path in (*shards, tmp_path / "index.json")}
        assert len(shards) >= 4
        monkeypatch.setattr(maker, "SHARD_BYTES", 1 << 20)  # what is there decides, not what is usual today
        for damaged in shards:
            damaged.write_bytes(whole[damaged][:-1] + bytes([whole[damaged][-1] ^ 1]))
            if not complete:
                (tmp_path / "index.json").unlink()
            with pytest.raises(TrainingError, match=rf"{damaged.name}' is damaged.*Remove that file and continue"):
                cached(attachment, samples, tmp_path)
            damaged.unlink()
            again = cached(attachment, samples, tmp_path).load(list(range(14)), [i % 2 for i in range(14)])
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole
            assert all(torch.equal(again[name], value) for name, value in everything.items())

    @pytest.mark.parametrize("starts", [(0, 0, 4), (0, 4, 4), (2, 4, 6), (0, 2, 14), (0, 4, 2)])
    def test_an_index_that_cannot_be_is_written_again(
        self, attachment: DepthAttachment, tmp_path: Path, starts: tuple[int, ...]
    ) -> None:
        cached(attachment, scenes(14), tmp_path)
        path = tmp_path / "index.json"
        whole = path.read_bytes()
        index = json.loads(whole)
        for shard, start in zip(index["shards"], starts, strict=False):
            shard["start"] = start
        index["shards"] = index["shards"][: len(starts)]
        path.write_text(json.dumps(index))
        with pytest.raises(TrainingError, match=r"no complete feature cache.*its shards start at"):
            cache_index(tmp_path, index["key"])
        cached(attachment, scenes(14), tmp_path)
        assert path.read_bytes() == whole

    def test_files_that_changed_names_are_found(self, attachment: DepthAttachment, tmp_path: Path) -> None:
        cache = cached(attachment, scenes(14), tmp_path)
        one, other = sorted(tmp_path.glob("shard-*"))[1:3]
        one.rename(tmp_path / "kept")
        other.rename(one)
        (tmp_path / "kept").rename(other)
        start = json.loads((tmp_path / "index.json").read_text())["shards"][1]["start"]
        with pytest.raises(TrainingError, match=rf"{one.name}' holds images \d+ to \d+, expected {start} to"):
            cache.load([start], [0])
        with pytest.raises(TrainingError, match=rf"{one.name}' holds images"):
            cached(attachment, scenes(14), tmp_path)

    def test_a_second_run_waits_for_the_first(
        self, attachment: DepthAttachment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else it would remove what the first is writing as the left-over of a killed process."""
        write = maker.write_shard

        def meanwhile(path: Path, *args: object, **options: object) -> str:
            lock = FileLock(path.parent.with_name(f".{path.parent.name}.lock"))
            with pytest.raises(Timeout):
                lock.acquire(timeout=0)
            return write(path, *args, **options)

        monkeypatch.setattr(maker, "write_shard", meanwhile)
        cached(attachment, scenes(3), tmp_path / "cache")
        FileLock(tmp_path / ".cache.lock").acquire(timeout=0).lock.release()

    @pytest.mark.parametrize("size", [0, 7, 100, 5000])
    def test_a_truncated_shard_is_found(self, attachment: DepthAttachment, tmp_path: Path, size: int) -> None:
        cached(attachment, scenes(14), tmp_path)
        damaged = sorted(tmp_path.glob("shard-*"))[1]
        damaged.write_bytes(damaged.read_bytes()[:size])
        with pytest.raises(TrainingError, match=f"{damaged.name}' is damaged"):
            cached(attachment, scenes(14), tmp_path)

    def test_a_shard_that_goes_missing_while_it_is_needed(self, attachment: DepthAttachment, tmp_path: Path) -> None:
        cache = cached(attachment, scenes(14), tmp_path)
        last = sorted(tmp_path.glob("shard-*"))[-1]
        last.unlink()
        with pytest.raises(TrainingError, match=f"{last.name}' is damaged: it cannot be read"):
            cache.load([13], [0])


def test_a_head_that_reads_pixels_finds_the_towers_images_in_the_cache(tmp_path: Path) -> None:
    host = tiny_host().eval()
    samples = scenes(3)
    with attach_depth_head(host, tiny_mixer(host, pixels=4)) as attachment:
        read = batch(cached(attachment, samples, tmp_path, versions=5, seed=11), [2, 0], [4, 1])
        for row, (index, number) in enumerate(((2, 4), (0, 1))):
            view = RANDOM.version(number, seed=11, index=index, image_hw=(32, 32))
            expected = prepare([view.image(samples[index].image)], attachment.tower)[0]
            assert torch.equal(read.features.pixels[row], expected)
