"""What every adapter promises, held against the libraries' own account of every tiny host."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from families import HOSTS
from open_clip.transformer import Transformer
from tiny_hosts import (
    BATCH,
    BLOCKS,
    PATCH,
    SQUARE,
    WIDTH,
    TinyHost,
    captured,
    contract_of,
    open_clip_truth,
)
from torch import Tensor, nn

from spaceclip_adapters import clip, open_clip, siglip, timm_vit
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.packed_reader import PackedReader
from spaceclip_plugin.towers.registry import find_towers, installed_adapters
from spaceclip_plugin.towers.spec import ATTENTION_POOL, CLS, MEAN, RawFrame, Tower, TowerFeatures
from spaceclip_plugin.towers.structural import StructuralAdapter

IMAGENET = ImageStatistics.IMAGENET
ADAPTERS: dict[str, Any] = dict(installed_adapters())


@dataclasses.dataclass
class Seen:
    """One tiny host with one image call through it."""

    tiny: TinyHost
    host: nn.Module
    tower: Tower
    pixels: Tensor
    frame: RawFrame
    features: TowerFeatures


def look(tiny: TinyHost) -> Seen:
    host, pixels = tiny.seeded(), tiny.pixels()
    (tower,) = ADAPTERS[tiny.adapter].find(host)
    with torch.no_grad(), captured(tower) as frames:
        tiny.run(host, pixels)
    (frame,) = frames
    return Seen(tiny, host, tower, pixels, frame, tower.adapter.features(frame, tower))


@pytest.fixture(scope="module", params=HOSTS, ids=lambda tiny: tiny.name)
def seen(request: pytest.FixtureRequest) -> Seen:
    return look(request.param)


def by_name(name: str) -> TinyHost:
    return next(tiny for tiny in HOSTS if tiny.name == name)


@pytest.mark.parametrize("tiny", HOSTS, ids=lambda tiny: tiny.name)
def test_the_tower_is_where_its_library_puts_it(tiny: TinyHost, record_property: Callable[[str, object], None]) -> None:
    """Also tells the version matrix which hosts there are, whether or not an adapter finds their tower."""
    host = tiny.seeded()
    for name, value in contract_of(tiny.name, tiny.adapter, host, host.get_submodule(tiny.path)).items():
        record_property(name, value)
    assert [tower.spec.path for tower in find_towers(host)] == [tiny.path]


class TestEveryHost:
    def test_tower_is_described(self, seen: Seen) -> None:
        spec, tiny = seen.tower.spec, seen.tiny
        assert spec.adapter == tiny.adapter
        assert spec.path == tiny.path
        assert (spec.width, spec.blocks, spec.patch_size) == (WIDTH, BLOCKS, PATCH)
        assert spec.image_hw == (tiny.built_for or tiny.image_hw)
        assert spec.context == tiny.context
        assert seen.tower.module is seen.host.get_submodule(tiny.path)
        assert len(seen.tower.blocks) == BLOCKS

    def test_no_other_adapter_claims_it(self, seen: Seen) -> None:
        others = [adapter for name, adapter in ADAPTERS.items() if name != seen.tiny.adapter]
        assert [adapter.name for adapter in others if adapter.find(seen.host)] == []

    def test_frame_is_the_image(self, seen: Seen) -> None:
        assert seen.frame.call.batch in (BATCH, None)
        assert seen.frame.call.grid_hw in (seen.tiny.grid_hw, None)
        assert {tuple(value.shape) for value in seen.features.hidden.values()} == {(BATCH, WIDTH, *seen.tiny.grid_hw)}
        assert seen.features.image_hw == seen.tiny.image_hw
        assert seen.features.valid is None

    def test_maps_are_the_hosts_hidden_states(self, seen: Seen) -> None:
        with torch.no_grad():
            hidden, _ = seen.tiny.truth(seen.tower.module, seen.pixels)
        height, width = seen.tiny.grid_hw
        assert sorted(seen.features.hidden) == list(range(BLOCKS + 1))
        assert len(hidden) == BLOCKS + 1
        for index, tokens in enumerate(hidden):
            patches = tokens[:, seen.tiny.prefix :]
            expected = patches.transpose(1, 2).reshape(BATCH, WIDTH, height, width)
            assert torch.equal(seen.features.hidden[index], expected), f"hidden state {index}"

    def test_maps_are_views(self, seen: Seen) -> None:
        if isinstance(seen.tower.adapter, PackedReader):
            pytest.skip("images are gathered from a packed sequence")
        for index, raw in seen.frame.hidden.items():
            patch_map = seen.features.hidden[index]
            assert patch_map.untyped_storage().data_ptr() == raw.untyped_storage().data_ptr()

    def test_context_is_the_hosts_pooled_vector(self, seen: Seen) -> None:
        with torch.no_grad():
            _, pooled = seen.tiny.truth(seen.tower.module, seen.pixels)
        assert seen.features.context is not None
        assert seen.features.context.shape == (BATCH, WIDTH)
        assert torch.equal(seen.features.context, pooled)

    @pytest.mark.parametrize("corner", [(0, 0), (1, 2), (-1, -1), (2, 0)])
    def test_a_patch_of_the_image_is_its_place_in_the_map(self, seen: Seen, corner: tuple[int, int]) -> None:
        row, column = corner[0] % seen.tiny.grid_hw[0], corner[1] % seen.tiny.grid_hw[1]
        changed = seen.pixels.clone()
        changed[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 1.0
        with torch.no_grad(), captured(seen.tower) as frames:
            seen.tiny.run(seen.host, changed)
        before, after = seen.features.hidden[0], seen.tower.adapter.features(frames[0], seen.tower).hidden[0]
        moved = ((after - before).abs().amax(dim=1) > 1e-4).nonzero()
        assert moved.tolist() == [[image, row, column] for image in range(BATCH)]

    def test_in_bfloat16_the_tower_alone_sees_about_the_same(self, seen: Seen) -> None:
        """As training features are made where a recipe says so."""
        tower, maps = seen.tower, []
        pixels = torch.randn(BATCH, 3, *tower.spec.image_hw, generator=torch.Generator().manual_seed(3))
        for faster in (False, True):
            with torch.no_grad(), captured(tower) as frames, torch.autocast("cpu", torch.bfloat16, enabled=faster):
                tower.adapter.run(tower, pixels)
            maps.append(tower.adapter.features(frames[0], tower).hidden)
        for index, own in maps[0].items():
            assert float((maps[1][index].float() - own).norm() / own.norm()) < 0.05, index

    def test_structure_alone_gives_the_same_maps(self, seen: Seen) -> None:
        if seen.tiny.packed:
            assert StructuralAdapter().find(seen.host) == []
            return
        (tower,) = StructuralAdapter().find(seen.host)
        assert any(part is tower.entry for part in seen.tower.entry.modules())
        assert tower.blocks == seen.tower.blocks
        assert tower.spec.path == seen.tower.spec.path
        assert tower.spec.image_hw == seen.tower.spec.image_hw
        with torch.no_grad(), captured(tower) as frames:
            seen.tiny.run(seen.host, seen.pixels)
        features = tower.adapter.features(frames[0], tower)
        assert features.hidden.keys() == seen.features.hidden.keys()
        for index, patch_map in features.hidden.items():
            assert torch.equal(patch_map, seen.features.hidden[index])
        assert features.context is not None
        assert features.context.shape == (BATCH, WIDTH)

    def test_finding_changes_nothing(self, seen: Seen) -> None:
        def insides() -> list[tuple[int, int, bool, list[str]]]:
            return [
                (len(part._forward_hooks), len(part._forward_pre_hooks), part.training, sorted(vars(part)))
                for part in seen.host.modules()
            ]

        before = insides()
        for adapter in (*ADAPTERS.values(), StructuralAdapter()):
            adapter.find(seen.host)
        assert insides() == before


class TestStatistics:
    @pytest.mark.parametrize(
        ("name", "mean"),
        [
            ("clip-vision", clip.OPENAI_CLIP.mean),
            ("siglip-vision", (0.5, 0.5, 0.5)),
            ("timm-siglip", (0.5, 0.5, 0.5)),
            ("open-clip", clip.OPENAI_CLIP.mean),
        ],
    )
    def test_family(self, name: str, mean: tuple[float, float, float]) -> None:
        tiny = by_name(name)
        (tower,) = ADAPTERS[tiny.adapter].find(tiny.seeded())
        assert tower.spec.image_mean == mean

    def test_timm_without_configuration_is_imagenet(self) -> None:
        host = by_name("timm-cls").seeded()
        host.pretrained_cfg = {}
        (tower,) = timm_vit.adapter.find(host)
        assert (tower.spec.image_mean, tower.spec.image_std) == (
            IMAGENET.mean,
            IMAGENET.std,
        )

    @pytest.mark.parametrize("name", ["open-clip", "open-clip-timm"])
    def test_open_clip_declaration_comes_first(self, name: str) -> None:
        tiny = by_name(name)
        host = tiny.seeded()
        host.visual.image_mean, host.visual.image_std = (0.1, 0.2, 0.3), [1, 1, 1]
        (tower,) = ADAPTERS[tiny.adapter].find(host)
        assert tower.spec.image_mean == (0.1, 0.2, 0.3)
        assert tower.spec.image_std == (1.0, 1.0, 1.0)


class TestOpenClipLayout:
    """Blocks in (N, B, C), as open_clip up to 2.24 and OpenAI's CLIP have them; 17 images of 17 tokens tell nothing."""

    @pytest.mark.parametrize("batch", [BATCH, 17])
    @pytest.mark.parametrize("sequence_first", [False, True])
    def test_maps_and_context(self, batch: int, sequence_first: bool) -> None:
        host = by_name("open-clip").seeded()
        visual = host.visual
        visual.positional_embedding = nn.Parameter(torch.randn(17, WIDTH))
        if "batch_first" in inspect.signature(Transformer).parameters:
            weights = visual.transformer.state_dict()
            visual.transformer = Transformer(WIDTH, BLOCKS, 4, batch_first=not sequence_first).eval()
            visual.transformer.load_state_dict(weights)
        elif visual.transformer.resblocks[0].attn.batch_first is sequence_first:
            pytest.skip("the installed open_clip has the other layout only")
        pixels = torch.randn(batch, 3, *SQUARE)
        for adapter in (open_clip.adapter, StructuralAdapter()):
            (tower,) = adapter.find(host)
            with torch.no_grad(), captured(tower) as frames:
                host.encode_image(pixels)
            assert frames[0].hidden[1].shape == ((17, batch, WIDTH) if sequence_first else (batch, 17, WIDTH))
            features = adapter.features(frames[0], tower)
            with torch.no_grad():
                hidden, pooled = open_clip_truth(visual, pixels)
            for index, tokens in enumerate(hidden):
                expected = tokens[:, 1:].transpose(1, 2).reshape(batch, WIDTH, 4, 4)
                torch.testing.assert_close(features.hidden[index], expected)
            torch.testing.assert_close(features.context, pooled)


