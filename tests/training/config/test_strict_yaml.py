"""The YAML of settings files: one meaning, nothing run, and what is written reads back the same everywhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.config.strict_yaml import (
    MAX_BYTES,
    MAX_LEVELS,
    MAX_VALUES,
    parse_mapping,
    read_mapping,
    write_mapping,
)

# What some reader takes for something else than text, or what must be in quotes.
WORDS = st.sampled_from(
    [
        *[
            "no",
            "Off",
            "y",
            "N",
            "null",
            "~",
            "true",
            "1e-4",
            "1e5",
            ".5",
            ".inf",
            ".NaN",
            "-.Inf",
            "0x1F",
            "0b1",
            "010",
            "1_000",
            "12:30",
            "2024-01-01",
            "<<",
            "=",
            "#",
            "&a",
            "*a",
            "!t",
        ],
        *["%", "@", "`", "|", ">", "'", '"', "\\", "[", "{", ",", "-", "?", ":", "...", "---", "+1", "é", "深度", "😀"],
        *("", "- x", "a: b", "a #b", " x", "x ", "a\nb", "\ttab", "a\u2028", "A\x85", "\ufeff", "\x7f"),
    ]
)
TEXT = WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
KEYS = TEXT.filter(lambda key: key != "<<")


def without_merge_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_merge_keys(item) for key, item in value.items() if key != "<<"}
    return [without_merge_keys(item) for item in value] if isinstance(value, list) else value


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: 1, 1.0 and True are equal in Python."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, NESTED.map(without_merge_keys), max_size=5))
def test_what_is_written_reads_back_the_same(content: dict[str, Any]) -> None:
    assert same(parse_mapping(write_mapping(content), where="x"), content)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, NESTED.map(without_merge_keys), max_size=5))
def test_other_readers_read_what_is_written_alike(content: dict[str, Any]) -> None:
    assert same(yaml.safe_load(write_mapping(content)), content)


@settings(max_examples=60, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_of_every_spelling_are_read_exactly(value: float) -> None:
    for spelling in (repr(value), f"{value:.17e}", f"{value:.17g}"):
        found = parse_mapping(f"x: {spelling}", where="x")["x"]
        assert math.copysign(1, found) == math.copysign(1, value) or found == 0 == value
        assert found == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("010", 10),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("off", "off"),
        ("True", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("none", "none"),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("'null'", "null"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("e5", "e5"),
        (".", "."),
        ("1e", "1e"),
        ("[1, [x, 2.0]]", [1, ["x", 2.0]]),
        ("{a: 1, b: {c: no}}", {"a": 1, "b": {"c": "no"}}),
    ],
)
def test_what_words_mean(text: str, value: object) -> None:
    assert same(parse_mapping(f"x: {text}  # a comment\n", where="x"), {"x": value})


def test_not_a_number_is_read_as_one() -> None:
    assert math.isnan(parse_mapping("x: .nan", where="x")["x"])


def test_a_list_of_plain_values_takes_one_line() -> None:
    assert write_mapping({"taps": (3, 6), "data": [{"path": "a b.txt"}], "rate": 1e-6}) == (
        "taps: [3, 6]\ndata:\n- path: a b.txt\nrate: 1.0e-06\n"
    )


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 1: anchors and aliases"),
        ("b: *a", "line 1: anchors and aliases"),
        ("&a x: 1", "anchors and aliases"),
        ("a: &a\n  x: 1", "anchors and aliases"),
        (
            "a: !!python/object/apply:os.system ['true']",
            r"line 1: tags .* python/object/apply|line 1: tags .*os.system",
        ),
        ("a: !!str 1", "tags"),
        ("a: ! 1", "tags"),
        ("!!map {a: 1}", "tags"),
        ("a: !!set {x}", "tags"),
        ("%TAG ! tag:example.org,2000:\n---\na: !x 1", "line 3: tags"),
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: the key 'c' appears twice"),
        ("a: 1\n'a': 2", "line 2: the key 'a' appears twice"),
        ("a: {<<: {b: 1}}", "merge keys"),
        ("1: x", "a key must be a word, got 1"),
        ("true: x", "a key must be a word, got True"),
        ("? [a]\n: x", r"a key must be a word, got \['a'\]"),
        ("a: 1\n---\nb: 2", "line 2: .*document"),
        ("a: [1", "line 1: expected"),
        ("a:\n\tb: 1", "line 2: found character '.t'"),
        ("a: b: c", "line 1: mapping values are not allowed"),
        ("a: \x00", "not YAML: unacceptable character"),
        ("a: \ud800", "not YAML"),
        ("", "expected settings as `name: value`.*got None"),
        ("# nothing", "got None"),
        ("- a", r"got \['a'\]"),
        ("word", "got 'word'"),
        ("a: " + "9" * 5000, "a number of 5000 digits is too long"),
        ("a: " + "[" * 50_000, f"{MAX_LEVELS} levels"),
        ("a: " + "{x: " * 5000, f"{MAX_LEVELS} levels"),
        ("a: [" + "1," * (MAX_VALUES + 1) + "]", f"more than {MAX_VALUES} values"),
    ],
)
def test_hostile_and_broken_texts(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings.yaml: {message}|^settings.yaml: .*{message}"):
        parse_mapping(text, where="settings.yaml")


def test_as_deep_as_is_allowed() -> None:
    levels = MAX_LEVELS - 2  # the value, and the mapping around the list
    assert parse_mapping("a: " + "[" * levels + "1" + "]" * levels, where="x")["a"]
    with pytest.raises(ConfigError, match="levels"):
        parse_mapping("a: " + "[" * (levels + 1) + "1" + "]" * (levels + 1), where="x")


class TestFiles:
    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(b"\xef\xbb\xbfname: \xc3\xa9\r\nnumber: 1e-4\r\n")
        assert read_mapping(path) == {"name": "é", "number": 1e-4}

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot read .*absent\.yaml.* \(No such file"):
            read_mapping(tmp_path / "absent.yaml")
        with pytest.raises(ConfigError, match="cannot read"):
            read_mapping(tmp_path)
        (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
        with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8"):
            read_mapping(tmp_path / "latin.yaml")

    def test_a_file_is_read_no_further_than_its_limit(self, tmp_path: Path) -> None:
        path = tmp_path / "large.yaml"
        path.write_text("a: 1 #" + "x" * (MAX_BYTES - 6))
        assert read_mapping(path) == {"a": 1}
        path.write_text("a: 1 #" + "x" * (MAX_BYTES - 5))
        with pytest.raises(ConfigError, match=r"large\.yaml: larger than"):
            read_mapping(path)
