"""The tap mixer: its options, its parts against slow references, and what padding and uncertainty may not change."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head import grid_layers, tap_mixer
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.head.tap_mixer import CONVEX, LOG_DEPTH_LIMIT, TapMixerOptions
from spaceclip_plugin.towers.spec import TowerFeatures

WIDTH = 12


def small_head(*, seed: int = 0, tap_widths: tuple[int, ...] | None = None, **options: Any) -> DepthHead:
    """A head whose outputs all vary, as after training."""
    chosen = {"taps": (1, 3, 6), "channels": (48, 8), "attention": 1, "convolutions": (1, 1), "pixels": 4, **options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = DepthHead(
            DepthHeadConfig(width=WIDTH, blocks=6, tap_widths=tap_widths, options=TapMixerOptions(**chosen))
        )
        with torch.no_grad():
            for parameter in head.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return head.eval()


def features(
    head: DepthHead, seed: int = 1, *, batch: int = 2, grid_hw: tuple[int, int] = (3, 4), **grids: tuple[int, int]
) -> TowerFeatures:
    random = torch.Generator().manual_seed(seed)
    hidden = {}
    for tap, width in head.config.width_of.items():
        h, w = grids.get(f"tap{tap}", grid_hw)
        hidden[tap] = torch.randn(batch, 1 + h * w, width, generator=random)[:, 1:].unflatten(1, (h, w)).movedim(3, 1)
    hw = (16 * grid_hw[0], 16 * grid_hw[1])
    pixels = torch.randn(batch, 3, *hw, generator=random) if head.uses_pixels else None
    return TowerFeatures(hidden, None, hw, pixels=pixels)


def with_garbage(given: TowerFeatures, valid: Tensor, seed: int) -> TowerFeatures:
    random = torch.Generator().manual_seed(seed)

    def spoilt(values: Tensor) -> Tensor:
        shown = functional.interpolate(valid[:, None].float(), values.shape[2:]) > 0
        return torch.where(shown, values, 50 * torch.randn(values.shape, generator=random))

    hidden = {tap: spoilt(values) for tap, values in given.hidden.items()}
    return dataclasses.replace(given, hidden=hidden, valid=valid, pixels=spoilt(given.pixels))


class TestOptions:
    @pytest.mark.parametrize(
        ("preset", "blocks", "taps"),
        [
            ("fine", 12, (1, 3, 6, 9, 12)),
            ("light", 12, (6, 12)),
            ("standard", 12, (3, 6, 9, 12)),
            ("standard", 24, (6, 12, 18, 24)),
            ("standard", 27, (7, 14, 20, 27)),
            ("standard", 3, (1, 2, 3)),
            ("standard", 1, (0, 1)),
        ],
    )
    def test_taps_scale_with_the_tower(self, preset: str, blocks: int, taps: tuple[int, ...]) -> None:
        assert TapMixerOptions.for_blocks(blocks, preset).taps == taps

    def test_lists_become_tuples(self) -> None:
        options = TapMixerOptions(taps=[1, 2], channels=[48, 4], convolutions=[0, 1])
        assert (options.taps, options.channels, options.convolutions) == ((1, 2), (48, 4), (0, 1))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"taps": ()}, "taps must be a list of 1 to 64 values"),
            ({"taps": (3, 1)}, "taps must ascend without repeats"),
            ({"taps": (1, 1)}, "taps must ascend without repeats"),
            ({"taps": (-1, 2)}, r"taps\[0\] must be an integer from 0"),
            ({"channels": ()}, "channels must be a list of 1 to 5 values"),
            ({"channels": (48, 1)}, r"channels\[1\] must be an integer from 2"),
            ({"channels": (50, 20), "attention": 1}, "multiple of 48 where there is attention, got 50; choose another"),
            ({"convolutions": (1, 1, 1)}, "convolutions must be a list of 2 values"),
            ({"attention": -1}, "attention must be an integer from 0"),
            ({"attention": True}, "attention must be an integer from 0"),
            ({"uncertainty": 1}, "uncertainty must be true or false"),
            ({"dropout": 1.0}, "dropout must be a number from 0"),
            ({"pixels": 1025}, "pixels must be an integer from 0"),
        ],
    )
    def test_impossible_ones_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            TapMixerOptions(**options)

    def test_any_width_without_attention(self) -> None:
        head = small_head(channels=(7, 5), attention=0)
        assert head(features(head)).depth_m.shape == (2, 48, 64)


class TestOutput:
    @pytest.mark.parametrize("grid_hw", [(1, 1), (3, 4), (5, 2)])
    @pytest.mark.parametrize("channels", [(48,), (48, 6), (48, 6, 4)])
    def test_depth_and_uncertainty_cover_the_image(self, grid_hw: tuple[int, int], channels: tuple[int, ...]) -> None:
        head = small_head(channels=channels, convolutions=(1,) * len(channels))
        with torch.no_grad():
            output = head(features(head, grid_hw=grid_hw))
        assert output.uncertainty_m is not None
        for values in (output.depth_m, output.uncertainty_m):
            assert values.shape == (2, 16 * grid_hw[0], 16 * grid_hw[1])
            assert torch.isfinite(values).all()
            assert (values > 0).all()
        assert output.auxiliary_m == ()

    def test_a_size_of_choice_and_no_uncertainty(self) -> None:
        head = small_head(uncertainty=False)
        output = head(features(head), (7, 9), auxiliary=True)
        assert output.depth_m.shape == (2, 7, 9)
        assert output.uncertainty_m is None

    def test_a_fresh_head_says_two_metres_or_so(self) -> None:
        for seed in range(5):
            torch.manual_seed(seed)
            head = DepthHead(DepthHeadConfig(width=WIDTH, options=TapMixerOptions())).eval()
            with torch.no_grad():
                output = head(features(head, grid_hw=(4, 4)))
            assert 0.1 < output.depth_m.min() <= output.depth_m.max() < 30
            assert 1 < output.depth_m.median() < 4
            assert output.uncertainty_m is not None
            assert 0.02 < (output.uncertainty_m / output.depth_m).mean() < 1

    def test_no_weights_make_depth_that_is_not_finite(self) -> None:
        head = small_head()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter *= 1e4
            output = head(features(head))
        assert output.uncertainty_m is not None
        assert torch.isfinite(output.uncertainty_m).all()
        assert (output.depth_m <= math.exp(LOG_DEPTH_LIMIT) * 1.001).all()
        assert (output.depth_m >= math.exp(-LOG_DEPTH_LIMIT) * 0.999).all()

    def test_taps_of_several_grids_come_to_the_middle_one_s(self) -> None:
        head = small_head(tap_widths=(5, 8, 12))
        grids = {"tap1": (12, 16), "tap3": (6, 8), "tap6": (3, 4)}
        with torch.no_grad():
            given = features(head, **grids)
            depth = head(given, (120, 160)).depth_m
            assert head.decoder(given, (1, 1), auxiliary=False).depth_m.shape == (2, 1, 1)
        native = 6 * 2 * 2 * CONVEX, 8 * 2 * 2 * CONVEX  # a doubling for the second channels, one for the pixels
        resized = functional.interpolate(
            head(given, native).depth_m[:, None], (120, 160), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(depth, resized[:, 0])

    def test_every_tap_matters(self) -> None:
        head = small_head()
        given = features(head)
        with torch.no_grad():
            plain = head(given).depth_m
            for tap in head.taps:
                hidden = {**given.hidden, tap: given.hidden[tap].flip(1)}
                assert (head(dataclasses.replace(given, hidden=hidden)).depth_m - plain).abs().max() > 1e-3

    def test_scale_and_shift_of_a_tap_do_not_matter(self) -> None:
        head = small_head()
        given = features(head)
        hidden = {tap: 40 * values + 7 for tap, values in given.hidden.items()}
        with torch.no_grad():
            torch.testing.assert_close(
                head(dataclasses.replace(given, hidden=hidden)).depth_m, head(given).depth_m, rtol=1e-3, atol=1e-4
            )


class TestPrecision:
    @pytest.mark.parametrize("fused", [False, True])
    def test_under_autocast_depth_does_not_come_in_steps(self, fused: bool) -> None:
        head = small_head(channels=(48, 8, 8), convolutions=(1, 1, 1))
        with torch.no_grad():
            head.decoder.out.bias[0] = math.log(9)
            head.decoder.out.weight[0] *= 0.05
        low = head.fuse() if fused else head
        given = features(head, grid_hw=(6, 6))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            depth_m = low.decoder(given, (96, 96), auxiliary=False).depth_m
        assert depth_m.dtype == torch.float32
        assert depth_m.unique().numel() > 5000  # in bfloat16, a step of log depth is 1.6 % here

    def test_a_grid_of_one_cell_leaves_the_weights_alone(self) -> None:
        layer = tap_mixer.PreciseLinear(4, 3)
        before = layer.bias.detach().clone()
        with torch.no_grad():  # what is computed in place is no view of the bias
            found = layer(torch.ones(1, 1, 1, 4))
        assert torch.equal(layer.bias, before)
        torch.testing.assert_close(found[0, :, 0, 0], layer.weight.sum(dim=1) + before)


class TestUncertainty:
    def test_its_gradient_stays_in_its_own_layer(self) -> None:
        head = small_head().train()
        output = head(features(head))
        assert output.uncertainty_m is not None
        output.uncertainty_m.sum().backward()
        touched = {name for name, parameter in head.named_parameters() if parameter.grad is not None}
        assert touched == {"decoder.spread.weight", "decoder.spread.bias"}

    def test_rescaling(self) -> None:
        head = small_head()
        given = features(head)
        with torch.no_grad():
            before = head(given)
            head.decoder.rescale_uncertainty(1.7)
            after = head(given)
        torch.testing.assert_close(after.uncertainty_m, 1.7 * before.uncertainty_m)
        assert torch.equal(after.depth_m, before.depth_m)


class TestPadding:
    def test_garbage_in_padding_reaches_nothing_real(self) -> None:
        head = small_head(channels=(48, 8, 8), convolutions=(2, 1, 1), attention=2)
        valid = torch.zeros(2, 5, 6, dtype=torch.bool)
        valid[0, :3, :4] = valid[1] = True
        given = features(head, grid_hw=(5, 6))
        with torch.no_grad():
            one, other = (head(with_garbage(given, valid, seed)).depth_m for seed in (1, 2))
        assert torch.equal(one[0, : 3 * 16, : 4 * 16], other[0, : 3 * 16, : 4 * 16])
        assert torch.equal(one[1], other[1])

    def test_an_image_beside_a_larger_one_has_nearly_the_depth_it_has_alone(self) -> None:
        head = small_head(channels=(48, 8, 8), convolutions=(1, 1, 1))
        valid = torch.zeros(1, 5, 6, dtype=torch.bool)
        valid[0, :3, :4] = True
        given = features(head, batch=1, grid_hw=(5, 6))
        maps = {tap: values[:, :, :3, :4] for tap, values in given.hidden.items()}
        alone = TowerFeatures(maps, None, (48, 64), pixels=given.pixels[..., :48, :64])
        with torch.no_grad():
            padded = head(with_garbage(given, valid, 3)).depth_m[:, :48, :64]
            expected = head(alone).depth_m
        torch.testing.assert_close(padded, expected, rtol=1e-4, atol=1e-5)

    def test_nor_through_taps_of_other_grids(self) -> None:
        head = small_head(tap_widths=(5, 8, 12))
        given = features(head, tap1=(12, 12), tap3=(6, 6), tap6=(3, 3))
        outcomes = []
        for seed in (1, 2):
            random = torch.Generator().manual_seed(seed)
            hidden = {}
            for tap, values in given.hidden.items():
                side = values.shape[-1]
                hidden[tap] = 50 * torch.randn(values.shape, generator=random)
                hidden[tap][:, :, : side * 2 // 3] = values[:, :, : side * 2 // 3]
            pixels = 50 * torch.randn(2, 3, 96, 96, generator=random)
            pixels[..., :64, :] = 1.0
            valid = (torch.arange(6) < 4)[None, :, None].expand(2, 6, 6)
            with torch.no_grad():
                outcomes.append(head(TowerFeatures(hidden, None, (96, 96), valid, pixels=pixels)).depth_m[:, :64])
        assert torch.equal(*outcomes)

    def test_an_image_that_is_all_padding_is_finite(self) -> None:
        head = small_head()
        given = dataclasses.replace(features(head), valid=torch.zeros(2, 3, 4, dtype=torch.bool))
        with torch.no_grad():
            assert torch.isfinite(head(given).depth_m).all()


class TestParts:
    def test_convex_upsampling_by_hand(self) -> None:
        random = torch.Generator().manual_seed(0)
        values = torch.randn(2, 1, 3, 4, generator=random)
        logits = torch.randn(2, 9 * CONVEX**2, 3, 4, generator=random)
        got = tap_mixer._convex(values, logits)
        with torch.no_grad():
            assert torch.equal(tap_mixer._convex(values, logits), got)
        assert got.shape == (2, 1, 3 * CONVEX, 4 * CONVEX)
        for b, y, x in ((0, 0, 0), (1, 11, 15), (0, 5, 6), (1, 4, 3)):
            i, j = y // CONVEX, x // CONVEX
            sub = (y % CONVEX) * CONVEX + x % CONVEX
            around = [
                values[b, 0, min(max(i + di, 0), 2), min(max(j + dj, 0), 3)] for di in (-1, 0, 1) for dj in (-1, 0, 1)
            ]
            shares = logits[b, :, i, j].view(9, CONVEX**2)[:, sub].softmax(0)
            assert got[b, 0, y, x] == pytest.approx(
                float(sum(s * v for s, v in zip(shares, around, strict=True))), abs=1e-6
            )

    def test_a_fresh_head_starts_smooth(self) -> None:
        torch.manual_seed(0)
        decoder = DepthHead(DepthHeadConfig(width=WIDTH, options=TapMixerOptions(pixels=6))).decoder
        for _, layer in (*decoder.climbs, decoder.pixels.climb):
            x = torch.randn(1, 2, 2, layer.in_features)
            cells = grid_layers.doubled(layer(x))
            assert torch.equal(cells[:, ::2, ::2], cells[:, 1::2, 1::2])
        values = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(0))
        got = tap_mixer._convex(values, decoder.out.bias[1:, None, None].expand(1, -1, 5, 6))
        expected = functional.interpolate(values, scale_factor=4.0, mode="bilinear", align_corners=False)
        assert (got - expected).abs().max() < 0.1

    def test_doubling_is_a_pixel_shuffle(self) -> None:
        x = torch.arange(2 * 3 * 4 * 20.0).view(2, 3, 4, 20)
        # Ours holds the four cells before the channels, PyTorch's after them.
        theirs = x.unflatten(-1, (4, 5)).transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)
        expected = functional.pixel_shuffle(theirs, 2).permute(0, 2, 3, 1)
        assert torch.equal(grid_layers.doubled(x), expected)

    def test_attention_mixes_the_whole_grid(self) -> None:
        for attention, far in ((0, False), (1, True)):
            head = small_head(channels=(48,), convolutions=(0,), attention=attention)
            given = features(head, batch=1, grid_hw=(8, 8))
            hidden = {tap: values.clone() for tap, values in given.hidden.items()}
            hidden[3][:, :, 7, 7] += 5
            with torch.no_grad():
                change = (head(dataclasses.replace(given, hidden=hidden)).depth_m - head(given).depth_m)[0, :32, :32]
            assert bool((change.abs() > 1e-7).any()) is far

    def test_dropout_drops_channels_in_training_alone(self) -> None:
        change = torch.ones(4, 3, 3, 50)
        torch.manual_seed(0)
        dropped = grid_layers.dropped(change, 0.4, True)
        assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
        assert 0.4 < (dropped == 0).float().mean() + 0.1 < 0.7
        assert dropped.max() == pytest.approx(1 / 0.6)
        assert grid_layers.dropped(change, 0.4, False) is change


@pytest.mark.parametrize(("preset", "fraction"), [("standard", 60), ("fine", 60), ("light", 150)])
def test_presets_are_fractions_of_the_published_decoder(preset: str, fraction: int) -> None:
    def products(options: Any) -> int:
        head = DepthHead(DepthHeadConfig(options=options)).eval()
        maps, image = {tap: torch.zeros(1, 768, 14, 14) for tap in head.taps}, torch.zeros(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            head(TowerFeatures(maps, torch.zeros(1, 768), (224, 224), pixels=image))
        return counter.get_total_flops()

    assert products(TapMixerOptions.for_blocks(12, preset)) < products(SpaceClipOptions()) / fraction


def test_it_learns_a_plane_from_its_tokens() -> None:
    head = small_head(channels=(48, 8), dropout=0.0, pixels=0).train()
    rows = torch.linspace(0, 1, 6)[:, None].expand(6, 6)
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(WIDTH, generator=random)
    tokens = (basis[:, None, None] * rows + 0.1 * torch.randn(WIDTH, 6, 6, generator=random))[None]
    given = TowerFeatures(dict.fromkeys(head.taps, tokens), None, (96, 96))
    target = (1 + 4 * torch.linspace(0, 1, 96))[:, None].expand(1, 96, 96)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (head(given).depth_m.log() - target.log()).abs().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.08
