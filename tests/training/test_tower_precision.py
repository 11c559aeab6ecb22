"""A tower in bfloat16 makes other features, under another key, only where it was asked to and for training alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import PROTOCOL, RESUMED, cached, scenes, settings, tiny_head, tiny_host, tiny_mixer
from torch import nn

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.features import FeatureSettings
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.tower_precision import check_tower_precision

CPU = torch.device("cpu")
TELLING = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


@pytest.fixture
def fast_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any CPU counts as one that computes in bfloat16: what it makes of it does not depend on that."""
    monkeypatch.setattr(torch.cpu, TELLING[1], lambda: True, raising=False)


class TestFeatures:
    def test_they_are_near_the_towers_own_but_not_equal(self, tmp_path: Path) -> None:
        host, samples = tiny_host().eval(), scenes(5)
        before = module_digest(host)
        with attach_depth_head(host, tiny_mixer(host)) as attachment:
            read = {}
            for precision in ("own", "bf16"):
                kept = cached(attachment, samples, tmp_path / precision, tower_precision=precision)
                read[precision] = kept.decode(kept.load([4, 0, 2], [0, 1, 1]), CPU)
        for tap, own in read["own"].features.hidden.items():
            other = read["bf16"].features.hidden[tap]
            assert other.dtype == torch.float32
            assert 1e-4 < float((other - own).norm() / own.norm()) < 2e-2
        assert torch.equal(read["own"].features.pixels, read["bf16"].features.pixels)
        assert torch.equal(read["own"].target_m, read["bf16"].target_m)
        assert module_digest(host) == before
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32  # it ended with the caching

    def test_live_ones_are_those_of_the_cache(self, tmp_path: Path) -> None:
        host, samples = tiny_host().eval(), scenes(4)
        with attach_depth_head(host, tiny_head(host)) as attachment:
            kept = cached(attachment, samples, tmp_path, tower_precision="bf16")
            live = LiveFeatures(attachment, samples, settings=settings(tower_precision="bf16"))
            own = LiveFeatures(attachment, samples, settings=settings())
            read, made, exact = (one.decode(one.load([1], [0]), CPU).features.hidden[2] for one in (kept, live, own))
        assert (read - made).norm() < 0.2 * (read - exact).norm()


class TestRuns:
    @pytest.mark.usefixtures("fast_cpu")
    @pytest.mark.parametrize("cache", ["fp16", "none"])
    def test_validation_keeps_the_towers_own(self, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        used: set[tuple[bool, str]] = set()
        arithmetic = FeatureSettings.arithmetic

        def noting(self: FeatureSettings, device: torch.device) -> Any:
            used.add((self.targets, self.tower_precision))
            return arithmetic(self, device)

        monkeypatch.setattr(FeatureSettings, "arithmetic", noting)
        host = tiny_host()
        recipe = dataclasses.replace(RESUMED, epochs=1, cache=cache, tower_precision="bf16")
        trainer = DepthTrainer(host, tiny_mixer(host), recipe=recipe, protocol=PROTOCOL)
        options = RunOptions(progress=False)
        trainer.fit(scenes(6), scenes(2, seed=1), tmp_path / "run", trained_on="x", options=options)
        assert used == {(True, "bf16"), (False, "own")}
        assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["tower_precision"] == "bf16"

    def test_one_that_is_only_emulated_is_refused_before_a_folder_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in TELLING:
            monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
        host = tiny_host()
        recipe = dataclasses.replace(RESUMED, tower_precision="bf16")
        with pytest.raises(ConfigError, match=r"needs a CPU with AMX or AVX512-BF16.* this cpu only emulates it"):
            DepthTrainer(host, tiny_mixer(host), recipe=recipe, protocol=PROTOCOL)


class TestWhichDevices:
    @pytest.mark.parametrize("name", TELLING)
    def test_either_unit_of_a_cpu_will_do(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for one in TELLING:
            monkeypatch.setattr(torch.cpu, one, lambda has=one == name: has, raising=False)
        check_tower_precision("bf16", tiny_host())

    def test_a_torch_that_cannot_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in TELLING:
            monkeypatch.delattr(torch.cpu, name, raising=False)
        check_tower_precision("own", tiny_host())
        with pytest.raises(ConfigError, match="leave it out"):
            check_tower_precision("bf16", tiny_host())

    @pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
    def test_gpus_from_ampere_on(
        self, capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        on_gpu = [SimpleWeight("cuda:0")]
        monkeypatch.setattr(nn.Module, "parameters", lambda _: iter(on_gpu))
        if refused:
            with pytest.raises(ConfigError, match="this cuda only emulates it"):
                check_tower_precision("bf16", nn.Identity())
        else:
            check_tower_precision("bf16", nn.Identity())

    @pytest.mark.usefixtures("fast_cpu")
    @pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16])
    def test_a_tower_of_half_precision_has_its_own(self, cast: Callable[[nn.Module], nn.Module]) -> None:
        check_tower_precision("own", cast(tiny_host()))
        with pytest.raises(ConfigError, match=r"this one computes in torch\.b?float16 by itself; leave it out"):
            check_tower_precision("bf16", cast(tiny_host()))


class SimpleWeight:
    """Stands in for a float32 parameter on a device that is not here."""

    dtype = torch.float32

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def is_floating_point(self) -> bool:
        return True
