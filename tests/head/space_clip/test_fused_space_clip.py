"""The published decoder fused: every number of stages and taps, its shortcuts, and the published code's own depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import CASES, load_case, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from lively_heads import assert_same_output, features, lively, lively_head
from torch.utils.flop_counter import FlopCounterMode

from spaceclip_plugin import DepthHead, DepthHeadConfig, attach_depth_head
from spaceclip_plugin.head.space_clip import fused
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.head.space_clip.winograd import WinogradConvolution


class TestSameDepth:
    @pytest.mark.parametrize("film_hidden", [None, 3])
    @pytest.mark.parametrize(
        ("stages", "structural"), [(stages, taps) for stages in range(1, 7) for taps in sorted({0, 1, stages})]
    )
    def test_any_number_of_stages_and_structural_taps(
        self, stages: int, structural: int, film_hidden: int | None
    ) -> None:
        head = lively_head(
            channels=tuple(range(stages + 2, 2, -1)),
            semantic_taps=tuple(range(stages, 0, -1)),
            structural_taps=tuple(range(structural)),
            film_hidden=film_hidden,
        )
        assert_same_output(head.fuse(), head)

    @pytest.mark.slow
    @settings(deadline=None, max_examples=40)
    @given(
        taps=st.lists(st.integers(0, 6), min_size=2, max_size=4),
        channels=st.tuples(st.integers(2, 16), st.integers(2, 16)),
        tap_widths=st.none() | st.lists(st.integers(1, 30), min_size=4, max_size=4),
        sides=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=4, max_size=4),
        film_hidden=st.none() | st.integers(1, 9),
        batch=st.integers(1, 3),
        output_hw=st.none() | st.tuples(st.integers(4, 40), st.integers(4, 40)),
        seed=st.integers(0, 99),
    )
    def test_any_options_towers_grids_batch_and_output(
        self,
        taps: list[int],
        channels: tuple[int, int],
        tap_widths: list[int] | None,
        sides: list[tuple[int, int]],
        film_hidden: int | None,
        batch: int,
        output_hw: tuple[int, int] | None,
        seed: int,
    ) -> None:
        distinct = sorted(set(taps))
        head = lively_head(
            seed=seed,
            semantic_taps=taps[:2],
            structural_taps=taps[2:],
            channels=channels,
            film_hidden=film_hidden,
            tap_widths=None if tap_widths is None else tuple(tap_widths[: len(distinct)]),
        )
        grids = {tap: sides[0] if tap_widths is None else sides[i] for i, tap in enumerate(distinct)}
        assert_same_output(head.fuse(), head, output_hw, batch=batch, grid_hw=sides[0], grids=grids)

    def test_a_skip_as_fine_as_its_stage_and_finer(self) -> None:
        for fine in ((8, 12), (16, 10)):
            head = lively_head(tap_widths=(5, 6, 7, 8))
            assert_same_output(head.fuse(), head, grids={0: fine, 1: fine})

    @pytest.mark.parametrize("film_hidden", [None, 256])
    def test_the_published_size(self, film_hidden: int | None) -> None:
        options = SpaceClipOptions(film_hidden=film_hidden)
        head = lively(DepthHead(DepthHeadConfig(options=options)))
        assert_same_output(head.fuse(), head, batch=1, grid_hw=(6, 5))

    @pytest.mark.parametrize("source", [23, 24, 25])
    def test_upsampling_with_more_and_fewer_channels_than_pay(self, source: int) -> None:
        head = lively_head(channels=(8, source, 8), semantic_taps=(5, 4, 3), structural_taps=(2, 1, 0))
        fused = head.fuse()
        assert [stage.up.conv is None for stage in fused.decoder.semantic_stages] == [True, True, source < 24]
        assert_same_output(fused, head)

    def test_float64_shows_that_the_algebra_is_exact(self) -> None:
        head = lively_head(
            channels=(8, 6, 4), semantic_taps=(5, 4, 3), structural_taps=(2, 1, 0), tap_widths=(3, 4, 5, 6, 7, 8)
        ).double()
        given_features = features(head, 1, grids={0: (3, 5), 1: (3, 7)})  # resized by what no low precision holds
        with torch.no_grad():
            torch.testing.assert_close(
                head.fuse()(given_features).depth_m, head(given_features).depth_m, rtol=1e-12, atol=1e-12
            )

    def test_wide_layers_in_float64(self) -> None:
        head = lively_head(channels=(130, 128), semantic_taps=(5, 3), structural_taps=(1, 0)).double()
        fused = head.fuse()
        assert [isinstance(stage.fuse, WinogradConvolution) for stage in fused.decoder.semantic_stages] == [True, True]
        given_features = features(head, 1, grid_hw=(3, 5))
        with torch.no_grad():
            torch.testing.assert_close(
                fused(given_features).depth_m, head(given_features).depth_m, rtol=1e-10, atol=1e-10
            )

    @pytest.mark.real
    @pytest.mark.parametrize("name", CASES)
    def test_the_published_codes_own_depth(self, name: str, golden: Path, tmp_path: Path) -> None:
        case = load_case(golden, name)
        head = DepthHead.from_spaceclip_checkpoint(write_checkpoint(tmp_path / "model.pt", case)).fuse()
        with attach_depth_head(case.host, head) as depth, torch.no_grad():
            case.host(case.io["pixel_values"])
            [frame] = depth.read(case.output_hw)
        expected = case.io["depth"][:, 0]
        assert (frame.depth_m - expected).abs().max() <= 1e-4 * expected.std()
        assert frame.trained


class TestTheShortcuts:
    """Skips take the short way where it is shorter, and only there; what the tests above would not notice."""

    @pytest.mark.parametrize(("channels", "short"), [((12, 12), True), ((2, 2), False)])
    def test_which_way_a_skip_takes(
        self, channels: tuple[int, ...], short: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        head = lively_head(channels=channels)
        calls: list[Any] = []
        real = fused._shifted_resizing
        monkeypatch.setattr(fused, "_shifted_resizing", lambda *args: (calls.append(args[:2]), real(*args))[1])
        assert_same_output(head.fuse(), head, grid_hw=(4, 6))
        assert bool(calls) == short

    def test_the_border_matters(self) -> None:
        head = lively_head()
        fused = head.fuse()
        for stage in [*fused.decoder.semantic_stages, *fused.decoder.structural_stages]:
            if stage.up.conv is None:
                stage.up.border.zero_()
        with pytest.raises(AssertionError, match="spread"):
            assert_same_output(fused, head)

    @pytest.mark.slow
    def test_fewer_products(self) -> None:
        head = DepthHead(DepthHeadConfig("space-clip")).eval()
        given_features = features(head, 1, batch=1, grid_hw=(14, 14))
        counts = []
        for each in (head, head.fuse()):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                each(given_features)
            counts.append(counter.get_total_flops())
        assert counts[1] < 0.62 * counts[0]

    def test_auxiliary_heads_are_gone(self) -> None:
        head = lively_head(structural_taps=())
        bare = lively_head(structural_taps=(), auxiliary=False)
        sizes = [sum(p.numel() for p in each.fuse().parameters()) for each in (head, bare)]
        assert sizes[0] == sizes[1]
        assert not any("auxiliary" in name for name, _ in head.fuse().named_modules())
