"""`DepthHead` as a module: every shape it may have, what it refuses, and where its gradients go."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import CaptureError, ConfigError, HeadMismatchError, HostError
from spaceclip_plugin.head.space_clip import SpaceClipOptions
from spaceclip_plugin.registry import choose_tower
from spaceclip_plugin.tower import TowerFeatures, TowerSpec

WIDTH = 8
SPEC = TowerSpec(
    adapter="test",
    path="vision",
    width=WIDTH,
    blocks=6,
    patch_size=16,
    image_hw=(32, 48),
    context="cls",
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
)


def small_head(*, seed: int = 0, width: int = WIDTH, **options: Any) -> DepthHead:
    chosen = {"channels": (6, 4), "semantic_taps": (5, 3), "structural_taps": (1, 0), "film_hidden": 7, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DepthHead(DepthHeadConfig(width=width, blocks=6, options=SpaceClipOptions(**chosen))).eval()


def features(
    head: DepthHead, *, batch: int = 2, grid_hw: tuple[int, int] = (2, 3), dtype: torch.dtype = torch.float32
) -> TowerFeatures:
    """Random features for a head, the same at every call."""
    random = torch.Generator().manual_seed(1)
    width = head.config.width
    hidden = {tap: torch.randn(batch, width, *grid_hw, generator=random).to(dtype) for tap in head.taps}
    context = torch.randn(batch, width, generator=random).to(dtype) if head.uses_context else None
    return TowerFeatures(hidden, context, (16 * grid_hw[0], 16 * grid_hw[1]))


def changed(full: TowerFeatures, tap: int, value: Tensor) -> TowerFeatures:
    return dataclasses.replace(full, hidden={**full.hidden, tap: value})


def tiny_clip() -> nn.Module:
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14
    )
    return transformers.CLIPVisionModel(config).eval()


class TestShapes:
    def test_the_defaults_are_the_published_model(self) -> None:
        head = DepthHead(DepthHeadConfig())
        assert sum(parameter.numel() for parameter in head.parameters()) == 12_050_996  # SPACECLIP.md, C = 768
        assert not head.trained
        with torch.no_grad():
            assert head.eval()(features(head, batch=1)).depth_m.shape == (1, 32, 48)

    @pytest.mark.parametrize("film_hidden", [None, 3])
    @pytest.mark.parametrize(
        ("stages", "structural"), [(stages, taps) for stages in range(1, 7) for taps in range(stages + 1)]
    )
    def test_any_number_of_stages_and_structural_taps(
        self, stages: int, structural: int, film_hidden: int | None
    ) -> None:
        head = small_head(
            width=5,
            channels=tuple(range(stages + 1, 1, -1)),
            semantic_taps=tuple(range(stages, 0, -1)),
            structural_taps=tuple(range(structural)),
            film_hidden=film_hidden,
        )
        assert head.uses_context == (film_hidden is not None)
        with torch.no_grad():
            output = head(features(head, batch=1, grid_hw=(1, 2)), (7, 9), auxiliary=True)
        assert output.depth_m.shape == (1, 7, 9)
        assert [depth.shape for depth in output.auxiliary_m] == [(1, 7, 9)] * (stages - 1)
        assert all(depth.isfinite().all() for depth in (output.depth_m, *output.auxiliary_m))

    @settings(deadline=None, max_examples=25)
    @given(
        width=st.integers(1, 40),
        taps=st.lists(st.integers(0, 6), min_size=2, max_size=4),
        channels=st.tuples(st.integers(2, 20), st.integers(2, 20)),
        grid_hw=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        batch=st.integers(1, 3),
        output_hw=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    )
    def test_any_width_taps_grid_batch_and_output(
        self,
        width: int,
        taps: list[int],
        channels: tuple[int, int],
        grid_hw: tuple[int, int],
        batch: int,
        output_hw: tuple[int, int] | None,
    ) -> None:
        head = small_head(width=width, semantic_taps=taps[:2], structural_taps=taps[2:], channels=channels)
        given_features = features(head, batch=batch, grid_hw=grid_hw)
        with torch.no_grad():
            depth = head(given_features, output_hw).depth_m
        assert depth.shape == (batch, *(output_hw or given_features.image_hw))
        assert depth.isfinite().all()
        assert (depth >= 0).all()

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("grid_hw", [(1, 1), (1, 3), (3, 1), (2, 5)])
    @pytest.mark.parametrize("output_hw", [(1, 1), (1, 5), (33, 17)])
    def test_odd_grids_and_outputs(self, grid_hw: tuple[int, int], output_hw: tuple[int, int], training: bool) -> None:
        head = small_head().train(training)
        output = head(features(head, batch=1, grid_hw=grid_hw), output_hw, auxiliary=True)
        assert [depth.shape for depth in (output.depth_m, *output.auxiliary_m)] == [(1, *output_hw)] * 2

    def test_rows_stay_rows(self) -> None:
        head = small_head()
        wide = features(head, grid_hw=(2, 3))
        tall = dataclasses.replace(wide, hidden={tap: value.mT for tap, value in wide.hidden.items()})
        for module in head.modules():  # with symmetric kernels the network commutes with a transposition
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.weight.data = (module.weight.data + module.weight.data.mT) / 2
        with torch.no_grad():
            torch.testing.assert_close(head(tall, (8, 5)).depth_m, head(wide, (5, 8)).depth_m.mT)

    def test_images_of_a_batch_do_not_mix(self) -> None:
        head = small_head()
        together = features(head, batch=3)
        alone = TowerFeatures(
            {tap: value[1:2] for tap, value in together.hidden.items()}, together.context[1:2], together.image_hw
        )
        with torch.no_grad():
            torch.testing.assert_close(head(alone).depth_m, head(together).depth_m[1:2])

    def test_padding_marks_pass_without_effect(self) -> None:
        head = small_head()
        plain = features(head)
        with torch.no_grad():
            marked = head(dataclasses.replace(plain, valid=torch.zeros(2, 2, 3, dtype=torch.bool))).depth_m
            assert torch.equal(marked, head(plain).depth_m)


class TestRefusals:
    def test_an_empty_batch(self) -> None:
        head = small_head()
        with pytest.raises(CaptureError, match=r"non-empty map \(B, 8, h, w\), got shape \(0, 8, 2, 3\)"):
            head(features(head, batch=0))

    @pytest.mark.parametrize("shape", [(2, 9, 2, 3), (2, 8, 6), (2, 8, 0, 3)])
    def test_a_map_of_another_shape(self, shape: tuple[int, ...]) -> None:
        head = small_head()
        with pytest.raises(CaptureError, match=r"hidden state 3 must be a non-empty map \(B, 8, h, w\), got shape"):
            head(changed(features(head), 3, torch.zeros(shape)))

    @pytest.mark.parametrize("shape", [(1, 8, 2, 3), (2, 8, 4, 6)])
    def test_maps_that_disagree(self, shape: tuple[int, ...]) -> None:
        head = small_head()
        with pytest.raises(CaptureError, match=r"hidden state 5 has shape .* hidden state 0 has \(2, 8, 2, 3\)"):
            head(changed(features(head), 5, torch.zeros(shape)))

    def test_a_missing_tap(self) -> None:
        head = small_head()
        full = features(head)
        lacking = dataclasses.replace(full, hidden={tap: full.hidden[tap] for tap in (0, 1, 5)})
        with pytest.raises(CaptureError, match=r"reads hidden state 3, the features hold \[0, 1, 5\]"):
            head(lacking)

    def test_a_missing_context(self) -> None:
        head = small_head()
        with pytest.raises(CaptureError, match=r"reads the tower's context \(FiLM\), but the features hold none"):
            head(dataclasses.replace(features(head), context=None))

    @pytest.mark.parametrize("shape", [(1, 8), (3, 8), (2, 9), (16,), (2, 8, 1)])
    def test_a_context_of_another_shape(self, shape: tuple[int, ...]) -> None:
        head = small_head()
        with pytest.raises(CaptureError, match=r"context must have shape \(2, 8\), one vector per image, got"):
            head(dataclasses.replace(features(head), context=torch.zeros(shape)))

    def test_a_head_without_film_asks_for_no_context(self) -> None:
        head = small_head(film_hidden=None)
        with torch.no_grad():
            without = head(features(head)).depth_m
            ignored = head(dataclasses.replace(features(head), context=torch.zeros(5, 5))).depth_m
        assert torch.equal(without, ignored)

    @pytest.mark.parametrize(
        "size", [64, (64,), (0, 8), (8, -1), (8, 16385), (8.0, 8), (True, 8), "88", (8, 8, 8), torch.ones(2)]
    )
    def test_an_impossible_output_size(self, size: Any) -> None:
        head = small_head()
        with pytest.raises(ConfigError, match=r"output_size must be \(height, width\) in pixels, each from 1 to 16384"):
            head(features(head), size)

    def test_a_tower_it_does_not_fit(self) -> None:
        head = DepthHead.for_tower(SPEC, base_model="timm:vit")
        head.check_fits(SPEC)
        with pytest.raises(HeadMismatchError, match=r"made for timm:vit.* width 8, the tower's have 9") as caught:
            head.check_fits(dataclasses.replace(SPEC, width=9, context="mean"))
        assert "'cls' context, the tower gives 'mean'" in str(caught.value)
        assert "tower at 'vision'" in str(caught.value)


class TestForTower:
    def test_a_spec_a_tower_and_a_host_give_one_head(self) -> None:
        host = tiny_clip()
        tower = choose_tower(host)
        configs = [DepthHead.for_tower(source).config for source in (host, tower, tower.spec)]
        assert configs[0] == configs[1] == configs[2]
        assert (configs[0].width, configs[0].blocks, configs[0].context) == (16, 4, "cls")
        assert configs[0].options.semantic_taps == (4, 3, 2, 1)

    def test_overrides_and_architecture(self) -> None:
        head = DepthHead.for_tower(SPEC, architecture="space-clip", trained_on="a room", channels=(8, 6, 4, 2))
        assert head.trained
        assert head.config.options.channels == (8, 6, 4, 2)
        with pytest.raises(ConfigError, match="did you mean 'film_hidden'"):
            DepthHead.for_tower(SPEC, film_hiden=3)
        with pytest.raises(ConfigError, match="unknown head architecture 'dpt'"):
            DepthHead.for_tower(SPEC, architecture="dpt")

    @pytest.mark.parametrize("source", ["a folder", None, 3])
    def test_what_is_no_tower_is_refused(self, source: Any) -> None:
        with pytest.raises(HostError, match=r"must be a torch\.nn\.Module, got"):
            DepthHead.for_tower(source)

    def test_a_host_without_a_tower_is_refused(self) -> None:
        with pytest.raises(HostError, match="no vision tower"):
            DepthHead.for_tower(nn.Linear(2, 2))


class TestAuxiliaryHeads:
    @pytest.mark.parametrize("training", [False, True])
    def test_they_run_only_when_asked(self, training: bool) -> None:
        head = small_head().train(training)
        calls: list[nn.Module] = []
        for auxiliary in head.decoder.auxiliary:
            auxiliary.register_forward_hook(lambda module, _args, _output: calls.append(module))
        assert head(features(head)).auxiliary_m == ()
        assert calls == []
        assert len(head(features(head), auxiliary=True).auxiliary_m) == 1
        assert calls == list(head.decoder.auxiliary)

    def test_they_do_not_touch_the_depth(self) -> None:
        head = small_head()
        with torch.no_grad():
            assert torch.equal(head(features(head)).depth_m, head(features(head), auxiliary=True).depth_m)

    def test_a_head_may_have_none(self) -> None:
        head = small_head(auxiliary=False)
        assert not any(name.startswith("decoder.auxiliary") for name in head.state_dict())
        assert head(features(head), auxiliary=True).auxiliary_m == ()


class TestAFreshHead:
    # With the usual bias around zero about a third of these start with no positive depth at all.
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("seed", range(12))
    def test_its_depth_is_alive(self, seed: int, training: bool) -> None:
        head = small_head(seed=seed, channels=(16, 8)).train(training)
        output = head(features(head), auxiliary=True)
        for depth in (output.depth_m, *output.auxiliary_m):
            assert (depth > 0).float().mean() > 0.5

    @pytest.mark.parametrize("auxiliary", [False, True])
    @pytest.mark.parametrize("film_hidden", [None, 16])
    @pytest.mark.parametrize("structural_taps", [(), (0,), (1, 0)])
    def test_gradients_reach_every_parameter_its_output_depends_on(
        self, structural_taps: tuple[int, ...], film_hidden: int | None, auxiliary: bool
    ) -> None:
        head = small_head(channels=(16, 8), structural_taps=structural_taps, film_hidden=film_hidden).train()
        output = head(features(head), auxiliary=auxiliary)
        sum(depth.square().sum() for depth in (output.depth_m, *output.auxiliary_m)).backward()
        for name, parameter in head.named_parameters():
            if auxiliary or not name.startswith("decoder.auxiliary."):
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name
            else:
                assert parameter.grad is None, name

    def test_every_feature_matters(self) -> None:
        head = small_head(channels=(16, 8))
        full = features(head)
        inputs = [*full.hidden.values(), full.context]
        for value in inputs:
            value.requires_grad_()
        head(full).depth_m.sum().backward()
        assert all(value.grad.abs().sum() > 0 for value in inputs)


class TestPrecision:
    def test_eval_is_deterministic(self) -> None:
        head = small_head(dropout=0.9)
        before = {name: value.clone() for name, value in head.state_dict().items()}
        with torch.no_grad():
            assert torch.equal(head(features(head)).depth_m, head(features(head)).depth_m)
        assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())

    def test_dropout_acts_in_training(self) -> None:
        head = small_head(channels=(16, 8), dropout=0.9).train()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            assert not torch.equal(head(features(head)).depth_m, head(features(head)).depth_m)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_features_are_cast_to_the_head(self, dtype: torch.dtype) -> None:
        head = small_head()
        low = features(head, dtype=dtype)
        cast = TowerFeatures(
            {tap: value.float() for tap, value in low.hidden.items()}, low.context.float(), low.image_hw
        )
        with torch.no_grad():
            depth = head(low).depth_m
            assert depth.dtype == torch.float32
            assert torch.equal(depth, head(cast).depth_m)

    def test_a_bf16_head_agrees_with_itself_in_float32(self) -> None:
        head = small_head(channels=(16, 8))
        with torch.no_grad():
            full = head(features(head)).depth_m
            half = head.to(torch.bfloat16)(features(head)).depth_m
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), full, rtol=0.03, atol=0.03)
