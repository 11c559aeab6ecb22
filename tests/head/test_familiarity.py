"""Whether an image is of a kind that a head was trained on: learnt from tokens, told, saved and refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from head_folders import edit_config, refused
from PIL import Image
from safetensors.torch import load_file
from saved_heads import CONFIG, make_head
from torch import Tensor

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.depth.strangeness import widened
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.familiarity import LEAST_IMAGES, Familiarity, FamiliarityOptions
from spaceclip_plugin.head.tap_mixer import TapMixerOptions
from spaceclip_plugin.towers import TowerFeatures

WIDTH = 24
MIXER = DepthHeadConfig(
    options=TapMixerOptions(taps=(1, 3, 5), channels=(8,), convolutions=(1,), pixels=0), width=WIDTH, blocks=8
)


def tokens(count: int, seed: int, *, spread: float = 1.0) -> Tensor:
    """(N, 1, C) mean tokens of one kind of image: few directions matter, as in a tower, and one channel stands out."""
    made = torch.Generator().manual_seed(99)
    mix = torch.randn(WIDTH, WIDTH, generator=made) * torch.logspace(0, -2, WIDTH)[:, None]
    centre = 3.0 * torch.randn(WIDTH, generator=made)
    centre[0] = 50.0
    drawn = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return (centre + spread * drawn @ mix)[:, None]


def as_maps(mean_tokens: Tensor, hw: tuple[int, int] = (3, 4)) -> Tensor:
    """(N, C, h, w) patch maps with these means."""
    noise = torch.randn(len(mean_tokens), WIDTH, *hw, generator=torch.Generator().manual_seed(5))
    return mean_tokens[:, 0, :, None, None] + noise - noise.mean(dim=(2, 3), keepdim=True)


@pytest.fixture(scope="module")
def known() -> Familiarity:
    return Familiarity.learnt(tokens(400, seed=0), tap=3)


def head_that_knows() -> DepthHead:
    head = make_head(MIXER)
    head.learn_familiarity(tokens(80, seed=0))
    return head


class TestTold:
    def test_like_images_are_spread_evenly(self, known: Familiarity) -> None:
        shares = known(as_maps(tokens(600, seed=1)))
        assert shares.dtype == torch.float32
        assert 0 <= float(shares.min()) <= float(shares.max()) <= 1
        for share in (0.05, 0.25, 0.5, 0.75):
            assert float((shares < share).float().mean()) == pytest.approx(share, abs=0.07)

    @pytest.mark.parametrize(
        "strange",
        [
            torch.zeros(1, 1, WIDTH), torch.full((1, 1, WIDTH), 4.0), -tokens(1, seed=2), tokens(1, seed=2).flip(-1),
            tokens(1, seed=2, spread=20.0), torch.full((1, 1, WIDTH), 1e20), torch.full((1, 1, WIDTH), -6e4),
        ],
        ids=["blank", "constant", "negative", "other channels", "far out", "huge", "beyond half"],
    )  # fmt: skip
    def test_unlike_images_are_not_known(self, known: Familiarity, strange: Tensor) -> None:
        assert float(known(as_maps(strange))) < 0.01

    def test_the_most_usual_of_all(self, known: Familiarity) -> None:
        assert float(known(known.mean[None, :, None, None])) == 1.0

    def test_one_image_does_not_depend_on_its_neighbours(self, known: Familiarity) -> None:
        maps = as_maps(torch.cat([tokens(7, seed=1), tokens(1, seed=1, spread=30.0)]))
        together = known(maps)
        assert together.shape == (8,)
        torch.testing.assert_close(together, torch.cat([known(one[None]) for one in maps]), rtol=0, atol=0.01)
        assert known(maps[:0]).shape == (0,)

    def test_patches_that_do_not_count(self, known: Familiarity) -> None:
        own, counted = as_maps(tokens(5, seed=1), (3, 3)), torch.zeros(5, 4, 6, dtype=torch.bool)
        counted[:, :3, 1:4] = True
        padded = torch.full((5, WIDTH, 4, 6), 70.0)
        padded[:, :, :3, 1:4] = own
        expected = known(own)
        assert float(known(padded).max()) < 0.01
        torch.testing.assert_close(known(padded, counted), expected, rtol=0, atol=0.01)
        torch.testing.assert_close(known(padded, counted[0]), expected, rtol=0, atol=0.01)
        counted[2] = False
        assert float(known(padded, counted)[2]) == 0.0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_token_that_is_not_finite(self, known: Familiarity, value: float) -> None:
        maps = as_maps(tokens(3, seed=1))
        before = known(maps)
        maps[1, 4, 0, 0] = value
        after = known(maps)
        assert float(after[1]) == 0.0
        assert after[[0, 2]].equal(before[[0, 2]])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_the_heads_precision_is_not_that_of_the_comparison(self, known: Familiarity, dtype: torch.dtype) -> None:
        """A channel of 50 with a spread of 1 would be told by its rounding alone."""
        maps = as_maps(tokens(200, seed=1))
        converted = copy.deepcopy(known).to(dtype)
        assert {buffer.dtype for buffer in converted.buffers()} == {torch.float32}
        assert converted(maps).equal(known(maps))
        assert converted.to("meta").mean.is_meta

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_tokens_of_a_host_in_half_precision(self, known: Familiarity, dtype: torch.dtype) -> None:
        maps = as_maps(tokens(100, seed=1))
        assert float((known(maps.to(dtype)) - known(maps)).abs().mean()) < 0.05

    def test_autocast_is_the_hosts(self, known: Familiarity) -> None:
        maps = as_maps(tokens(50, seed=1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert known(maps).equal(known(maps))
            under = known(maps)
        assert under.equal(known(maps))


class TestLearnt:
    @pytest.mark.parametrize("count", [0, 1, LEAST_IMAGES - 1])
    def test_too_few_images(self, count: int) -> None:
        with pytest.raises(ConfigError, match=f"{LEAST_IMAGES} images or more, got {count}"):
            Familiarity.learnt(tokens(count, seed=0), tap=3)

    @pytest.mark.parametrize("shape", [(60, WIDTH), (60, 0, WIDTH), (60, 1, 2, WIDTH), (WIDTH,)])
    def test_tokens_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigError, match=rf"\(N, V, C\), got shape \({shape[0]}"):
            Familiarity.learnt(torch.zeros(shape), tap=3)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_token_that_is_not_finite(self, bad: float) -> None:
        given = tokens(60, seed=0)
        given[7, 0, 3] = bad
        with pytest.raises(ConfigError, match="NaN or infinity"):
            Familiarity.learnt(given, tap=3)

    @pytest.mark.parametrize("count", [LEAST_IMAGES, 47, 1500])
    def test_sizes_follow_the_images(self, count: int) -> None:
        found = Familiarity.learnt(tokens(count, seed=0), tap=2)
        assert found.options == FamiliarityOptions(2, min(WIDTH - 1, count // 4), min(1024, count))
        assert found.directions.shape == (found.options.directions, WIDTH)
        assert found.references.shape == (found.options.references,)
        assert bool((found.references.diff() >= 0).all())
        assert all(value.isfinite().all() and value.dtype == torch.float32 for value in found.buffers())

    def test_more_channels_than_images(self) -> None:
        wide = torch.randn(50, 1, 300, generator=torch.Generator().manual_seed(0))
        found = Familiarity.learnt(wide, tap=3)
        like = torch.randn(100, 300, 1, 1, generator=torch.Generator().manual_seed(1))
        assert float(found(like).mean()) > 0.25
        assert float(found(6 * like).max()) < 0.05

    def test_channels_that_never_change(self) -> None:
        constant = tokens(200, seed=0)
        constant[..., 3], constant[..., 4] = 3.3, 0.0
        found = Familiarity.learnt(constant, tap=3)
        like = tokens(100, seed=1)
        like[..., 3], like[..., 4] = 3.3, 0.0
        assert float(found(as_maps(like)).mean()) == pytest.approx(0.5, abs=0.15)
        like[..., 3] = 9.0
        assert float(found(as_maps(like)).max()) < 0.05

    def test_versions_of_an_image_are_of_its_kind(self) -> None:
        plain = tokens(200, seed=0)
        shifted = plain + 5.0
        both = Familiarity.learnt(torch.cat([plain, shifted], dim=1), tap=3)
        new = as_maps(tokens(50, seed=1) + 5.0)
        assert float(Familiarity.learnt(plain, tap=3)(new).max()) < 0.01
        assert float(both(new).mean()) > 0.2

    def test_nothing_random_and_no_gradient(self) -> None:
        state = torch.random.get_rng_state()
        given = tokens(60, seed=0).requires_grad_()
        first, second = (Familiarity.learnt(given, tap=3) for _ in range(2))
        assert all(a.equal(b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
        assert not any(buffer.requires_grad for buffer in first.buffers())
        assert torch.random.get_rng_state().equal(state)


class TestWidened:
    def test_never_narrower_and_nothing_where_there_is_no_depth(self) -> None:
        sd_m, depth_m = torch.rand(5, 4, 6), 3 * torch.rand(5, 4, 6)
        depth_m[:, 0], sd_m[:, 0] = 0.0, 0.0
        familiarity = torch.tensor([0.0, 0.05, 0.15, 0.25, 1.0])
        wide = widened(sd_m, depth_m, familiarity)
        assert bool((wide >= sd_m).all())
        assert not wide[:, 0].any()
        assert wide[3:].equal(sd_m[3:])
        assert wide[0].equal(widened(sd_m, depth_m, torch.full((5,), 0.05))[0])  # below a twentieth nothing is left
        assert bool((wide[0][1:] >= depth_m[0][1:]).all())
        assert bool((wide[2] <= widened(sd_m, depth_m, torch.full((5,), 0.1))[2]).all())


class TestHead:
    def test_a_head_learns_and_tells(self) -> None:
        head = head_that_knows()
        assert head.familiar_tap == 1  # 2 would be a quarter of the way; of 1 and 3 the first
        assert head.config.familiarity == FamiliarityOptions(1, 20, 80)
        like, strange = as_maps(tokens(3, seed=1)), torch.zeros(3, WIDTH, 3, 4)
        for maps, low, high in ((like, 0.02, 1.0), (strange, 0.0, 0.02)):
            features = TowerFeatures({1: maps, 3: maps, 5: maps}, None, (24, 32))
            found = head.familiarity_of(features)
            assert found.shape == (3,)
            assert low <= float(found.min()) <= float(found.max()) <= high
        nothing = head.familiarity_of(features, shown=torch.zeros(3, 4, dtype=torch.bool))
        assert nothing.tolist() == [0.0] * 3
        assert make_head(MIXER).familiarity_of(features) is None

    @pytest.mark.parametrize(
        ("taps", "blocks", "expected"), [((1, 3, 5), 12, 3), ((6, 9, 12), 12, 6), ((0, 4), 4, 0), ((2, 8), None, 2)]
    )
    def test_the_tap_a_quarter_of_the_way_in(self, taps: tuple[int, ...], blocks: int | None, expected: int) -> None:
        options = TapMixerOptions(taps=taps, channels=(8,), convolutions=(1,))
        assert DepthHead(DepthHeadConfig(options=options, width=8, blocks=blocks)).familiar_tap == expected

    def test_learning_anew_replaces(self) -> None:
        head = head_that_knows()
        head.learn_familiarity(tokens(60, seed=0))
        assert head.config.familiarity.references == 60
        with pytest.raises(ConfigError, match="got 3"):
            head.learn_familiarity(tokens(3, seed=0))
        with pytest.raises(ConfigError, match=f"hidden state 1 has {WIDTH} channels, got 8"):
            head.learn_familiarity(tokens(60, seed=0)[..., :8])
        assert head.config.familiarity.references == 60

    @pytest.mark.parametrize(
        "form", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head)), DepthHead.fuse, DepthHead.half],
        ids=["deepcopy", "pickle", "fuse", "half"],
    )  # fmt: skip
    def test_copies_know_the_same(self, form: Any) -> None:
        head = head_that_knows()
        maps = as_maps(tokens(20, seed=1))
        expected = head.familiarity(maps)
        found = form(head)
        assert found.config.familiarity == head.config.familiarity
        assert found.familiarity(maps).equal(expected)

    def test_a_fused_head_is_no_window_on_the_other(self) -> None:
        head = head_that_knows()
        fused = head.fuse()
        head.familiarity.mean.zero_()
        assert fused.familiarity.mean.any()

    def test_saved_and_read_to_the_bit(self, tmp_path: Path) -> None:
        head = head_that_knows()
        head.config = dataclasses.replace(head.config, focal_length=(1.1, 1.2), focal_length_assumed=True)
        again = DepthHead.from_pretrained(head.save_pretrained(tmp_path))
        assert again.config == head.config
        expected = head.state_dict()
        assert all(value.equal(expected[name]) for name, value in again.state_dict().items())
        assert json.loads((tmp_path / "config.json").read_text())["format_version"] == 3
        maps = as_maps(tokens(20, seed=1))
        assert again.familiarity(maps).equal(head.familiarity(maps))

    def test_a_head_in_half_precision_is_saved_with_it(self, tmp_path: Path) -> None:
        head = head_that_knows()
        maps = as_maps(tokens(20, seed=1))
        expected = head.familiarity(maps)
        assert DepthHead.from_pretrained(head.half().save_pretrained(tmp_path)).familiarity(maps).equal(expected)

    def test_older_files_know_nothing(self, tmp_path: Path) -> None:
        head = DepthHead.from_pretrained(make_head(CONFIG).save_pretrained(tmp_path))
        assert json.loads((tmp_path / "config.json").read_text())["format_version"] == 1
        found = (head.familiarity, head.config.familiarity, head.config.focal_length, head.config.focal_length_assumed)
        assert found == (None, None, None, False)


class TestFiles:
    """A file of format 3, edited by hand."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        head = head_that_knows()
        head.config = dataclasses.replace(head.config, focal_length=(1.1, 1.2))
        return head.save_pretrained(tmp_path / "head")

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"familiarity": {"tap": 1, "directions": 19, "references": 80}}, "familiarity"),
            ({"familiarity": {"tap": 1, "directions": 20, "references": 79}}, "familiarity"),
            ({"familiarity": {"tap": 3, "directions": 20, "references": 80}}, "familiarity"),
            ({"familiarity": None}, "familiarity"),
            ({"familiarity": {"tap": 2, "directions": 20, "references": 80}}, "hidden state 2"),
            ({"familiarity": {"tap": 1, "directions": WIDTH, "references": 80}}, f"{WIDTH} directions"),
            ({"familiarity": {"tap": 1, "directions": 0, "references": 80}}, "directions of familiarity must be"),
            ({"familiarity": {"tap": 1, "directions": 1 << 40, "references": 80}}, "directions of familiarity must be"),
            ({"familiarity": {"tap": 1, "directions": 20, "references": 1 << 17}}, "references of familiarity must be"),
            ({"familiarity": {"tap": 1, "directions": 20, "references": 80.0}}, "references of familiarity must be"),
            ({"familiarity": {"tap": True, "directions": 20, "references": 80}}, "tap of familiarity must be"),
            ({"familiarity": {"tap": 1, "directions": 20}}, "references"),
            ({"familiarity": {"tap": 1, "directions": 20, "references": 80, "mean": 1}}, "mean"),
            ({"familiarity": [1, 20, 80]}, "familiarity"),
            ({"familiarity": "yes"}, "familiarity"),
            ({"focal_length": [600.0, 600.0]}, "focal_length[0] must be"),
            ({"focal_length": 1.1}, "focal_length must be"),
            ({"focal_length": [1.1, 1.3]}, "focal_length"),
            ({"focal_length_assumed": 1}, "focal_length_assumed"),
            ({"focal_length": None, "focal_length_assumed": True}, "focal_length_assumed"),
            ({"format_version": 2}, "tower_fingerprint belongs to format 2"),
            ({"format_version": 1}, "tower_fingerprint belongs to format 2"),
            ({"format_version": 6}, "format_version must be 1 to 5, got 6"),
        ],
    )
    def test_what_cannot_be_or_is_not_that_head(self, folder: Path, changes: dict[str, Any], named: str) -> None:
        edit_config(folder, **changes)
        message = refused(folder)
        assert "config.json" in message or "model.safetensors" in message
        assert named in message

    @pytest.mark.parametrize("name", ["focal_length", "focal_length_assumed", "familiarity", "tower_fingerprint"])
    def test_a_missing_key(self, folder: Path, name: str) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({key: v for key, v in json.loads(path.read_text()).items() if key != name}))
        assert name in refused(folder)

    @pytest.mark.parametrize("value", [[1.1, 1.2], None])
    def test_a_key_of_format_3_in_an_older_file(self, tmp_path: Path, value: Any) -> None:
        folder = make_head(CONFIG).save_pretrained(tmp_path / "head")
        edit_config(folder, focal_length=value)
        assert "focal_length belongs to format 3" in refused(folder)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_what_is_not_finite_is_not_saved(self, tmp_path: Path, bad: float) -> None:
        head = head_that_knows()
        head.familiarity.rest.fill_(bad)
        with pytest.raises(CheckpointError, match=r"familiarity\.rest"):
            head.save_pretrained(tmp_path)


