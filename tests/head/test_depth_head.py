"""`DepthHead` as a module: every shape it may have, what it refuses, and where its gradients go."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import CaptureError, ConfigError, HeadMismatchError
from spaceclip_plugin.head.architectures import ARCHITECTURES
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.towers.spec import TowerFeatures, TowerSpec

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


SMALL: dict[str, dict[str, Any]] = {  # hidden states 0, 1, 3 and 5
    "space-clip": {"channels": (6, 4), "semantic_taps": (5, 3), "structural_taps": (1, 0), "film_hidden": 7},
    "tap-mixer": {"channels": (48, 8), "taps": (0, 1, 3, 5), "convolutions": (1, 1), "attention": 1, "pixels": 4},
}
ROOMY = {"space-clip": (16, 8), "tap-mixer": (48, 8)}
"""Channels enough that no ReLU closes a stage."""

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def small_head(name: str = "space-clip", /, *, seed: int = 0, width: int = WIDTH, **options: Any) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DepthHead(DepthHeadConfig(name, {**SMALL[name], **options}, width, blocks=6)).eval()


def given_in(output: HeadOutput) -> list[Tensor]:
    """Everything a head predicts."""
    uncertainty = [] if output.uncertainty_m is None else [output.uncertainty_m]
    return [output.depth_m, *output.auxiliary_m, *uncertainty]


def features(
    head: DepthHead, *, batch: int = 2, grid_hw: tuple[int, int] = (2, 3), dtype: torch.dtype = torch.float32
) -> TowerFeatures:
    """Random features for a head, the same at every call."""
    random = torch.Generator().manual_seed(1)
    width = head.config.width
    hidden = {tap: torch.randn(batch, width, *grid_hw, generator=random).to(dtype) for tap in head.taps}
    context = torch.randn(batch, width, generator=random).to(dtype) if head.uses_context else None
    image_hw = (16 * grid_hw[0], 16 * grid_hw[1])
    pixels = torch.randn(batch, 3, *image_hw, generator=random).to(dtype) if head.uses_pixels else None
    return TowerFeatures(hidden, context, image_hw, pixels=pixels)


def changed(full: TowerFeatures, tap: int, value: Tensor) -> TowerFeatures:
    return dataclasses.replace(full, hidden={**full.hidden, tap: value})


@st.composite
def heads(draw: st.DrawFn) -> DepthHead:
    channels = (draw(st.integers(2, 20)), draw(st.integers(2, 20)))
    taps = draw(st.lists(st.integers(0, 6), min_size=2, max_size=4))
    attention = draw(st.integers(0, 1))
    options: dict[str, dict[str, Any]] = {
        "space-clip": {"semantic_taps": taps[:2], "structural_taps": taps[2:], "channels": channels},
        "tap-mixer": {
            "taps": sorted(set(taps)),
            "channels": (48, channels[1]) if attention else channels,
            "attention": attention,
            "uncertainty": draw(st.booleans()),
            "pixels": draw(st.integers(0, 8)),
        },
    }
    name = draw(st.sampled_from(sorted(ARCHITECTURES)))
    return small_head(name, width=draw(st.integers(1, 40)), **options[name])


class TestShapes:
    def test_the_published_model(self) -> None:
        head = DepthHead(DepthHeadConfig("space-clip"))
        assert sum(parameter.numel() for parameter in head.parameters()) == 12_050_996  # SPACECLIP.md, C = 768

    @every_architecture
    def test_the_defaults(self, name: str) -> None:
        head = DepthHead(DepthHeadConfig(name))
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

    @settings(deadline=None, max_examples=50)
    @given(
        head=heads(),
        grid_hw=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        batch=st.integers(1, 3),
        output_hw=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    )
    def test_any_head_grid_batch_and_output(
        self, head: DepthHead, grid_hw: tuple[int, int], batch: int, output_hw: tuple[int, int] | None
    ) -> None:
        given_features = features(head, batch=batch, grid_hw=grid_hw)
        with torch.no_grad():
            output = head(given_features, output_hw)
        for values in given_in(output):
            assert values.shape == (batch, *(output_hw or given_features.image_hw))
            assert values.isfinite().all()
            assert (values >= 0).all()

    @every_architecture
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("grid_hw", [(1, 1), (1, 3), (3, 1), (2, 5)])
    @pytest.mark.parametrize("output_hw", [(1, 1), (1, 5), (33, 17)])
    def test_odd_grids_and_outputs(
        self, grid_hw: tuple[int, int], output_hw: tuple[int, int], training: bool, name: str
    ) -> None:
        head = small_head(name).train(training)
        output = head(features(head, batch=1, grid_hw=grid_hw), output_hw, auxiliary=True)
        # Auxiliary depth of one architecture, uncertainty of the other.
        assert [values.shape for values in given_in(output)] == [(1, *output_hw)] * 2

    @pytest.mark.parametrize(
        ("name", "options"), [("space-clip", {}), ("tap-mixer", {"attention": 0, "convolutions": (0, 0)})]
    )
    def test_a_patch_is_felt_where_it_lies(self, name: str, options: dict[str, Any]) -> None:
        head = small_head(name, **options)
        plain = features(head, batch=1, grid_hw=(4, 6))
        for row, column in ((0, 4), (3, 1), (2, 5)):
            sign = torch.ones(4, 6)
            sign[row, column] = -1
            moved = {tap: sign * value for tap, value in plain.hidden.items()}
            with torch.no_grad():
                change = head(dataclasses.replace(plain, hidden=moved)).depth_m - head(plain).depth_m
            felt = nn.functional.avg_pool2d(change.abs(), 16)[0]
            assert divmod(int(felt.argmax()), 6) == (row, column)

    def test_rows_stay_rows(self) -> None:
        head = small_head()
        wide = features(head, grid_hw=(2, 3))
        tall = dataclasses.replace(wide, hidden={tap: value.mT for tap, value in wide.hidden.items()})
        for module in head.modules():  # with symmetric kernels the network commutes with a transposition
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.weight.data = (module.weight.data + module.weight.data.mT) / 2
        with torch.no_grad():
            torch.testing.assert_close(head(tall, (8, 5)).depth_m, head(wide, (5, 8)).depth_m.mT)

    @every_architecture
    def test_images_of_a_batch_do_not_mix(self, name: str) -> None:
        head = small_head(name)
        together = features(head, batch=3)
        alone = TowerFeatures(
            {tap: value[1:2] for tap, value in together.hidden.items()},
            None if together.context is None else together.context[1:2],
            together.image_hw,
            pixels=None if together.pixels is None else together.pixels[1:2],
        )
        with torch.no_grad():
            for one, all_three in zip(given_in(head(alone)), given_in(head(together)), strict=True):
                torch.testing.assert_close(one, all_three[1:2])

    def test_padding_marks_pass_the_published_decoder_without_effect(self) -> None:
        head = small_head()
        plain = features(head)
        with torch.no_grad():
            marked = head(dataclasses.replace(plain, valid=torch.zeros(2, 2, 3, dtype=torch.bool))).depth_m
            assert torch.equal(marked, head(plain).depth_m)


class TestRefusals:
    @every_architecture
    def test_an_empty_batch(self, name: str) -> None:
        head = small_head(name)
        with pytest.raises(CaptureError, match=r"non-empty map \(B, 8, h, w\), got shape \(0, 8, 2, 3\)"):
            head(features(head, batch=0))

    @every_architecture
    @pytest.mark.parametrize("shape", [(2, 9, 2, 3), (2, 8, 6), (2, 8, 0, 3)])
    def test_a_map_of_another_shape(self, shape: tuple[int, ...], name: str) -> None:
        head = small_head(name)
        with pytest.raises(CaptureError, match=r"hidden state 3 must be a non-empty map \(B, 8, h, w\), got shape"):
            head(changed(features(head), 3, torch.zeros(shape)))

    @every_architecture
    @pytest.mark.parametrize("shape", [(1, 8, 2, 3), (2, 8, 4, 6)])
    def test_maps_that_disagree(self, shape: tuple[int, ...], name: str) -> None:
        head = small_head(name)
        with pytest.raises(CaptureError, match=r"hidden state 5 has shape .* hidden state 0 has \(2, 8, 2, 3\)"):
            head(changed(features(head), 5, torch.zeros(shape)))

    @every_architecture
    def test_a_missing_tap(self, name: str) -> None:
        head = small_head(name)
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

    @pytest.mark.parametrize(("name", "options"), [("space-clip", {"film_hidden": None}), ("tap-mixer", {})])
    def test_a_head_that_reads_no_context_asks_for_none(self, name: str, options: dict[str, Any]) -> None:
        head = small_head(name, **options)
        with torch.no_grad():
            without = head(features(head)).depth_m
            ignored = head(dataclasses.replace(features(head), context=torch.zeros(5, 5))).depth_m
        assert torch.equal(without, ignored)

    @pytest.mark.parametrize(
        "size", [64, (64,), (0, 8), (8, -1), (8, 16385), (8.0, 8), (True, 8), "88", (8, 8, 8), torch.ones(2)]
    )
    @every_architecture
    def test_an_impossible_output_size(self, size: Any, name: str) -> None:
        head = small_head(name)
        with pytest.raises(ConfigError, match=r"output_size must be .* 1 to 16384"):
            head(features(head), size)

    @every_architecture
    def test_a_tower_it_does_not_fit(self, name: str) -> None:
        head = DepthHead.for_tower(SPEC, architecture=name, base_model="timm:vit")
        head.check_fits(SPEC)
        with pytest.raises(HeadMismatchError, match=r"made for timm:vit.* width 8, the tower's have 9") as caught:
            head.check_fits(dataclasses.replace(SPEC, width=9, context="mean"))
        assert ("'cls' context, the tower gives 'mean'" in str(caught.value)) == head.uses_context
        assert "tower at 'vision'" in str(caught.value)


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
    # With the usual bias around zero about a third of the published decoders start with no positive depth at all.
    @every_architecture
    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("seed", range(12))
    def test_its_output_is_alive(self, seed: int, training: bool, name: str) -> None:
        head = small_head(name, seed=seed, channels=ROOMY[name]).train(training)
        for values in given_in(head(features(head), auxiliary=True)):
            assert (values > 0).float().mean() > 0.5

    @pytest.mark.parametrize("auxiliary", [False, True])
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            *(("space-clip", {"film_hidden": f, "structural_taps": t}) for f in (None, 16) for t in ((), (0,), (1, 0))),
            *(("tap-mixer", {"uncertainty": u, "attention": n, "pixels": n}) for u in (False, True) for n in (0, 2)),
        ],
    )
    def test_gradients_reach_every_parameter_its_output_depends_on(
        self, name: str, options: dict[str, Any], auxiliary: bool
    ) -> None:
        head = small_head(name, channels=ROOMY[name], **options).train()
        sum(values.square().sum() for values in given_in(head(features(head), auxiliary=auxiliary))).backward()
        for key, parameter in head.named_parameters():
            if auxiliary or not key.startswith("decoder.auxiliary."):
                assert parameter.grad is not None, key
                assert parameter.grad.abs().sum() > 0, key
            else:
                assert parameter.grad is None, key

    @every_architecture
    def test_every_feature_matters(self, name: str) -> None:
        head = small_head(name, channels=ROOMY[name])
        full = features(head)
        inputs = [*full.hidden.values(), *(value for value in (full.context, full.pixels) if value is not None)]
        for value in inputs:
            value.requires_grad_()
        head(full).depth_m.sum().backward()
        assert all(value.grad.abs().sum() > 0 for value in inputs)


class TestPrecision:
    @every_architecture
    def test_eval_is_deterministic(self, name: str) -> None:
        head = small_head(name, dropout=0.9)
        before = {key: value.clone() for key, value in head.state_dict().items()}
        with torch.no_grad():
            assert all(map(torch.equal, given_in(head(features(head))), given_in(head(features(head)))))
        assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())

    @every_architecture
    def test_dropout_acts_in_training(self, name: str) -> None:
        head = small_head(name, channels=ROOMY[name], dropout=0.9).train()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            assert not torch.equal(head(features(head)).depth_m, head(features(head)).depth_m)

    @every_architecture
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_features_are_cast_to_the_head(self, dtype: torch.dtype, name: str) -> None:
        head = small_head(name)
        low = features(head, dtype=dtype)
        cast = TowerFeatures(
            {tap: value.float() for tap, value in low.hidden.items()},
            None if low.context is None else low.context.float(),
            low.image_hw,
            pixels=None if low.pixels is None else low.pixels.float(),
        )
        with torch.no_grad():
            for values, expected in zip(given_in(head(low)), given_in(head(cast)), strict=True):
                assert values.dtype == torch.float32
                assert torch.equal(values, expected)

    @every_architecture
    def test_a_bf16_head_agrees_with_itself_in_float32(self, name: str) -> None:
        head = small_head(name, channels=ROOMY[name])
        with torch.no_grad():
            full = given_in(head(features(head)))
            half = given_in(head.to(torch.bfloat16)(features(head)))
        assert {values.dtype for values in half} == {torch.bfloat16}
        torch.testing.assert_close([values.float() for values in half], full, rtol=0.03, atol=0.03)
