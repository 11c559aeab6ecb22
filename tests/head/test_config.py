"""What a head's config accepts, refuses and says, from Python and from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceclip_plugin import DepthHeadConfig
from spaceclip_plugin._checks import shown
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from spaceclip_plugin.head.decoder import DecoderOptions
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.head.tap_mixer import HEAD_CHANNELS, TapMixerOptions
from spaceclip_plugin.towers.spec import CONTEXT_KINDS, TowerSpec

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


def saved(name: str = DEFAULT_ARCHITECTURE, /, **changes: Any) -> dict[str, Any]:
    """A config as config.json holds it, with some fields changed."""
    return {**json.loads(json.dumps(DepthHeadConfig(name).to_dict())), **changes}


def saved_options(name: str, /, **changes: Any) -> dict[str, Any]:
    values = saved(name)
    return {**values, "options": {**values["options"], **changes}}


def space_clip_options(draw: st.DrawFn, blocks: int) -> SpaceClipOptions:
    channels = tuple(draw(st.lists(st.integers(2, 2048), min_size=1, max_size=6)))
    taps = st.integers(0, blocks)
    return SpaceClipOptions(
        semantic_taps=tuple(draw(st.lists(taps, min_size=len(channels), max_size=len(channels)))),
        structural_taps=tuple(draw(st.lists(taps, max_size=len(channels)))),
        channels=channels,
        film_hidden=draw(st.none() | st.integers(1, 8192)),
        auxiliary=draw(st.booleans()),
        dropout=draw(st.floats(0, 0.9)),
    )


def tap_mixer_options(draw: st.DrawFn, blocks: int) -> TapMixerOptions:
    first, *rest = draw(st.lists(st.integers(2, 4096), min_size=1, max_size=5))
    attention = draw(st.integers(0, 16))
    channels = (HEAD_CHANNELS * (1 + first % 85) if attention else first, *rest)
    count = len(channels)
    return TapMixerOptions(
        taps=tuple(sorted(draw(st.sets(st.integers(0, blocks), min_size=1)))),
        channels=channels,
        attention=attention,
        convolutions=tuple(draw(st.lists(st.integers(0, 16), min_size=count, max_size=count))),
        uncertainty=draw(st.booleans()),
        dropout=draw(st.floats(0, 0.9)),
        pixels=draw(st.integers(0, 1024)),
    )


ANY_OPTIONS: dict[str, Callable[[st.DrawFn, int], DecoderOptions]] = {
    "space-clip": space_clip_options,
    "tap-mixer": tap_mixer_options,
}


@st.composite
def configs(draw: st.DrawFn) -> DepthHeadConfig:
    blocks = draw(st.integers(1, 40))
    said = st.none() | st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=500).filter(
        lambda text: bool(text.strip())
    )
    statistics = st.none() | st.tuples(*[st.floats(1e-6, 1e3)] * 3)
    near = draw(st.floats(1e-6, 1e4))
    return DepthHeadConfig(
        options=ANY_OPTIONS[draw(st.sampled_from(sorted(ARCHITECTURES)))](draw, blocks),
        width=draw(st.integers(1, 16384)),
        blocks=draw(st.just(blocks) | st.none()),
        context=draw(st.none() | st.sampled_from(CONTEXT_KINDS)),
        image_mean=draw(statistics),
        image_std=draw(statistics),
        depth_range_m=(near, 2 * near),
        base_model=draw(said),
        trained_on=draw(said),
        preparation=draw(said),
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
    def test_the_published_ones_scale_with_the_tower(
        self, blocks: int, semantic: tuple[int, ...], structural: tuple[int, ...]
    ) -> None:
        options = SpaceClipOptions.for_blocks(blocks)
        assert (options.semantic_taps, options.structural_taps) == (semantic, structural)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_every_architecture_s_scale_with_the_tower(self, name: str) -> None:
        for blocks in (1, 2, 12, 27):
            scaled = ARCHITECTURES[name].options.for_blocks(blocks)
            assert DepthHeadConfig(name, blocks=blocks).options == scaled
            spec = dataclasses.replace(SPEC, blocks=blocks)
            assert DepthHeadConfig.for_tower(spec, architecture=name).options == scaled

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_they_lie_inside_every_tower_and_reach_its_end(self, name: str) -> None:
        for blocks in range(1, 513):
            taps = ARCHITECTURES[name].options.for_blocks(blocks).taps
            assert list(taps) == sorted(set(taps))
            assert 0 <= taps[0] <= taps[-1] == blocks

    def test_the_published_ones_run_deepest_first(self) -> None:
        for blocks in range(1, 513):
            options = SpaceClipOptions.for_blocks(blocks)
            for taps in (options.semantic_taps, options.structural_taps):
                assert list(taps) == sorted(taps, reverse=True)

    def test_taps_are_named_once_in_ascending_order(self) -> None:
        assert SpaceClipOptions(semantic_taps=(6, 6, 3, 0), structural_taps=(3, 1)).taps == (0, 1, 3, 6)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_an_unknown_tower_takes_the_defaults(self, name: str) -> None:
        assert DepthHeadConfig(name, blocks=None).options == ARCHITECTURES[name].options()


class TestArchitecture:
    def test_the_default(self) -> None:
        names = {c.architecture for c in (DepthHeadConfig(), DepthHeadConfig.for_tower(SPEC))}
        assert names == {DEFAULT_ARCHITECTURE}

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_options_tell_theirs(self, name: str) -> None:
        options = ARCHITECTURES[name].options()
        assert DepthHeadConfig(options=options) == DepthHeadConfig(name, options) == DepthHeadConfig(name)
        assert DepthHeadConfig.for_tower(SPEC, options=options).architecture == name

    def test_an_option_of_another_one_says_whose_it_is(self) -> None:
        with pytest.raises(
            ConfigError, match="'film_hidden' is an option of 'space-clip'; give architecture='space-clip'"
        ):
            DepthHeadConfig.for_tower(SPEC, options={"film_hidden": None})

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_another_one_s_options_are_refused(self, name: str) -> None:
        other = next(other for other in ARCHITECTURES if other != name)
        own, foreign = ARCHITECTURES[name].options, ARCHITECTURES[other].options
        message = f"options of '{name}' must be {own.__name__}, got {foreign.__name__}"
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig(name, foreign())
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig.for_tower(SPEC, architecture=name, options=foreign())


class TestForTower:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_it_says_what_the_tower_is(self, name: str) -> None:
        config = DepthHeadConfig.for_tower(SPEC, architecture=name)
        assert (config.width, config.blocks, config.context) == (1024, 24, "cls")
        assert (config.image_mean, config.image_std) == (SPEC.image_mean, SPEC.image_std)
        assert config.mismatches(SPEC) == []
        assert config.trained_on is None

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("space-clip", {"film_hidden": None, "channels": (8, 6, 4, 2)}),
            ("tap-mixer", {"uncertainty": False, "channels": (48, 4)}),
        ],
    )
    def test_what_is_told_reaches_the_config_and_its_options(self, name: str, changes: dict[str, Any]) -> None:
        config = DepthHeadConfig.for_tower(
            SPEC, architecture=name, options=changes, trained_on="NYU", base_model="clip"
        )
        assert (config.trained_on, config.base_model) == ("NYU", "clip")
        assert config.options == dataclasses.replace(ARCHITECTURES[name].options.for_blocks(24), **changes)

    @pytest.mark.parametrize(("name", "changes"), [("space-clip", {"film_hidden": 3}), ("tap-mixer", {"attention": 0})])
    def test_whole_options_are_taken_as_they_are(self, name: str, changes: dict[str, Any]) -> None:
        options = ARCHITECTURES[name].options(**changes)
        for given_options in (options, dataclasses.asdict(options)):
            assert DepthHeadConfig.for_tower(SPEC, architecture=name, options=given_options).options == options

    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"droput": 0.5}, r"unknown key 'droput' \(did you mean 'dropout'\?\)"),
            ({"zzzzzz": 3}, "unknown key 'zzzzzz'; known are "),
            ({3: 3}, "unknown key 3; known are "),
            (3, "got int"),
        ],
    )
    def test_other_options_are_refused(self, name: str, options: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig.for_tower(SPEC, architecture=name, options=options)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("space-clip", {"film_hiden": 3}, r"unknown key 'film_hiden' \(did you mean 'film_hidden'\?\)"),
            ("space-clip", {"channels": (8, 4)}, "one tap per stage: 2 channels, 4 taps; give channels and semantic_"),
            ("tap-mixer", {"film_hidden": 3}, "is an option of .space-clip."),
            ("tap-mixer", {"channels": (48, 4, 2)}, "convolutions must be a list of 3 values"),
            ("space-clop", {}, r"got 'space-clop' \(did you mean 'space-clip'\?\)"),
            ("", {}, "one of space-clip, tap-mixer, got ''"),
        ],
    )
    def test_what_an_architecture_does_not_take(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig.for_tower(SPEC, architecture=name, options=options)


class TestFields:
    @pytest.mark.parametrize("name", ARCHITECTURES)
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
            *(("architecture", value) for value in ("", 3, ["space-clip"], "x" * 100_000)),
            *(("options", value) for value in (3, "published", [1], SPEC)),
        ],
        ids=lambda value: shown(value)[:30],
    )
    def test_impossible_values_are_refused_by_name(self, name: str, field: str, value: object) -> None:
        with pytest.raises(ConfigError, match=field) as caught:
            DepthHeadConfig(**{"architecture": name, field: value})
        assert len(str(caught.value)) < 400

    @pytest.mark.parametrize(
        ("name", "field", "value"),
        [
            *(("space-clip", "channels", v) for v in ((), (8,) * 7, (8, 8, 8, 1), (8, 8, 8, 2049), (8, 8, 8, True))),
            *(("space-clip", "channels", v) for v in ("8888",)),
            *(("space-clip", "semantic_taps", v) for v in ((), (12, 9, 6), (12, 9, 6, -1), (513, 9, 6, 3))),
            *(("space-clip", "semantic_taps", v) for v in ((12, 9, 6, 3.0),)),
            *(("space-clip", "structural_taps", v) for v in ((0,) * 5, (-1,), 0, None, (10**30,))),
            *(("space-clip", "film_hidden", v) for v in (0, -1, 8193, False, 2.5, "256")),
            *(("space-clip", "auxiliary", v) for v in (0, 1, None, "true", "x" * 100_000)),
            *(("tap-mixer", "taps", v) for v in (12, None, (3.0,), (10**30,), tuple(range(65)))),
            *(("tap-mixer", "channels", v) for v in (None, "888", (192, True, 64), (192, 128, 4097))),
            *(("tap-mixer", "attention", v) for v in (17, 2.5, None, "x" * 100_000)),
            *(("tap-mixer", "convolutions", v) for v in (2, None, (2, 1, 17), (2, 1, -1), (2, 1, 10**30))),
            *(("tap-mixer", "uncertainty", v) for v in (0, None, "true", "x" * 100_000)),
            *(
                (name, "dropout", v)
                for name in ARCHITECTURES
                for v in (-0.1, 0.91, math.nan, math.inf, True, "0.1", None)
            ),
        ],
        ids=lambda value: shown(value)[:30],
    )
    def test_impossible_options_are_refused_by_name(self, name: str, field: str, value: object) -> None:
        with pytest.raises(ConfigError, match=field) as caught:
            DepthHeadConfig(name, options={field: value})
        assert len(str(caught.value)) < 400

    def test_an_integer_that_python_cannot_spell_out_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="width must be an integer from 1 to 16384, got int too long to show"):
            DepthHeadConfig(width=10**5000)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_a_tap_beyond_the_tower_is_refused(self, name: str) -> None:
        with pytest.raises(
            ConfigError, match="tap 12 lies beyond a tower of 11 blocks; hidden states run from 0 to 11"
        ):
            DepthHeadConfig(blocks=11, options=ARCHITECTURES[name].options())


class TestJson:
    @settings(deadline=None, max_examples=120)
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
            (saved_options("space-clip", film=3), r"'space-clip': unknown key 'film' \(did you mean 'film_hidden'\?\)"),
            (saved_options("space-clip", channels=[8]), "1 channels, 4 taps"),
            (saved_options("tap-mixer", tap=3), r"options of 'tap-mixer': unknown key 'tap' \(did you mean 'taps'\?\)"),
            (saved_options("tap-mixer", channels=[48]), "convolutions must be a list of 1 values"),
            (saved("space-clip", architecture="tap-mixer"), "options of 'tap-mixer': unknown key 'semantic_taps'"),
        ],
    )
    def test_what_is_no_config_is_refused(self, values: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig.from_dict(values)

    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format_version": 6}, "format_version must be 1 to 5, got 6; update"),
            *(({"format_version": v}, "format_version must be 1") for v in (True, 1.0, "1", None)),
            ({"widht": 3}, r"config: unknown key 'widht' \(did you mean 'width'\?\)"),
            ({"options": None}, "options must be an object, got None"),
            ({"options": []}, "options must be an object"),
            ({"architecture": "dpt"}, "one of space-clip, tap-mixer, got 'dpt'"),
            ({"architecture": {}}, "got {}"),
            ({"architecture": None}, "got None"),
        ],
    )
    def test_another_file_is_refused(self, name: str, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DepthHeadConfig.from_dict(saved(name, **changes))

    @pytest.mark.parametrize(("name", "key"), [(name, key) for name in ARCHITECTURES for key in sorted(saved(name))])
    def test_every_key_must_be_there(self, name: str, key: str) -> None:
        values = saved(name)
        del values[key]
        with pytest.raises(ConfigError, match=key):
            DepthHeadConfig.from_dict(values)

    @pytest.mark.parametrize(("name", "key"), [(name, key) for name in ARCHITECTURES for key in saved(name)["options"]])
    def test_every_option_must_be_there(self, name: str, key: str) -> None:
        values = saved(name)
        del values["options"][key]
        with pytest.raises(ConfigError, match=f"options of '{name}': missing key '{key}'"):
            DepthHeadConfig.from_dict(values)

    def test_a_misspelled_key_is_told_before_the_missing_one(self) -> None:
        values = saved(widht=768)
        del values["width"]
        with pytest.raises(ConfigError, match="did you mean 'width'"):
            DepthHeadConfig.from_dict(values)


class TestMismatches:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": 768}, "the head reads tokens of width 1024, the tower's have 768"),
            ({"blocks": 12}, "the head was made for 24 blocks, the tower has 12"),
        ],
    )
    def test_both_sides_are_named(self, name: str, changes: dict[str, Any], message: str) -> None:
        config = DepthHeadConfig.for_tower(SPEC, architecture=name)
        assert message in config.mismatches(dataclasses.replace(SPEC, **changes))

    def test_a_head_that_reads_the_context_needs_that_one(self) -> None:
        config = DepthHeadConfig.for_tower(SPEC, architecture="space-clip")
        found = config.mismatches(dataclasses.replace(SPEC, context="mean"))
        assert found == ["the head reads a 'cls' context, the tower gives 'mean'"]

    @pytest.mark.parametrize(("name", "options"), [("space-clip", {"film_hidden": None}), ("tap-mixer", {})])
    def test_a_head_that_reads_none_fits_any(self, name: str, options: dict[str, Any]) -> None:
        config = DepthHeadConfig.for_tower(SPEC, architecture=name, options=options)
        assert config.mismatches(dataclasses.replace(SPEC, context="mean")) == []

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_unknown_facts_are_no_mismatch_but_a_tap_out_of_reach_is(self, name: str) -> None:
        config = DepthHeadConfig(name, width=1024, blocks=None, context=None)
        assert config.mismatches(SPEC) == []
        [found] = config.mismatches(dataclasses.replace(SPEC, blocks=8))
        assert found == "the head taps hidden state 12, the tower's last is 8"