class TestVariants:
    def test_a_renamed_class_is_found_by_what_it_derives_from(self) -> None:
        host = by_name("clip").seeded()
        tower_class = type(host.vision_model)
        host.vision_model.__class__ = type(f"FSDP{tower_class.__name__}", (tower_class,), {})
        (tower,) = clip.adapter.find(host)
        assert tower.spec.path == "vision_model"

    def test_an_inner_tower_is_found_once(self) -> None:
        """transformers up to 5.5: a `CLIPVisionModel` without parts of its own around a `CLIPVisionTransformer`."""
        (tower,) = clip.adapter.find(by_name("clip-vision").seeded())
        known = tower.module
        inner = type("CLIPVisionTransformer", (nn.Module,), {})()
        inner.config = known.config
        inner.embeddings, inner.encoder, inner.post_layernorm = known.embeddings, known.encoder, known.post_layernorm
        outer = type("CLIPVisionModel", (nn.Module,), {})()
        outer.vision_model = inner
        (tower,) = clip.adapter.find(outer)
        assert tower.spec.path == "vision_model"

    def test_known_name_with_unknown_insides_is_skipped_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, logger="spaceclip_plugin"):
            assert clip.adapter.find(nn.ModuleDict({"eye": type("CLIPVisionModel", (nn.Module,), {})()})) == []
        assert "skips the CLIPVisionModel at 'eye'" in caplog.text

    @pytest.mark.parametrize("name", ["clip", "siglip", "timm-cls", "open-clip"])
    def test_compiled_hosts_and_blocks_are_seen_through(self, name: str) -> None:
        tiny = by_name(name)
        host = tiny.seeded()
        (bare,) = ADAPTERS[tiny.adapter].find(host)
        adapter = ADAPTERS[tiny.adapter]
        stack = adapter.stack_at(bare.module, *adapter.blocks)
        for index, block in enumerate(bare.blocks):
            stack[index] = torch.compile(block)
        for adapter in (ADAPTERS[tiny.adapter], StructuralAdapter()):
            (tower,) = adapter.find(torch.compile(host))
            assert tower.spec.path == ".".join(filter(None, ("_orig_mod", tiny.path)))
            assert tower.blocks == tuple(stack)

    def test_openais_original_has_the_parts_of_open_clip(self) -> None:
        host = by_name("open-clip").seeded()
        host.visual.input_resolution = SQUARE[0]
        del host.visual.image_size
        host.visual.transformer.resblocks = nn.Sequential(*host.visual.transformer.resblocks)
        (tower,) = open_clip.adapter.find(host)
        assert (tower.spec.image_hw, tower.spec.blocks) == (SQUARE, BLOCKS)

    def test_a_removed_siglip_head_gives_way_to_the_mean(self) -> None:
        host = by_name("siglip-vision").seeded()
        tower_module = siglip.adapter.find(host)[0].module
        tower_module.head = nn.Identity()
        (tower,) = siglip.adapter.find(host)
        assert tower.spec.context == MEAN
        assert tower.context_source is tower_module.post_layernorm

    def test_naflex_is_not_claimed(self) -> None:
        if not hasattr(transformers, "Siglip2VisionConfig"):
            pytest.skip(f"transformers {transformers.__version__} has no Siglip2")
        config = transformers.Siglip2VisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_patches=16
        )
        host = transformers.Siglip2VisionModel(config)
        assert siglip.adapter.find(host) == []
        assert StructuralAdapter().find(host) == []

    def test_two_towers_come_in_module_order(self) -> None:
        tiny = by_name("timm-cls")
        host = nn.ModuleDict({"featurizer": tiny.seeded(), "fused_featurizer": tiny.seeded()})
        paths = [tower.spec.path for tower in timm_vit.adapter.find(host)]
        assert paths == ["featurizer", "fused_featurizer"]
        assert [tower.spec.path for tower in StructuralAdapter().find(host)] == paths


