"""Texts of config.json that no saved head has: every field with every hostile value, and files that are no config.

What a person may correct by hand (the name of the tower, what the head was trained on, its range of depth) is no attack
while it is sane, and neither is a text that says the same in other words.
"""

from __future__ import annotations

import codecs
import functools
import gzip
import io
import itertools
import json
import operator
import pickle
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from targets import HOSTILE_NAMES, LENGTH, Forgery, nested

LABELS = ("base_model", "base_model_revision", "trained_on", "plugin_version")
"""Fields that may say anything on one line, and are used as nothing but words."""

# JSON, and what other readers take for it.
_NUMBERS = (
    "NaN", "-NaN", "nan", "Infinity", "-Infinity", "1e400", "-1e400", "1e308", "1e-400", "0", "-0", "-0.0", "-1", "3",
    "1.0", "2.0", "0.5", "1.0000000000000002", "16385", "513", "65536", "2147483648", "-2147483649", "4294967296",
    "9007199254740993", "9223372036854775808", "18446744073709551616", "1" + "0" * 300, "-1" + "0" * 300, "9" * 4000,
    "9" * 5000, "0." + "3" * 5000, "01", "+1", ".5", "5.", "0x10", "0o7", "1_000", "1,5", "1e", "--1", "１",
)  # fmt: skip
_OTHERS = (
    "null", "true", "false", "None", "True", "undefined", '""', '" "', '"2"', '"null"', '"cls "', '"CLS"', "\\u0031",
    '"\\u0000"', '"\\ud800"', '"\\u001b[2J"', '"a\\nb"', '"\\u202e"', '"\t"', '"\\x41"', '"\x7f"', "[]", "[[]]",
    "[null]", "[true]", "[1]", "[2, 2]", "[1, 1]", "[2, 1]", "[-1]", "[3]", "[0, 0, 0]", "[1e400]", "[NaN]", '["1"]',
    "[1, 2, 3, 4]", "[0.25]", "[5, 4]", "[0, 1]", "{}", '{"0": 1}', '{"__class__": "os.system"}', "'x'", "x", "",
    '{"_target_": "os.system", "_args_": ["touch pwned"]}', '{"py/object": "os.system"}', "/*x*/ 1", "1 // x", "~",
    '{"$ref": "file:///etc/passwd"}', '{"py/reduce": [{"py/type": "os.system"}]}', "${env:HOME}", "&a 1", "*a", "YES",
    "!!python/object/apply:os.system [x]", f"[{','.join('1' * 65)}]", f"[{','.join('2' * 20_000)}]", f'"{"x" * 501}"',
    f'"{"x" * 60_000}"',
)  # fmt: skip
_KEYS = (
    "auto_map", "trust_remote_code", "_target_", "_partial_", "_name_or_path", "architectures", "model_type", "import",
    "py/object", "torch_dtype", "transformers_version", "custom_pipelines", "quantization_config", "$schema", "$ref",
    "extends", "Width", "WIDTH", "width ", "with", "tap", "depth_range", "Options", "options.taps", "patch_size",
)  # fmt: skip
_DEPTHS = (2, 10, 61, 62, 63, 64, 65, 66, 100, 500, *range(960, 1002, 3), 5_000, 30_000)
_PLACE = "\0place"


def hostile_configs(raw: bytes, other: bytes) -> Iterator[Forgery]:
    """All of this file's sorts; `other` is the config.json of a head of another architecture."""
    config, stranger = json.loads(raw), json.loads(other)
    yield from _values(config)
    yield from _keys(config, stranger)
    yield from _deep(config)
    yield from _huge(config)
    yield from _broken(raw)
    yield from _other_formats(raw)


def paths_of(config: dict[str, Any]) -> list[tuple[str | int, ...]]:
    """Every field, every option, and the first element of every list."""
    found: list[tuple[str | int, ...]] = []
    for key, value in (*config.items(), *((("options", k), v) for k, v in config["options"].items())):
        path = key if isinstance(key, tuple) else (key,)
        found.append(path)
        if isinstance(value, list) and value:
            found.append((*path, 0))
    return found


