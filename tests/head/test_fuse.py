"""`DepthHead.fuse` for every architecture: the same output, and a head like any other but for training."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fresh_heads import fresh_head
from hypothesis import given, settings
from hypothesis import strategies as st
from lively_heads import assert_same_output, features, lively, lively_head
from packaging.version import Version
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthHeadConfig, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.head.architectures import ARCHITECTURES, Architecture
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.towers.spec import TowerFeatures

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def given_in(output: HeadOutput) -> list[Tensor]:
    """Everything a fused head predicts."""
    return [output.depth_m, *([] if output.uncertainty_m is None else [output.uncertainty_m])]


class TestSameOutput:
    @every_architecture
    def test_a_small_head_on_any_grid(self, name: str) -> None:
        head = lively_head(name)
        fused = head.fuse()
        for grid_hw in ((1, 1), (2, 3), (5, 2)):
            for output_hw in (None, (1, 1), (33, 17)):
                assert_same_output(fused, head, output_hw, grid_hw=grid_hw)

    @settings(deadline=None, max_examples=40)
    @given(
        taps=st.sets(st.integers(0, 6), min_size=1, max_size=4),
        channels=st.lists(st.integers(2, 16), min_size=1, max_size=3),
        attention=st.integers(0, 2),
        blocks=st.integers(0, 2),
        uncertainty=st.booleans(),
        tap_widths=st.none() | st.lists(st.integers(2, 30), min_size=4, max_size=4),
        sides=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=4, max_size=4),
        batch=st.integers(1, 3),
        output_hw=st.none() | st.tuples(st.integers(4, 40), st.integers(4, 40)),
        seed=st.integers(0, 99),
    )
    def test_any_tap_mixer_tower_grids_batch_and_output(
        self,
        taps: set[int],
        channels: list[int],
        attention: int,
        blocks: int,
        uncertainty: bool,
        tap_widths: list[int] | None,
        sides: list[tuple[int, int]],
        batch: int,
        output_hw: tuple[int, int] | None,
        seed: int,
    ) -> None:
        head = lively_head(
            "tap-mixer",
            seed=seed,
            taps=sorted(taps),
            channels=[48 if attention else channels[0], *channels[1:]],
            attention=attention,
            convolutions=[blocks] * len(channels),
            uncertainty=uncertainty,
            tap_widths=None if tap_widths is None else tuple(tap_widths[: len(taps)]),
        ).double()  # a norm over two channels magnifies the rounding of float32
        several = tap_widths is not None and len(set(tap_widths[: len(taps)])) > 1
        grids = {tap: sides[i if several else 0] for i, tap in enumerate(sorted(taps))}
        assert_same_output(head.fuse(), head, output_hw, batch=batch, grid_hw=sides[0], grids=grids)

    @every_architecture
    def test_the_default_size(self, name: str) -> None:
        head = lively(DepthHead(DepthHeadConfig(name)))
        assert_same_output(head.fuse(), head, batch=1, grid_hw=(6, 5))

    @every_architecture
    def test_padding(self, name: str) -> None:
        head = lively_head(name)
        valid = torch.zeros(2, 4, 5, dtype=torch.bool)
        valid[0, :2, :3] = valid[1] = True
        marked = dataclasses.replace(features(head, 1, grid_hw=(4, 5)), valid=valid)
        with torch.no_grad():
            for got, expected in zip(given_in(head.fuse()(marked)), given_in(head(marked)), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    @every_architecture
    def test_maps_in_the_other_memory_order(self, name: str) -> None:
        head = lively_head(name)
        fused, tokens_last = head.fuse(), features(head, 1)
        maps = {tap: value.contiguous() for tap, value in tokens_last.hidden.items()}
        tokens_first = dataclasses.replace(tokens_last, hidden=maps)
        torch.testing.assert_close(given_in(fused(tokens_first)), given_in(fused(tokens_last)))

    @every_architecture
    def test_a_head_in_train_mode_gives_its_eval_form(self, name: str) -> None:
        head = lively_head(name, dropout=0.9)
        fused = head.train().fuse()
        assert_same_output(fused, head.eval())

    @every_architecture
    def test_float64_shows_that_the_algebra_is_exact(self, name: str) -> None:
        head = lively_head(name, tap_widths=(3, 4, 5, 6)).double()
        given_features = features(head, 1, grids={0: (3, 5), 1: (3, 7)})  # resized by what no low precision holds
        with torch.no_grad():
            got, expected = given_in(head.fuse()(given_features)), given_in(head(given_features))
        assert {values.dtype for values in got} == {torch.float64}
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)

    @every_architecture
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_weights_are_combined_in_float64(self, dtype: torch.dtype, name: str) -> None:
        head = lively_head(name).to(dtype)
        assert module_digest(head.fuse()) == module_digest(copy.deepcopy(head).double().fuse().to(dtype))

    @every_architecture
    def test_bf16_fused_before_or_after_the_cast(self, name: str) -> None:
        head = lively_head(name, channels=(48, 8))
        low = copy.deepcopy(head).to(torch.bfloat16)
        given_features = features(head, 1)
        with torch.no_grad():
            full, plain_low = head(given_features).depth_m, low(given_features).depth_m.float()
            for fused in (head.fuse().to(torch.bfloat16), low.fuse()):
                depth = fused(given_features).depth_m
                assert depth.dtype == torch.bfloat16
                rounding = (plain_low - full).abs().max()
                assert (depth.float() - full).abs().max() < 3 * rounding


@every_architecture
class TestTheOriginal:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("training", [False, True])
    def test_it_is_not_touched(self, training: bool, dtype: torch.dtype, name: str) -> None:
        head = lively_head(name).train(training).to(dtype)
        next(head.decoder.children()).eval()
        before = module_digest(head), [module.training for module in head.modules()], torch.get_rng_state()
        wanted = [parameter.requires_grad for parameter in head.parameters()]
        fused = head.fuse()
        fused(features(head, 1))
        with torch.no_grad():
            for parameter in fused.parameters():
                parameter.zero_()
        assert (module_digest(head), [module.training for module in head.modules()]) == before[:2]
        assert torch.equal(torch.get_rng_state(), before[2])
        assert [parameter.requires_grad for parameter in head.parameters()] == wanted

    def test_it_does_not_reach_the_fused_head_any_more(self, name: str) -> None:
        head = lively_head(name)
        kept, fused = copy.deepcopy(head), head.fuse()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.zero_()
        assert_same_output(fused, kept)


@every_architecture
class TestAHeadLikeAnyOther:
    def test_what_it_says_of_itself(self, name: str) -> None:
        head = lively_head(name)
        fused = head.fuse()
        assert isinstance(fused, DepthHead)
        assert (fused.fused, head.fused) == (True, False)
        assert (fused.config, fused.taps, fused.uses_context) == (head.config, head.taps, head.uses_context)
        assert not any(module.training for module in fused.modules())
        assert not any(parameter.requires_grad for parameter in fused.parameters())
        assert not any(isinstance(module, (nn.BatchNorm2d, nn.Dropout)) for module in fused.modules())

    def test_it_keeps_no_graph(self, name: str) -> None:
        head = lively_head(name)
        given_features = features(head, 1)
        for value in given_features.hidden.values():
            value.requires_grad_()
        assert not any(values.requires_grad for values in given_in(head.fuse()(given_features)))

    def test_it_computes_in_its_own_precision_under_autocast(self, name: str) -> None:
        head = lively_head(name)
        fused, given_features = head.fuse(), features(head, 1)
        expected = given_in(fused(given_features))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert all(map(torch.equal, given_in(fused(given_features)), expected))

    def test_a_head_fused_in_inference_mode_serves_outside(self, name: str) -> None:
        head = lively_head(name)
        with torch.inference_mode():
            fused = head.fuse()
        assert not any(parameter.is_inference() for parameter in fused.parameters())
        assert_same_output(fused, head)

    @pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
    def test_copies(self, way: str, name: str) -> None:
        head = lively_head(name)
        fused = head.fuse()
        if way == "deepcopy":
            other = copy.deepcopy(fused)
        elif way == "pickle":
            other = pickle.loads(pickle.dumps(fused))
        else:
            file = io.BytesIO()
            torch.save(fused.state_dict(), file)
            file.seek(0)
            other = lively_head(name, seed=5).fuse()
            other.load_state_dict(torch.load(file))
        assert other.fused
        assert module_digest(other) == module_digest(fused)
        assert_same_output(other, head)

    @pytest.mark.slow
    @pytest.mark.skipif(
        Version(torch.__version__) < Version("2.6"),
        reason="the compiler of torch 2.2 cannot resize a line to a size that it keeps as a symbol",
    )
    def test_compiled(self, name: str) -> None:
        head = lively_head(name)
        assert_same_output(torch.compile(head.fuse(), backend="aot_eager"), head)

    def test_on_a_live_host(self, name: str) -> None:
        config = transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
        )
        host = transformers.CLIPVisionModel(config).eval()
        options: dict[str, Any] = {"space-clip": {"channels": (12, 8, 6, 4)}, "tap-mixer": {"channels": (48, 8)}}
        head = lively(fresh_head(host, architecture=name, trained_on="a room", **options[name]))
        pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        frames = []
        for each in (head, head.fuse()):
            with attach_depth_head(host, each) as depth, torch.no_grad():
                host(pixels)
                frames += depth.read((28, 28))
        assert frames[1].trained
        assert (frames[1].depth_m - frames[0].depth_m).abs().max() <= 1e-4 * frames[0].depth_m.std()

    def test_features_it_cannot_read_are_refused(self, name: str) -> None:
        head = lively_head(name)
        with pytest.raises(CaptureError, match="reads hidden state 0"):
            head.fuse()(TowerFeatures({}, None, (32, 48)))


class TestRefusals:
    @every_architecture
    def test_auxiliary_outputs(self, name: str) -> None:
        head = lively_head(name)
        with pytest.raises(ConfigError, match="no auxiliary outputs; ask the head it was made from"):
            head.fuse()(features(head, 1), auxiliary=True)

    @every_architecture
    def test_training(self, name: str) -> None:
        fused = lively_head(name).fuse()
        for train in (fused.train, lambda: nn.Sequential(fused).train()):
            with pytest.raises(ConfigError, match="cannot be trained; train the head it was made from"):
                train()
        assert not fused.training
        assert fused.eval() is fused

    @every_architecture
    def test_saving(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match="save the unfused head it was made from"):
            lively_head(name).fuse().save_pretrained(tmp_path / "head")
        assert list(tmp_path.iterdir()) == []

    @every_architecture
    def test_fusing_twice(self, name: str) -> None:
        fused = lively_head(name).fuse()
        with pytest.raises(ConfigError, match="fused already"):
            fused.fuse()

    @every_architecture
    def test_pushing(self, name: str) -> None:
        with pytest.raises(ConfigError, match="save the unfused head it was made from"):
            lively_head(name).fuse().push_to_hub("org/name")

    @every_architecture
    def test_an_architecture_without_a_fused_form(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        head = lively_head(name)
        known = ARCHITECTURES[name]
        monkeypatch.setitem(ARCHITECTURES, name, Architecture(known.options, known.decoder))
        with pytest.raises(ConfigError, match=f"'{name}' has no fused form; use the head as it is"):
            head.fuse()


def test_any_architecture_plugs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fast(nn.Module):
        def __init__(self, decoder: nn.Module) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> Tensor:
            return self.weight

    head = lively_head()
    name = head.config.architecture
    monkeypatch.setitem(ARCHITECTURES, name, dataclasses.replace(ARCHITECTURES[name], fused=Fast))
    fused = head.fuse()
    assert fused(features(head, 1)).item() == 1
    assert fused.decoder.weight.dtype == torch.float32
    assert not fused.decoder.weight.requires_grad
