"""What a head's config accepts, refuses and says, from Python and from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceclip_plugin import DepthHeadConfig
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.fields import shown
from spaceclip_plugin.head.space_clip import SpaceClipOptions
from spaceclip_plugin.tower import CONTEXT_KINDS, TowerSpec

SPEC = TowerSpec(
    adapter="clip",
    path="vision",
    width=1024,
    blocks=24,
    patch_size=14,
    image_hw=(224, 224),
    context="cls",
    image_mean=(0.48, 0.46, 0.41),
    image_std=(0.27, 0.26, 0.28),
)


def saved(**changes: Any) -> dict[str, Any]:
    """A config as config.json holds it, with some fields changed."""
    return {**json.loads(json.dumps(DepthHeadConfig().to_dict())), **changes}


def saved_options(**changes: Any) -> dict[str, Any]:
    values = saved()
    return {**values, "options": {**values["options"], **changes}}


@st.composite
def configs(draw: st.DrawFn) -> DepthHeadConfig:
    blocks = draw(st.integers(1, 40))
    channels = tuple(draw(st.lists(st.integers(2, 2048), min_size=1, max_size=6)))
    taps = st.integers(0, blocks)
    options = SpaceClipOptions(
        semantic_taps=tuple(draw(st.lists(taps, min_size=len(channels), max_size=len(channels)))),
        structural_taps=tuple(draw(st.lists(taps, max_size=len(channels)))),
        channels=channels,
        film_hidden=draw(st.none() | st.integers(1, 8192)),
        auxiliary=draw(st.booleans()),
        dropout=draw(st.floats(0, 0.9)),
    )
    said = st.none() | st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=500).filter(
        lambda text: bool(text.strip())
    )
    statistics = st.none() | st.tuples(*[st.floats(1e-6, 1e3)] * 3)
    near = draw(st.floats(1e-6, 1e4))
    return DepthHeadConfig(
        options=options,
        width=draw(st.integers(1, 16384)),
        blocks=draw(st.just(blocks) | st.none()),
        context=draw(st.none() | st.sampled_from(CONTEXT_KINDS)),
        image_mean=draw(statistics),
        image_std=draw(statistics),
        depth_range_m=(near, 2 * near),
        base_model=draw(said),
        trained_on=draw(said),
    )


class TestTaps:
    @pytest.mark.parametrize(
        ("blocks", "semantic", "structural"),
        [
            (12, (12, 9, 6, 3), (2, 1, 0)),
            (24, (24, 18, 12, 6), (4, 2, 0)),
            (27, (27, 20, 14, 7), (5, 2, 0)),
            (6, (6, 5, 3, 2), (1, 1, 0)),
            (4, (4, 3, 2, 1), (1, 0, 0)),
            (2, (2, 2, 1, 1), (0, 0, 0)),
            (1, (1, 1, 1, 0), (0, 0, 0)),
        ],
    )
    def test_they_scale_with_the_tower(
        self, blocks: int, semantic: tuple[int, ...], structural: tuple[int, ...]
    ) -> None:
        for_tower = DepthHeadConfig.for_tower(dataclasses.replace(SPEC, blocks=blocks)).options
        assert for_tower == DepthHeadConfig(blocks=blocks).options
        assert (for_tower.semantic_taps, for_tower.structural_taps) == (semantic, structural)

    def test_they_lie_inside_every_tower_deepest_first(self) -> None:
        for blocks in range(1, 513):
            options = SpaceClipOptions.for_blocks(blocks)
            assert options.semantic_taps[0] == blocks
            for taps in (options.semantic_taps, options.structural_taps):
                assert list(taps) == sorted(taps, reverse=True)
                assert 0 <= taps[-1] <= taps[0] <= blocks

    def test_taps_are_named_once_in_ascending_order(self) -> None:
        assert SpaceClipOptions(semantic_taps=(6, 6, 3, 0), structural_taps=(3, 1)).taps == (0, 1, 3, 6)

    def test_an_unknown_tower_takes_the_published_ones(self) -> None:
        assert DepthHeadConfig(blocks=None).options == SpaceClipOptions()


class TestForTower:
    def test_it_says_what_the_tower_is(self) -> None:
        config = DepthHeadConfig.for_tower(SPEC)
        assert (config.width, config.blocks, config.context) == (1024, 24, "cls")
        assert (config.image_mean, config.image_std) == (SPEC.image_mean, SPEC.image_std)
        assert config.mismatches(SPEC) == []
        assert config.trained_on is None

    def test_overrides_reach_the_config_and_its_options(self) -> None:
        config = DepthHeadConfig.for_tower(
            SPEC, trained_on="NYU", base_model="clip", depth_range_m=[0.1, 80], film_hidden=None, channels=[8, 6, 4, 2]
        )
        assert (config.trained_on, config.base_model, config.depth_range_m) == ("NYU", "clip", (0.1, 80.0))
        assert (config.options.film_hidden, config.options.channels) == (None, (8, 6, 4, 2))
        assert config.options.semantic_taps == (24, 18, 12, 6)

    def test_whole_options_are_taken_as_they_are(self) -> None:
        options = SpaceClipOptions(film_hidden=3)
        assert DepthHeadConfig.for_tower(SPEC, options=options).options == options

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"trained": "NYU"}, r"unknown key 'trained' \(did you mean 'trained_on'\?\)"),
            ({"film_hiden": 3}, r"unknown key 'film_hiden' \(did you mean 'film_hidden'\?\)"),
            ({"zzzzzz": 3}, "unknown key 'zzzzzz'; known are options, width"),
            ({"options": SpaceClipOptions(), "dropout": 0.5}, r"options, or single fields of them \(dropout\), not"),
            ({"channels": (8, 4)}, "one tap per stage: 2 channels, 4 taps; give channels and semantic_taps"),
            ({"architecture": "space-clop"}, r"unknown head architecture 'space-clop' \(did you mean 'space-clip'\?\)"),
            ({"architecture": ""}, "unknown head architecture ''; known are space-clip"),
        ],
    )
    def test_other_overrides_are_refused(self, overrides: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig.for_tower(SPEC, **overrides)


class TestFields:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("width", value) for value in (0, -1, 16385, 10**30, 768.0, "768", True, None, [768])),
            *(("blocks", value) for value in (0, 513, True, 12.0, "12")),
            *(("context", value) for value in ("CLS", "", 3, ["cls"], {})),
            *(("image_mean", value) for value in ((0.5,), (0.5, 0.5, math.nan), (0.5, 0.5, 1e400), 0.5, "abc")),
            *(("image_std", value) for value in ((0.0, 0.5, 0.5), (0.5, 0.5, -0.5), (True, 0.5, 0.5))),
            *(("depth_range_m", value) for value in ((1.0, 1.0), (5.0, 1.0), (0.0, 1.0), (1.0, 1e400), (1.0,), None)),
            *(("base_model", value) for value in ("", "  ", "x" * 501, 3, "\x1b[31mred", "two\nlines", "half \ud800")),
            *(("trained_on", value) for value in (False, "", ["NYU"])),
            *(("architecture", value) for value in (None, 3, ["space-clip"], "x" * 100_000)),
            *(("options", value) for value in (3, "published", [1], SPEC)),
        ],
        ids=lambda value: shown(value)[:30],
    )
    def test_impossible_values_are_refused_by_name(self, field: str, value: object) -> None:
        with pytest.raises(ConfigError, match=field) as caught:
            DepthHeadConfig(**{field: value})
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("channels", value) for value in ((), (8,) * 7, (8, 8, 8, 1), (8, 8, 8, 2049), (8, 8, 8, True), "8888")),
            *(("semantic_taps", value) for value in ((), (12, 9, 6), (12, 9, 6, -1), (513, 9, 6, 3), (12, 9, 6, 3.0))),
            *(("structural_taps", value) for value in ((0,) * 5, (-1,), 0, None, (10**30,))),
            *(("film_hidden", value) for value in (0, -1, 8193, False, 2.5, "256")),
            *(("auxiliary", value) for value in (0, 1, None, "true", "x" * 100_000)),
            *(("dropout", value) for value in (-0.1, 0.91, math.nan, math.inf, True, "0.1", None)),
        ],
        ids=lambda value: shown(value)[:30],
    )
    def test_impossible_options_are_refused_by_name(self, field: str, value: object) -> None:
        with pytest.raises(ConfigError, match=field) as caught:
            DepthHeadConfig(options={field: value})
        assert len(str(caught.value)) < 400

    def test_an_integer_that_python_cannot_spell_out_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="width must be an integer from 1 to 16384, got int too long to show"):
            DepthHeadConfig(width=10**5000)

    def test_a_tap_beyond_the_tower_is_refused(self) -> None:
        with pytest.raises(
            ConfigError, match="tap 12 lies beyond a tower of 11 blocks; hidden states run from 0 to 11"
        ):
            DepthHeadConfig(blocks=11, options=SpaceClipOptions())


class TestJson:
    @settings(deadline=None, max_examples=60)
    @given(configs())
    def test_a_config_survives_its_file(self, config: DepthHeadConfig) -> None:
        text = json.dumps(config.to_dict(), allow_nan=False, ensure_ascii=False).encode()
        back = DepthHeadConfig.from_dict(json.loads(text))
        assert back == config
        assert hash(back) == hash(config)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1], r"must be an object, got \[1\]"),
            ({"model_type": "clip"}, "no format_version: this is not the config of a depth head"),
            (saved(format_version=2), "format_version must be 1, got 2; update"),
            *((saved(format_version=v), "format_version must be 1") for v in (True, 1.0, "1", None)),
            (saved(widht=3), r"config: unknown key 'widht' \(did you mean 'width'\?\)"),
            (saved(options=None), "options must be an object, got None"),
            (saved(options=[]), "options must be an object"),
            (saved(architecture="dpt"), "unknown head architecture 'dpt'; known are space-clip"),
            (saved(architecture={}), "unknown head architecture {}"),
            (saved_options(film=3), r"options of 'space-clip': unknown key 'film' \(did you mean 'film_hidden'\?\)"),
            (saved_options(channels=[8]), "1 channels, 4 taps"),
        ],
    )
    def test_another_file_is_refused(self, values: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig.from_dict(values)

    def test_a_config_from_before_several_widths(self) -> None:
        values = saved()
        del values["tap_widths"]
        assert DepthHeadConfig.from_dict(values) == DepthHeadConfig.from_dict(saved())

    @pytest.mark.parametrize("key", sorted(saved().keys() - {"tap_widths"}))
    def test_every_key_must_be_there(self, key: str) -> None:
        values = saved()
        del values[key]
        with pytest.raises(ConfigError, match=key):
            DepthHeadConfig.from_dict(values)

    @pytest.mark.parametrize("key", list(saved()["options"]))
    def test_every_option_must_be_there(self, key: str) -> None:
        values = saved()
        del values["options"][key]
        with pytest.raises(ConfigError, match=f"options of 'space-clip': missing key '{key}'"):
            DepthHeadConfig.from_dict(values)

    def test_a_misspelled_key_is_told_before_the_missing_one(self) -> None:
        values = saved(widht=768)
        del values["width"]
        with pytest.raises(ConfigError, match="did you mean 'width'"):
            DepthHeadConfig.from_dict(values)


class TestMismatches:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": 768}, "the head reads tokens of width 1024, the tower's have 768"),
            ({"blocks": 12}, "the head was made for 24 blocks, the tower has 12"),
            ({"context": "mean"}, "the head reads a 'cls' context, the tower gives 'mean'"),
        ],
    )
    def test_both_sides_are_named(self, changes: dict[str, Any], message: str) -> None:
        assert message in DepthHeadConfig.for_tower(SPEC).mismatches(dataclasses.replace(SPEC, **changes))

    def test_a_head_without_film_fits_any_context(self) -> None:
        config = DepthHeadConfig.for_tower(SPEC, film_hidden=None)
        assert config.mismatches(dataclasses.replace(SPEC, context="mean")) == []

    def test_unknown_facts_are_no_mismatch_but_a_tap_out_of_reach_is(self) -> None:
        config = DepthHeadConfig(width=1024, blocks=None, context=None)
        assert config.mismatches(SPEC) == []
        [found] = config.mismatches(dataclasses.replace(SPEC, blocks=8))
        assert found == "the head taps hidden state 12, the tower's last is 8"