def _values(config: dict[str, Any]) -> Iterator[Forgery]:
    words = (*_NUMBERS, *_OTHERS, *(json.dumps(name) for name in HOSTILE_NAMES))
    for path, word in itertools.product(paths_of(config), words):
        if not _is_harmless(config, path, word):
            yield Forgery("value", f"{_spelled(path)}: {word[:40]}", _placed(config, path, word))


def _is_harmless(config: dict[str, Any], path: tuple[str | int, ...], word: str) -> bool:
    """Whether a hand may write this: what is there already, a sane label, or a sane range of depth."""
    try:
        value = json.loads(word)
    except ValueError:
        return False
    if json.dumps(value) == json.dumps(functools.reduce(operator.getitem, path, config)):
        return True
    if path[0] == "depth_range_m":
        pair = value if len(path) == 1 else [value, config["depth_range_m"][1]]
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(end) in (int, float) for end in pair)
        return is_pair and 1e-6 <= pair[0] < pair[1] <= 1e5
    if path[0] not in LABELS or not isinstance(value, str):
        return False
    longest = 64 if path[0] == "plugin_version" else 500
    is_plain = all(unicodedata.category(character) not in ("Cc", "Cs") for character in value)
    return is_plain and bool(value.strip()) and len(value) <= longest


def _keys(config: dict[str, Any], stranger: dict[str, Any]) -> Iterator[Forgery]:
    for place in ((), ("options",)):
        inside = config["options"] if place else config
        for key, value in inside.items():
            rest = {k: v for k, v in inside.items() if k != key}
            yield Forgery("missing key", _spelled((*place, key)), _with_inside(config, place, rest))
            for second in ("null", json.dumps(value), "1"):
                twice = json.dumps(inside)[:-1] + f", {json.dumps(key)}: {second}}}"
                yield Forgery("twice", f"{_spelled((*place, key))} and {second[:40]}", _with_text(config, place, twice))
                escaped = f'"\\u{ord(key[0]):04x}{key[1:]}"'
                twice = json.dumps(inside)[:-1] + f", {escaped}: {second}}}"
                yield Forgery("twice", f"{_spelled((*place, key))}, escaped", _with_text(config, place, twice))
            for renamed in (key.upper(), key + " ", " " + key, key + "\0", key[:-1], key + "s", key.replace("_", "-")):
                if renamed != key and renamed not in inside:
                    yield Forgery("renamed key", repr(renamed), _with_inside(config, place, {**rest, renamed: value}))
        for key in (*_KEYS, *HOSTILE_NAMES):
            for value in (None, "os.system", {"AutoModel": "evil.Evil"}, [1]):
                if key not in inside:
                    added = {**inside, key: value}
                    yield Forgery(
                        "unknown key", f"{_spelled((*place, key))[:40]!r}", _with_inside(config, place, added)
                    )
    for change in (
        {"options": stranger["options"]},
        {"architecture": stranger["architecture"]},
        {"options": stranger["options"], "architecture": stranger["architecture"]},
        {"options": {**stranger["options"], **config["options"]}},
        {"options": json.dumps(config["options"])},
        {"options": [[k, v] for k, v in config["options"].items()]},
    ):
        yield Forgery("another's options", str(change)[:60], json.dumps({**config, **change}).encode())
    yield Forgery("another's options", "all of another head", json.dumps(stranger).encode())


def _deep(config: dict[str, Any]) -> Iterator[Forgery]:
    for path, depth, objects in itertools.product((*paths_of(config), ("x",)), _DEPTHS, (False, True)):
        text = _placed(config, path, nested(depth, objects=objects).decode())
        yield Forgery("nested", f"{_spelled(path)} {depth} deep", text)
    for depth, objects in itertools.product(_DEPTHS, (False, True)):
        yield Forgery("nested", f"the whole file, {depth} deep", nested(depth, objects=objects))