@pytest.mark.real
@pytest.mark.slow
class TestRealTower:
    """A DeiT that was trained on ImageNet, and photos of rooms."""

    @pytest.fixture
    def maps(self, real_weights: Path) -> Callable[[Tensor], Tensor]:
        tower = timm.create_model("deit_tiny_patch16_224").eval()
        tower.load_state_dict(load_file(real_weights / "deit_tiny" / "deit_tiny_timm.safetensors"))

        def third_state(pixels: Tensor) -> Tensor:
            with torch.no_grad():
                hidden = tower.forward_intermediates(pixels, indices=[2], intermediates_only=True)
            return hidden[0]

        return third_state

    @pytest.fixture
    def rooms(self, real_data: Path) -> Tensor:
        """(100, 3, 224, 224), without the white frame."""
        photos = sorted((real_data / "nyu" / "rgb").iterdir())[:100]
        found = [Image.open(photo).convert("RGB").crop((8, 8, 632, 472)).resize((224, 224)) for photo in photos]
        pixels = torch.from_numpy(np.stack([np.asarray(one) for one in found])).permute(0, 3, 1, 2) / 255
        return (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.226

    def test_rooms_are_known_and_what_is_no_photo_is_not(self, maps: Callable[[Tensor], Tensor], rooms: Tensor) -> None:
        known = Familiarity.learnt(maps(rooms[:70]).mean(dim=(2, 3))[:, None], tap=3)
        assert float(known(maps(rooms[70:])).mean()) > 0.2
        average = rooms.mean(dim=(0, 2, 3))[:, None, None]
        shade = torch.ones(3, 224, 224)
        noise = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(0))
        blank = torch.stack([0 * shade, 2 * shade, -2 * shade, average * shade, noise, rooms.mean(dim=0)])
        assert known(maps(blank)).tolist() == [0.0] * 6
