"""`DepthHead.fuse`: the same depth for every shape a head may have, and a head like any other but for training."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from golden_cases import CASES, load_case, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spaceclip_plugin import DepthHead, DepthHeadConfig, attach_depth_head
from spaceclip_plugin.digest import module_digest
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.head import fused_space_clip
from spaceclip_plugin.head.fused_head import FusedDepthHead
from spaceclip_plugin.head.space_clip import SpaceClipOptions
from spaceclip_plugin.tower import TowerFeatures

WIDTH = 12
Grids = dict[int, tuple[int, int]]


def lively(head: DepthHead, seed: int = 0) -> DepthHead:
    """The head with norms and biases as training leaves them: at their defaults much of folding is invisible."""
    random = torch.Generator().manual_seed(seed)
    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=random)
        for norm in norms:
            norm.weight.copy_(torch.rand(norm.weight.shape, generator=random) + 0.5)
            norm.momentum = 1.0
        torch.manual_seed(seed)
        head.train()(features(head, 0, batch=4, grid_hw=(3, 4)))
        for norm in norms:
            norm.momentum = 0.1
        head.decoder.depth[-1].bias += 3  # depth ends in a ReLU: far from it, every weight shows
    return head.eval()


def lively_head(*, seed: int = 0, tap_widths: tuple[int, ...] | None = None, **options: Any) -> DepthHead:
    chosen = {"channels": (8, 4), "semantic_taps": (5, 3), "structural_taps": (1, 0), "film_hidden": 7, **options}
    config = DepthHeadConfig(width=WIDTH, blocks=6, tap_widths=tap_widths, options=SpaceClipOptions(**chosen))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return lively(DepthHead(config), seed)


def features(
    head: DepthHead, seed: int, *, batch: int = 2, grid_hw: tuple[int, int] = (2, 3), grids: Grids | None = None
) -> TowerFeatures:
    """Random features as a tower with a class token leaves them: views of token sequences."""
    random = torch.Generator().manual_seed(seed)
    hidden = {}
    for tap, width in head.config.width_of.items():
        h, w = (grids or {}).get(tap, grid_hw)
        hidden[tap] = torch.randn(batch, 1 + h * w, width, generator=random)[:, 1:].unflatten(1, (h, w)).movedim(3, 1)
    context = torch.randn(batch, head.config.width, generator=random) if head.uses_context else None
    return TowerFeatures(hidden, context, (16 * grid_hw[0], 16 * grid_hw[1]))


def assert_same_depth(
    fused: Callable[..., Any], plain: DepthHead, output_hw: tuple[int, int] | None = None, **shape: Any
) -> None:
    for seed in (1, 2):  # a second input shows a form that froze the first
        given_features = features(plain, seed, **shape)
        with torch.no_grad():
            expected = plain(given_features, output_hw).depth_m
            got = fused(given_features, output_hw).depth_m
        assert got.shape == expected.shape
        error, spread = (got - expected).abs().max(), expected.std()
        # Where every unit before the last layer is off, depth is one value, and has its rounding alone.
        assert error <= 1e-4 * spread + 1e-6 * expected.max(), f"error {error:.1e}, spread {spread:.1e}"


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
        assert_same_depth(head.fuse(), head)

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
        assert_same_depth(head.fuse(), head, output_hw, batch=batch, grid_hw=sides[0], grids=grids)

    def test_a_skip_as_fine_as_its_stage_and_finer(self) -> None:
        for fine in ((8, 12), (16, 10)):
            head = lively_head(tap_widths=(5, 6, 7, 8))
            assert_same_depth(head.fuse(), head, grids={0: fine, 1: fine})

    @pytest.mark.parametrize("film_hidden", [None, 256])
    def test_the_published_size(self, film_hidden: int | None) -> None:
        options = SpaceClipOptions(film_hidden=film_hidden)
        head = lively(DepthHead(DepthHeadConfig(options=options)))
        assert_same_depth(head.fuse(), head, batch=1, grid_hw=(6, 5))

    @pytest.mark.parametrize("source", [23, 24, 25])
    def test_upsampling_with_more_and_fewer_channels_than_pay(self, source: int) -> None:
        head = lively_head(channels=(8, source, 8), semantic_taps=(5, 4, 3), structural_taps=(2, 1, 0))
        fused = head.fuse()
        assert [stage.up.conv is None for stage in fused.decoder.semantic_stages] == [True, True, source < 24]
        assert_same_depth(fused, head)

    def test_maps_in_the_other_memory_order(self) -> None:
        head = lively_head()
        fused, tokens_last = head.fuse(), features(head, 1)
        tokens_first = TowerFeatures(
            {tap: value.contiguous() for tap, value in tokens_last.hidden.items()}, tokens_last.context, (32, 48)
        )
        torch.testing.assert_close(fused(tokens_first).depth_m, fused(tokens_last).depth_m)

    def test_a_head_in_train_mode_gives_its_eval_form(self) -> None:
        head = lively_head(dropout=0.9)
        fused = head.train().fuse()
        assert_same_depth(fused, head.eval())

    def test_float64_shows_that_the_algebra_is_exact(self) -> None:
        head = lively_head(
            channels=(8, 6, 4), semantic_taps=(5, 4, 3), structural_taps=(2, 1, 0), tap_widths=(3, 4, 5, 6, 7, 8)
        ).double()
        given_features = features(head, 1, grids={0: (3, 5), 1: (3, 7)})  # resized by what no low precision holds
        with torch.no_grad():
            torch.testing.assert_close(
                head.fuse()(given_features).depth_m, head(given_features).depth_m, rtol=1e-12, atol=1e-12
            )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_weights_are_combined_in_float64(self, dtype: torch.dtype) -> None:
        head = lively_head().to(dtype)
        assert module_digest(head.fuse()) == module_digest(copy.deepcopy(head).double().fuse().to(dtype))

    def test_bf16_fused_before_or_after_the_cast(self) -> None:
        head = lively_head(channels=(16, 8))
        low = copy.deepcopy(head).to(torch.bfloat16)
        given_features = features(head, 1)
        with torch.no_grad():
            full, plain_low = head(given_features).depth_m, low(given_features).depth_m.float()
            for fused in (head.fuse().to(torch.bfloat16), low.fuse()):
                depth = fused(given_features).depth_m
                assert depth.dtype == torch.bfloat16
                rounding = (plain_low - full).abs().max()
                assert (depth.float() - full).abs().max() < 3 * rounding

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
        real = fused_space_clip._shifted_resizing
        monkeypatch.setattr(
            fused_space_clip, "_shifted_resizing", lambda *args: (calls.append(args[:2]), real(*args))[1]
        )
        assert_same_depth(head.fuse(), head, grid_hw=(4, 6))
        assert bool(calls) == short

    def test_the_border_matters(self) -> None:
        head = lively_head()
        fused = head.fuse()
        for stage in [*fused.decoder.semantic_stages, *fused.decoder.structural_stages]:
            if stage.up.conv is None:
                stage.up.border.zero_()
        with pytest.raises(AssertionError, match="spread"):
            assert_same_depth(fused, head)

    def test_fewer_products(self) -> None:
        head = DepthHead(DepthHeadConfig()).eval()
        given_features = features(head, 1, batch=1, grid_hw=(4, 4))
        counts = []
        for each in (head, head.fuse()):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                each(given_features)
            counts.append(counter.get_total_flops())
        assert counts[1] < 0.87 * counts[0]


class TestTheOriginal:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("training", [False, True])
    def test_it_is_not_touched(self, training: bool, dtype: torch.dtype) -> None:
        head = lively_head().train(training).to(dtype)
        head.decoder.film.eval()
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

    def test_it_does_not_reach_the_fused_head_any_more(self) -> None:
        head = lively_head()
        kept, fused = copy.deepcopy(head), head.fuse()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.zero_()
        assert_same_depth(fused, kept)


class TestAHeadLikeAnyOther:
    def test_what_it_says_of_itself(self) -> None:
        head = lively_head()
        fused = head.fuse()
        assert isinstance(fused, DepthHead)
        assert (fused.config, fused.taps, fused.uses_context) == (head.config, head.taps, head.uses_context)
        assert not any(module.training for module in fused.modules())
        assert not any(parameter.requires_grad for parameter in fused.parameters())
        assert not any(isinstance(module, (nn.BatchNorm2d, nn.Dropout)) for module in fused.modules())

    def test_auxiliary_heads_are_gone(self) -> None:
        head = lively_head(structural_taps=())
        bare = lively_head(structural_taps=(), auxiliary=False)
        sizes = [sum(p.numel() for p in each.fuse().parameters()) for each in (head, bare)]
        assert sizes[0] == sizes[1]
        assert not any("auxiliary" in name for name, _ in head.fuse().named_modules())

    def test_it_keeps_no_graph(self) -> None:
        head = lively_head()
        given_features = features(head, 1)
        for value in given_features.hidden.values():
            value.requires_grad_()
        assert not head.fuse()(given_features).depth_m.requires_grad

    def test_it_computes_in_its_own_precision_under_autocast(self) -> None:
        head = lively_head()
        fused, given_features = head.fuse(), features(head, 1)
        expected = fused(given_features).depth_m
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(fused(given_features).depth_m, expected)

    def test_a_head_fused_in_inference_mode_serves_outside(self) -> None:
        head = lively_head()
        with torch.inference_mode():
            fused = head.fuse()
        assert not any(parameter.is_inference() for parameter in fused.parameters())
        assert_same_depth(fused, head)

    @pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
    def test_copies(self, way: str) -> None:
        head = lively_head()
        fused = head.fuse()
        if way == "deepcopy":
            other = copy.deepcopy(fused)
        elif way == "pickle":
            other = pickle.loads(pickle.dumps(fused))
        else:
            file = io.BytesIO()
            torch.save(fused.state_dict(), file)
            file.seek(0)
            other = lively_head(seed=5).fuse()
            other.load_state_dict(torch.load(file))
        assert isinstance(other, FusedDepthHead)
        assert module_digest(other) == module_digest(fused)
        assert_same_depth(other, head)

    @pytest.mark.skipif(
        Version(torch.__version__) < Version("2.6"),
        reason="the compiler of torch 2.2 cannot resize a line to a size that it keeps as a symbol",
    )
    def test_compiled(self) -> None:
        head = lively_head()
        assert_same_depth(torch.compile(head.fuse(), backend="aot_eager"), head)

    def test_on_a_live_host(self) -> None:
        config = transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
        )
        host = transformers.CLIPVisionModel(config).eval()
        head = lively(DepthHead.for_tower(host, channels=(12, 8, 6, 4), trained_on="a room"))
        pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        frames = []
        for each in (head, head.fuse()):
            with attach_depth_head(host, each) as depth, torch.no_grad():
                host(pixels)
                frames += depth.read((28, 28))
        assert frames[1].trained
        assert (frames[1].depth_m - frames[0].depth_m).abs().max() <= 1e-4 * frames[0].depth_m.std()

    def test_features_it_cannot_read_are_refused(self) -> None:
        head = lively_head()
        with pytest.raises(CaptureError, match="reads hidden state 0"):
            head.fuse()(TowerFeatures({}, None, (32, 48)))


class TestRefusals:
    def test_auxiliary_outputs(self) -> None:
        head = lively_head()
        with pytest.raises(ConfigError, match="no auxiliary outputs; ask the head it was made from"):
            head.fuse()(features(head, 1), auxiliary=True)

    def test_training(self) -> None:
        fused = lively_head().fuse()
        for train in (fused.train, lambda: nn.Sequential(fused).train()):
            with pytest.raises(ConfigError, match="cannot be trained; train the head it was made from"):
                train()
        assert not fused.training
        assert fused.eval() is fused

    def test_saving(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="save the unfused head it was made from"):
            lively_head().fuse().save_pretrained(tmp_path / "head")
        assert list(tmp_path.iterdir()) == []

    def test_fusing_twice(self) -> None:
        fused = lively_head().fuse()
        with pytest.raises(ConfigError, match="fused already"):
            fused.fuse()
        with pytest.raises(ConfigError, match="fused already"):
            FusedDepthHead(fused)

    def test_building_one_from_something_else(self, tmp_path: Path) -> None:
        head = lively_head()
        with pytest.raises(ConfigError, match=r"made from a DepthHead by its fuse\(\), got DepthHeadConfig"):
            FusedDepthHead(head.config)  # type: ignore[arg-type]
        head.save_pretrained(tmp_path / "head")
        with pytest.raises(ConfigError, match="load the head with DepthHead and fuse that"):
            FusedDepthHead.from_pretrained(tmp_path / "head")

    def test_an_architecture_without_a_fused_form(self) -> None:
        class Rigid(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(()))

        head = lively_head()
        head.decoder = Rigid()
        with pytest.raises(ConfigError, match="'space-clip' has no fused form; use the head as it is"):
            head.fuse()


def test_any_architecture_plugs_in() -> None:
    class Fast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> Tensor:
            return self.weight

    head = lively_head()
    head.decoder.fused = Fast
    fused = head.fuse()
    assert fused(features(head, 1)).item() == 1
    assert fused.decoder.weight.dtype == torch.float32
    assert not fused.decoder.weight.requires_grad