class TestRefusals:
    """A frame that is not what the tower should give is refused with the tower, the tap and both shapes named."""

    @pytest.fixture
    def seen(self) -> Seen:
        return look(by_name("clip-vision"))

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((BATCH, 17, WIDTH + 1), r"hidden state 1 .* width 32.* \(2, 17, 33\), expected \(B=2, N>=1\+4\*4, C=32\)"),
            ((BATCH + 1, 17, WIDTH), r"hidden state 1 .* \(3, 17, 32\)"),
            ((BATCH, WIDTH), r"hidden state 1 .* \(2, 32\)"),
            ((BATCH, 16, WIDTH), r"16 - 16 = 0 prefix tokens where there are at least 1.*patch dropout"),
            ((BATCH, 9, WIDTH), r"9 - 16 = -7 prefix tokens"),
        ],
    )
    def test_hidden_state(self, seen: Seen, shape: tuple[int, ...], message: str) -> None:
        seen.frame.hidden[1] = torch.zeros(shape)
        with pytest.raises(CaptureError, match=message):
            seen.tower.adapter.features(seen.frame, seen.tower)

    @pytest.mark.parametrize(
        ("kind", "shape", "message"),
        [
            (CLS, (BATCH, WIDTH + 1), r"the context .* \(2, 33\), expected \(B=2, C=32\) or \(B, N, C\)"),
            (CLS, (1, WIDTH), r"the context .* \(1, 32\)"),
            (ATTENTION_POOL, (BATCH, 16, WIDTH), r"the context .* \(2, 16, 32\), expected .* or \(B, 1, C\)"),
            (MEAN, (BATCH, 9, WIDTH), r"the context .* \(2, 9, 32\)"),
        ],
    )
    def test_context(self, seen: Seen, kind: str, shape: tuple[int, ...], message: str) -> None:
        tower = dataclasses.replace(seen.tower, spec=dataclasses.replace(seen.tower.spec, context=kind))
        seen.frame.context = torch.zeros(shape)
        with pytest.raises(CaptureError, match=message):
            tower.adapter.features(seen.frame, tower)

    def test_a_single_query_is_squeezed(self, seen: Seen) -> None:
        tower = dataclasses.replace(seen.tower, spec=dataclasses.replace(seen.tower.spec, context=ATTENTION_POOL))
        seen.frame.context = torch.randn(BATCH, 1, WIDTH)
        features = tower.adapter.features(seen.frame, tower)
        assert torch.equal(features.context, seen.frame.context[:, 0])

    def test_no_context_asked_none_given(self, seen: Seen) -> None:
        seen.frame.context = None
        assert seen.tower.adapter.features(seen.frame, seen.tower).context is None

    def test_patch_dropout_is_noticed(self) -> None:
        host = copy.deepcopy(by_name("timm-cls").seeded())
        host.patch_drop = nn.Identity()
        host.patch_drop.forward = lambda tokens: tokens[:, :-3]
        (tower,) = timm_vit.adapter.find(host)
        with torch.no_grad(), captured(tower) as frames:
            host(by_name("timm-cls").pixels())
        with pytest.raises(CaptureError, match="patch dropout"):
            tower.adapter.features(frames[0], tower)


def test_the_images_are_those_that_the_tower_took(seen: Seen) -> None:
    adapter = seen.tower.adapter
    assert adapter.gives_pixels, "a head that reads pixels cannot be used; say so in adapters/README.md"
    pixels = adapter.pixels(seen.frame, seen.tower)
    assert tuple(pixels.shape) == (len(pixels), 3, *seen.features.image_hw)
    assert torch.equal(pixels.reshape(-1, 3, *seen.features.image_hw), seen.pixels.reshape(pixels.shape))
