"""Heads as files: what is saved comes back bit for bit, and nothing else is taken for a head."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from head_folders import WEIGHT, contents, edit_config, edit_weights, refused
from safetensors.torch import load_file
from saved_heads import CONFIG, HUGE, HUGE_MIXER, MIXER, OPTIONS, Options, make_head
from torch import Tensor

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.head.architectures import name_for
from spaceclip_plugin.head.folder import write_folder
from spaceclip_plugin.towers.spec import TowerFeatures


def features() -> TowerFeatures:
    random = torch.Generator().manual_seed(1)
    hidden = {tap: torch.randn(2, 8, 2, 3, generator=random) for tap in (1, 3, 5)}
    context, pixels = torch.randn(2, 8, generator=random), torch.randn(2, 3, 32, 48, generator=random)
    return TowerFeatures(hidden, context, (32, 48), pixels=pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_head().save_pretrained(tmp_path / "head")


class TestRoundTrip:
    def test_weights_statistics_config_and_depth_come_back_bit_for_bit(self, folder: Path) -> None:
        saved, loaded = make_head(), DepthHead.from_pretrained(str(folder))
        assert loaded.config == saved.config == CONFIG
        assert list(loaded.state_dict()) == list(saved.state_dict())
        for name, value in saved.state_dict().items():
            assert value.dtype == loaded.state_dict()[name].dtype, name
            assert torch.equal(value, loaded.state_dict()[name]), name
        assert loaded.state_dict()["decoder.depth.1.num_batches_tracked"] == 41
        with torch.no_grad():
            assert torch.equal(saved(features()).depth_m, loaded(features()).depth_m)
        assert not loaded.training
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in loaded.parameters())

    def test_saving_what_was_loaded_gives_the_same_files(self, folder: Path, tmp_path: Path) -> None:
        again = DepthHead.from_pretrained(folder).save_pretrained(tmp_path / "deep" / "again")
        assert contents(again) == contents(folder)
        assert sorted(contents(again)) == ["config.json", "model.safetensors"]

    @pytest.mark.parametrize(
        "options",
        [
            OPTIONS,
            dataclasses.replace(OPTIONS, structural_taps=(), film_hidden=None),
            dataclasses.replace(OPTIONS, structural_taps=(), auxiliary=False),
            dataclasses.replace(OPTIONS, structural_taps=(), channels=(2,), semantic_taps=(1,)),
            MIXER,
            dataclasses.replace(MIXER, attention=0, channels=(5, 6)),
            dataclasses.replace(MIXER, uncertainty=False, taps=(3,), pixels=0),
        ],
    )
    def test_every_shape_of_head(self, tmp_path: Path, options: Options) -> None:
        head = make_head(dataclasses.replace(CONFIG, architecture=name_for(options), options=options))
        loaded = DepthHead.from_pretrained(head.save_pretrained(tmp_path))
        assert loaded.config == head.config
        assert list(loaded.state_dict()) == list(head.state_dict())
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in head.state_dict().items())
        with torch.no_grad():
            found, expected = vars(loaded(features())), vars(head(features()))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_a_bf16_head_in_channels_last_keeps_its_values(self, tmp_path: Path) -> None:
        head = make_head().to(torch.bfloat16, memory_format=torch.channels_last)
        loaded = DepthHead.from_pretrained(head.save_pretrained(tmp_path))
        assert load_file(tmp_path / "model.safetensors")[WEIGHT].dtype == torch.bfloat16
        for name, value in head.state_dict().items():
            found = loaded.state_dict()[name]
            assert found.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
            assert torch.equal(found, value.to(found.dtype))

    def test_a_loaded_head_does_not_hang_on_its_file(self, folder: Path) -> None:
        loaded = DepthHead.from_pretrained(folder)
        path = folder / "model.safetensors"
        with path.open("r+b") as file:  # not replaced: the bytes under a memory map change
            file.write(b"\0" * path.stat().st_size)
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in make_head().state_dict().items())

    def test_loading_draws_no_random_numbers(self, folder: Path) -> None:
        before = torch.get_rng_state()
        DepthHead.from_pretrained(folder)
        assert torch.equal(torch.get_rng_state(), before)


class TestSaving:
    def test_a_newer_head_replaces_the_older(self, folder: Path) -> None:
        (folder / "README.md").write_text("mine")
        newer = make_head(dataclasses.replace(CONFIG, trained_on="another room"), seed=1)
        newer.save_pretrained(folder)
        loaded = DepthHead.from_pretrained(folder)
        assert loaded.config.trained_on == "another room"
        assert torch.equal(loaded.state_dict()[WEIGHT], newer.state_dict()[WEIGHT])
        assert sorted(contents(folder)) == ["README.md", "config.json", "model.safetensors"]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("name", [WEIGHT, "decoder.depth.1.running_var"])
    def test_a_weight_that_is_not_finite_leaves_the_older_head(self, folder: Path, name: str, value: float) -> None:
        before = contents(folder)
        head = make_head(seed=1)
        head.state_dict()[name].view(-1)[0] = value
        with pytest.raises(CheckpointError, match=f"'{name}' holds NaN or infinity"):
            head.save_pretrained(folder)
        assert contents(folder) == before
        with pytest.raises(CheckpointError, match="not saved"):
            head.save_pretrained(folder / "new")
        assert not (folder / "new").exists()

    def test_a_head_without_data_is_not_saved(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="on the meta device and holds no data"):
            make_head().to("meta").save_pretrained(tmp_path / "head")
        assert not (tmp_path / "head").exists()

    def test_a_config_that_cannot_be_written_leaves_the_older_head(self, folder: Path) -> None:
        before = contents(folder)
        for impossible in ({"width": float("nan")}, {"width": torch.ones(1)}, {"width": "\ud800"}):
            with pytest.raises(CheckpointError, match="cannot write a head to") as caught:
                write_folder(folder, {**CONFIG.to_dict(), **impossible}, make_head(seed=1).state_dict())
            assert str(folder) in str(caught.value)
            assert contents(folder) == before

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource limits")
    def test_a_full_disk_leaves_the_older_head(self, folder: Path) -> None:
        before = contents(folder)
        with limited("RLIMIT_FSIZE", 5000), pytest.raises(CheckpointError, match="cannot write a head to"):
            make_head(seed=1).save_pretrained(folder)
        assert contents(folder) == before

    @pytest.mark.parametrize("taken", ["config.json", "model.safetensors"])
    def test_a_name_that_is_taken_by_a_folder(self, tmp_path: Path, taken: str) -> None:
        (tmp_path / taken).mkdir()
        with pytest.raises(CheckpointError, match=f"cannot write a head to .*{taken}"):
            make_head().save_pretrained(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [taken]

    @pytest.mark.parametrize("name", ["file/below", "file", "x" * 300, "nul\0"])
    def test_a_place_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(CheckpointError, match="cannot write a head to"):
            make_head().save_pretrained(tmp_path / name)


class TestConfigFile:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"widht": 8}, "did you mean 'width'"),
            ({"plugin_version": 1}, "plugin_version must be a string"),
            ({"tap_fractions": [0.1, 0.5, 0.9]}, "tap_fractions must be [0.1666"),
            ({"tap_fractions": None}, "tap_fractions must be [0.1666"),
            ({"tap_fractions": [0.5]}, "tap_fractions must be a list of 3 values"),
            ({"format_version": 6}, "format_version must be 1 to 5, got 6"),
            ({"format_version": 2}, "a tower_fingerprint belongs to format 2"),
            ({"architecture": "space-clop"}, "did you mean 'space-clip'"),
            ({"width": True}, "width must be an integer from 1 to 16384, got True"),
            ({"width": "8"}, "width must be"),
            ({"width": -8}, "width must be"),
            ({"width": 10**300}, "width must be"),
            ({"blocks": [6]}, "blocks must be"),
            ({"trained_on": {"a": [1]}}, "trained_on must be"),
            ({"image_mean": [[0.1], 0.2, 0.3]}, "image_mean[0] must be"),
            ({"depth_range_m": [-1.0, 3.0]}, "depth_range_m[0] must be"),
            ({"options": {}}, "options of 'space-clip': missing key 'semantic_taps'"),
            ({"options": {**dataclasses.asdict(OPTIONS), "patch": 3}}, "options of 'space-clip': unknown key 'patch'"),
            ({"options": {**dataclasses.asdict(OPTIONS), "channels": [6, True]}}, "channels[1] must be"),
            ({"options": {**dataclasses.asdict(OPTIONS), "semantic_taps": [9, 3]}}, "tap 9 lies beyond a tower of 6"),
        ],
    )
    def test_values_that_cannot_be(self, folder: Path, changes: dict[str, Any], named: str) -> None:
        edit_config(folder, **changes)
        message = refused(folder)
        assert "config.json" in message
        assert named in message

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"null", b"not json", b"\xff\xfe{}", b"{}", b"[" * 100_000, b" " * 2_000_000]
        + [b'{"width": %s}' % number for number in (b"NaN", b"1e400", b"-Infinity", b"1" * 5000)],
    )
    def test_what_is_no_config(self, folder: Path, content: bytes) -> None:
        (folder / "config.json").write_bytes(content)
        assert "config.json" in refused(folder)

    @pytest.mark.parametrize("key", ["plugin_version", *CONFIG.to_dict()])
    def test_a_missing_key(self, folder: Path, key: str) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({name: v for name, v in json.loads(path.read_text()).items() if name != key}))
        assert key in refused(folder)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit of the address space")
    @pytest.mark.parametrize("huge", [HUGE, HUGE_MIXER])
    def test_gigabytes_are_refused_before_they_are_taken(self, folder: Path, huge: Options) -> None:
        huge_config = dataclasses.replace(CONFIG, width=16384, architecture=name_for(huge), options=huge).to_dict()
        edit_config(folder, **json.loads(json.dumps(huge_config)))
        started = time.perf_counter()
        with limited("RLIMIT_AS", address_space() + 400_000_000):
            assert re.search(
                r"config\.json.* calls for [0-9.]+ GB of weights; a head has at most 1\.1 GB", refused(folder)
            )
        assert time.perf_counter() - started < 5


class TestWeightsFile:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({WEIGHT: None}, f"missing '{WEIGHT}'; unknown none"),
            ({"decoder.extra": torch.ones(1)}, "missing none; unknown 'decoder.extra'"),
            ({WEIGHT: torch.ones(1, 2, 1, 3)}, "float32 of shape (1, 2, 1, 3), the config calls for float32 of shape"),
            ({WEIGHT: torch.ones(1, 2, 3, 3, dtype=torch.int64)}, "int64 of shape (1, 2, 3, 3), the config calls for"),
            pytest.param(
                {WEIGHT: torch.ones(1, 2, 3, 3, dtype=torch.complex64)},
                "C64 of shape",
                marks=pytest.mark.skipif(
                    torch.complex64 not in safetensors.torch._SIZE, reason="this safetensors cannot write complex64"
                ),
            ),
            ({WEIGHT: torch.ones(1, 2, 3, 3).to(torch.float8_e4m3fn)}, "F8_E4M3 of shape"),
            ({WEIGHT: torch.full((1, 2, 3, 3), float("nan"))}, f"'{WEIGHT}' holds NaN, infinity"),
            ({WEIGHT: torch.full((1, 2, 3, 3), float("-inf"))}, f"'{WEIGHT}' holds NaN, infinity"),
            ({WEIGHT: torch.full((1, 2, 3, 3), 1e300, dtype=torch.float64)}, "more than its dtype can hold"),
            ({"decoder.depth.1.num_batches_tracked": torch.tensor(1.0)}, "float32 of shape (), the config calls for"),
            ({"decoder.depth.1.num_batches_tracked": torch.tensor(True)}, "BOOL of shape ()"),
            ({"decoder.depth.1.num_batches_tracked": torch.tensor([1])}, "int64 of shape (1,)"),
            (
                {f"decoder.{i}": torch.ones(1) for i in range(9)},
                "unknown 'decoder.0', 'decoder.1', 'decoder.2' and 6 more",
            ),
        ],
    )
    def test_weights_that_do_not_match(self, folder: Path, changes: dict[str, Tensor | None], named: str) -> None:
        edit_weights(folder, **changes)
        message = refused(folder)
        assert "model.safetensors" in message
        assert named in message

    def test_a_float64_weight_in_range_is_taken(self, folder: Path) -> None:
        edit_weights(folder, **{WEIGHT: torch.full((1, 2, 3, 3), 0.5, dtype=torch.float64)})
        assert torch.equal(DepthHead.from_pretrained(folder).state_dict()[WEIGHT], torch.full((1, 2, 3, 3), 0.5))

    def test_a_truncated_file_at_any_length(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        whole = path.read_bytes()
        lengths = {0, 1, 7, 8, 9, 100, *range(0, len(whole), len(whole) // 60), len(whole) - 1}
        for length in sorted(lengths):
            path.write_bytes(whole[:length])
            assert "model.safetensors" in refused(folder), length
        path.write_bytes(whole + b"\0")
        assert "model.safetensors" in refused(folder)

    @pytest.mark.parametrize(
        "content",
        [
            b"not a head at all",
            b"\x80\x04.",  # a pickle
            struct.pack("<Q", 2**63) + b"{}",
            struct.pack("<Q", 2) + b"[]",
            struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[99999999],"data_offsets":[0,4]}}',
        ],
    )
    def test_what_is_no_safetensors_file(self, folder: Path, content: bytes) -> None:
        (folder / "model.safetensors").write_bytes(content)
        assert "model.safetensors" in refused(folder)


class TestFolders:
    @pytest.mark.parametrize("name", ["absent", "file", "x" * 5000, "nul\0", "org/name"])
    def test_no_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("{}")
        with pytest.raises(CheckpointError, match=r"no head at .*expected a folder with config\.json and model"):
            DepthHead.from_pretrained(tmp_path / name)

    @pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
    @pytest.mark.parametrize("instead", [None, "a folder"])
    def test_a_file_missing(self, folder: Path, missing: str, instead: str | None) -> None:
        (folder / missing).unlink()
        if instead:
            (folder / missing).mkdir()
        assert f"{missing} is missing" in refused(folder)


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def limited(kind: str, limit: int) -> Iterator[None]:
    """A resource limit of this process while the block runs."""
    import resource

    number = getattr(resource, kind)
    before = resource.getrlimit(number)
    resource.setrlimit(number, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(number, before)
