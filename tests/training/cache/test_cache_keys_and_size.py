"""A cache of anything else is never read, and what one costs is told before it is made."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_world import PROTOCOL, cached, scenes, tiny_head, tiny_host, tiny_mixer

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.training.cache import maker


@pytest.fixture
def attachment() -> DepthAttachment:
    host = tiny_host().eval()
    return attach_depth_head(host, tiny_head(host))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "SHARD_BYTES", 35_000)


class TestStale:
    def test_one_folder_for_all_keeps_them_apart(self, attachment: DepthAttachment, tmp_path: Path) -> None:
        samples = scenes(3)
        others = [
            {"weights": "other"},
            {"host": "without context"},
            {"versions": 3},
            {"versions": 3, "seed": 1},
            {"versions": 3, "augmentation": Augmentation.named("published-nyu")},
            {"storage": "int8"},
            {"tower_precision": "bf16"},
            {"targets": False},
            {"protocol": dataclasses.replace(PROTOCOL, max_depth_m=5.0)},
        ]
        cached(attachment, samples, tmp_path, keyed=True)
        for count, changes in enumerate(others, start=2):
            if changes.pop("host", None):
                host = tiny_host().eval()
                head = tiny_mixer(host, taps=attachment.head.taps)
                with attach_depth_head(host, head) as plain:
                    cached(plain, samples, tmp_path, keyed=True)
            else:
                cached(attachment, samples, tmp_path, keyed=True, **changes)
            assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == count
        for changes in (
            {},
            {"seed": 7},  # nothing is random about two versions
            {"target_side": 8},
            {"protocol": dataclasses.replace(PROTOCOL, name="other", description="name")},
        ):
            cached(attachment, samples, tmp_path, keyed=True, **changes)
            assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1 + len(others)

    @pytest.mark.parametrize(
        "change",
        [
            lambda samples: samples[:2],
            lambda samples: samples[::-1],
            lambda samples: [*samples[:2], dataclasses.replace(samples[2], depth_m=samples[2].depth_m + 0.001)],
            lambda samples: [*samples[:2], dataclasses.replace(samples[2], image=255 - samples[2].image)],
        ],
        ids=["fewer", "order", "depth", "image"],
    )
    def test_other_data_are_not_read_from_it(
        self, attachment: DepthAttachment, tmp_path: Path, change: Callable[[list[DepthSample]], list[DepthSample]]
    ) -> None:
        cached(attachment, scenes(3), tmp_path)
        with pytest.raises(TrainingError, match="of another host, data or setting"):
            cached(attachment, change(scenes(3)), tmp_path)

    def test_an_index_of_another_cache(self, attachment: DepthAttachment, tmp_path: Path) -> None:
        cached(attachment, scenes(3), tmp_path / "one")
        cached(attachment, scenes(3), tmp_path / "two", weights="other")
        shutil.copy(tmp_path / "two" / "shard-00000.safetensors", tmp_path / "one")
        with pytest.raises(TrainingError, match=r"shard-00000.*of another host"):
            cached(attachment, scenes(3), tmp_path / "one")


class TestSize:
    def test_it_is_told_before_it_is_made(
        self, attachment: DepthAttachment, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, logger="spaceclip_plugin"):
            cached(attachment, scenes(40), tmp_path, versions=8)
        [told] = [record.getMessage() for record in caplog.records if "on the disk" in record.getMessage()]
        size = sum(path.stat().st_size for path in tmp_path.glob("shard-*"))
        assert told.startswith("features of 40 images in 8 versions: ")
        amount, unit = told.split("versions: ")[1].split()[:2]
        estimate = float(amount) * {"kB": 1e3, "MB": 1e6}[unit]
        assert estimate == pytest.approx(size, rel=0.05)

    @pytest.mark.parametrize("versions", [2, 8])
    def test_the_time_it_takes_is_told_too(
        self,
        attachment: DepthAttachment,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        versions: int,
    ) -> None:
        """On a clock that runs while the tower does: half a second an image, and a minute more at first."""
        now, first = 0.0, 60.0

        def tower(_module: object, args: tuple[torch.Tensor]) -> None:
            nonlocal now, first
            now, first = now + 0.5 * len(args[0]) + first, 0.0

        attachment._recorder.tower.blocks[0].register_forward_pre_hook(tower)
        monkeypatch.setattr(maker, "time", SimpleNamespace(perf_counter=lambda: now))
        with caplog.at_level(logging.INFO, logger="spaceclip_plugin"):
            cached(attachment, scenes(40), tmp_path, versions=versions)
        trial = 60.0 + 2 * 0.5 * versions
        [told] = [record.getMessage() for record in caplog.records if "to make" in record.getMessage()]
        assert float(told.split("about ")[1].split()[0]) == pytest.approx(now - trial, rel=0.1)

    @pytest.mark.parametrize(
        ("seconds", "versions", "said"),
        [(900, 8, "; --views 2 takes 4 min"), (3600, 4, "; --views 2 takes 30 min"), (899, 8, ""), (9000, 2, "")],
    )
    def test_where_it_is_long_a_shorter_way_is_told(self, seconds: float, versions: int, said: str) -> None:
        assert maker._shorter(seconds, versions).startswith(said)
        assert bool(said) == bool(maker._shorter(seconds, versions))

    def test_a_full_disk_is_told_before_it_is_full(
        self, attachment: DepthAttachment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(TrainingError, match=r"needs \d+\.\d\d kB and 1\.00 kB are free; free disk space"):
            cached(attachment, scenes(3), tmp_path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.usefixtures("small_shards")
    def test_a_disk_that_fills_up_on_the_way_loses_nothing(
        self, attachment: DepthAttachment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(tensors: dict, path: Path, metadata: dict) -> None:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        samples = scenes(14)
        save = "spaceclip_plugin._tensor_files.save_file"
        original = maker.write_shard

        def third(path: Path, *args: object, **options: object) -> str:
            if path.name == "shard-00002.safetensors":
                monkeypatch.setattr(save, full)
            return original(path, *args, **options)

        monkeypatch.setattr(maker, "write_shard", third)
        with pytest.raises(TrainingError, match=r"shard-00002.*No space left on device.*What is written stays"):
            cached(attachment, samples, tmp_path)
        assert [path.name for path in sorted(tmp_path.iterdir())] == [f"shard-0000{i}.safetensors" for i in (0, 1)]
        monkeypatch.undo()
        cached(attachment, samples, tmp_path)