def _huge(config: dict[str, Any]) -> Iterator[Forgery]:
    """What is allowed field by field, and together asks for a lot of memory, or is not what the weights are for."""
    lists = {k: v for k, v in config["options"].items() if isinstance(v, list)}
    for count, big, width in itertools.product((1, 2, 3, 5, 6), (48, 480, 2048, 4080, 4096), (2, 768, 16384)):
        options = {**config["options"], **{k: [2] * count for k in lists}}
        options["channels"] = [big] * count
        if "taps" in options:
            options |= {"taps": [*range(1, count + 1)], "convolutions": [16] * count, "attention": 16}
        else:
            options |= {"semantic_taps": [2] * count, "structural_taps": [1] * count, "film_hidden": 8192}
        taps = options.get("taps") or [1, 2]
        changes = {"options": options, "blocks": 6, "width": width, "tap_fractions": [tap / 6 for tap in taps]}
        yield Forgery("huge", f"{count} stages of {big}, width {width}", json.dumps({**config, **changes}).encode())


def _broken(raw: bytes) -> Iterator[Forgery]:
    text = raw.rstrip()
    for length in range(len(text)):
        yield Forgery("truncated config", f"the first {length} bytes", text[:length])
    for position in range(0, len(text), 3):
        for byte in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\0", b"\x80"):
            mixed = text[:position] + byte + text[position:]
            yield Forgery("bytes", f"{byte!r} at {position}", mixed)
    for after in (b"x", b"{}", b",", b"\0", text, b"]", b"}", b"\x1a", b"// x", b"\x80\x04N."):
        yield Forgery("bytes", f"{after[:8]!r} after the object", text + after)
        yield Forgery("bytes", f"{after[:8]!r} before the object", after + text)
    for size in (1 << 16, 1 << 17, 1 << 20, 4 << 20):
        yield Forgery("bytes", f"{size} spaces", text + b" " * size)
        yield Forgery("bytes", f"{size} zeros", bytes(size))
        yield Forgery("bytes", f"{size} brackets", b"[" * size)


def _other_formats(raw: bytes) -> Iterator[Forgery]:
    config = json.loads(raw)
    text = raw.decode()
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037", "utf-8-sig"):
        encoded = text.encode(encoding)
        if encoded != raw:
            yield Forgery("format", encoding, encoded)
    yield Forgery(
        "format", "latin-1", json.dumps({**config, "trained_on": "Küche"}, ensure_ascii=False).encode("latin-1")
    )
    yield Forgery("format", "a mark inside", codecs.BOM_UTF8 + codecs.BOM_UTF8 + raw)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield Forgery("format", f"pickle {protocol}", pickle.dumps(config, protocol))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("config.json", raw)
        file.writestr("../../evil.py", "")
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
    for name, other in (
        ("gzip", gzip.compress(raw, mtime=0)),
        ("zlib", zlib.compress(raw)),
        ("zip", archive.getvalue()),
        ("YAML", yaml.encode()),
        ("YAML that calls", f"!!python/object/apply:os.system ['touch pwned']\n{yaml}".encode()),
        ("Python", repr(config).encode()),
        ("Python that calls", b"__import__('os').system('touch pwned')"),
        ("JSON lines", raw + raw),
        ("JSON in a string", json.dumps(text).encode()),
        ("a list", json.dumps([config]).encode()),
        ("pairs", json.dumps(list(config.items())).encode()),
        ("a trailing comma", text.rstrip()[:-1].encode() + b",}"),
        ("single quotes", text.replace('"', "'").encode()),
        ("a comment", b"# a head\n" + raw),
        ("weights", LENGTH.pack(len(raw)) + raw),
        ("an HTML page", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("XML", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'),
        ("a pointer of git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ):
        yield Forgery("format", name, other)
    for word in (*_NUMBERS, *_OTHERS):
        yield Forgery("format", f"{word[:40]} alone", word.encode())


def _placed(config: dict[str, Any], path: tuple[str | int, ...], word: str) -> bytes:
    """The config with that text, JSON or not, where `path` leads."""
    copied = json.loads(json.dumps(config))
    holder = copied
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = _PLACE
    return json.dumps(copied).replace(json.dumps(_PLACE), word).encode()


def _with_inside(config: dict[str, Any], place: tuple[str, ...], inside: dict[str, Any]) -> bytes:
    return _with_text(config, place, json.dumps(inside))


def _with_text(config: dict[str, Any], place: tuple[str, ...], text: str) -> bytes:
    return _placed(config, place, text) if place else text.encode()


def _spelled(path: tuple[str | int, ...]) -> str:
    return ".".join(str(step) for step in path)
