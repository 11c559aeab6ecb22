"""Weight files with a header that somebody thought about: well-formed JSON that lies, or JSON that is too much.

A header that is spelled otherwise and says the same (spaces, the order of tensors) gives the same head: no attack.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from targets import HOSTILE_NAMES, LENGTH, Forgery, joined, nested, split

DEPTHS = (2, 16, 63, 64, 65, 66, 100, 127, 128, 129, 500, *range(960, 1002, 3), 5_000, 60_000)
_HUGE = (2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**300)
_DTYPES = ("F16", "BF16", "F64", "F32 ", "f32", "float32", "C64", "F8_E4M3", "F4", "I8", "I16", "I32", "U8", "U64")
_WORDS: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "F33", [], ["F32"], {}, {"a": 1})
_PLACE = "\0place"


def crafted_headers(raw: bytes, other: bytes) -> Iterator[Forgery]:
    """All of this file's sorts; `other` is the file of another head."""
    yield from entries(raw)
    yield from exchanged(raw)
    yield from names(raw)
    yield from notes(raw, other)
    yield from lengths(raw)
    yield from too_much(raw)


def entries(raw: bytes) -> Iterator[Forgery]:
    """Every tensor's entry with something else in it."""
    header, data = _read(raw)
    for name in _tensors(header):
        entry = header[name]
        for what, changed in _changed_entries(entry, len(data)):
            if changed != entry:
                yield Forgery("entry", f"{name}: {what}", joined({**header, name: changed}, data))


def _changed_entries(entry: dict[str, Any], size: int) -> Iterator[tuple[str, Any]]:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    for dtype in (*_DTYPES, *_WORDS, "BOOL", "I64" if entry["dtype"] == "F32" else "F32"):
        yield f"dtype {dtype!r}", {**entry, "dtype": dtype}
    shapes = [[*shape, 1], [1, *shape], [*shape, 2], [0], [*shape, 0], shape[:-1], [-1], [-side for side in shape]]
    shapes += [[*shape[:-1], side] for side in (*_HUGE, *(-huge for huge in _HUGE))] if shape else [[h] for h in _HUGE]
    shapes += [[*shape[:-1], word] for word in _WORDS] + [[1] * 10_000, [2**32, 2**32], [[*shape]], shape[::-1]]
    for found in (*shapes, *_WORDS, "2", 2):
        if repr(found) != repr(shape):
            yield f"shape {str(found)[:40]}", {**entry, "shape": found}
    offsets = [[end, begin], [begin, begin], [end, end], [begin + 1, end + 1], [begin, end + 4], [begin, end - 1]]
    offsets += [[-1, end], [begin, -1], [size, size + end - begin], [0, size], [begin - size, end - size], [0, 0]]
    offsets += [[begin, huge] for huge in _HUGE] + [[huge, huge] for huge in _HUGE] + [[-h, end] for h in _HUGE]
    offsets += [[begin], [begin, end, end], [float(begin), float(end)], [str(begin), str(end)], [begin, [end]]]
    for found in (*offsets, *_WORDS):
        if repr(found) != repr([begin, end]):
            yield f"data_offsets {str(found)[:40]}", {**entry, "data_offsets": found}
    for key in entry:
        yield f"without {key}", {k: v for k, v in entry.items() if k != key}
    for key in ("strides", "offset", "__class__", "__reduce__", "path", ""):
        yield f"with {key!r}", {**entry, key: "os.system"}
    yield from ((f"the entry {str(word)!r}", word) for word in (*_WORDS, [entry], [[k, v] for k, v in entry.items()]))


def exchanged(raw: bytes) -> Iterator[Forgery]:
    """Tensors that read each other's bytes, and tensors that share them."""
    header, data = _read(raw)
    for first, second in itertools.combinations(_tensors(header), 2):
        one, two = header[first], header[second]
        if one["shape"] == two["shape"] and one["dtype"] == two["dtype"]:
            swapped = {**header, first: two, second: one}
            yield Forgery("exchanged", f"{first} and {second}", joined(swapped, data))
        shared = {**header, first: {**one, "data_offsets": two["data_offsets"]}}
        yield Forgery("shared bytes", f"{first} reads {second}", joined(shared, data))


def names(raw: bytes) -> Iterator[Forgery]:
    """Tensors that are missing, renamed, added, and there twice."""
    header, data = _read(raw)
    text = split(raw)[0].rstrip()
    for name in _tensors(header):
        yield Forgery("missing", name, joined({k: v for k, v in header.items() if k != name}, data))
        again = json.dumps({name: header[name]})[1:-1].encode()
        yield Forgery("twice", name, joined(b"{" + again + b"," + text[1:], data))
        yield Forgery(
            "twice", f"{name}, escaped", joined(b"{" + again.replace(b"d", b"\\u0064", 1) + b"," + text[1:], data)
        )
        for hostile in (*HOSTILE_NAMES, name + " ", name.upper(), name + "\0", name.replace(".", "/"), "\ud800"):
            renamed = {hostile if k == name else k: v for k, v in header.items()}
            yield Forgery("renamed", f"{name} to {hostile[:40]!r}", joined(renamed, data))
    for hostile in (*HOSTILE_NAMES, "\ud800"):
        nothing = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
        yield Forgery("added", repr(hostile[:40]), joined({**header, hostile: nothing}, data))


def notes(raw: bytes, other: bytes) -> Iterator[Forgery]:
    """The metadata, which carry the digest and the config, changed in every way."""
    header, data = _read(raw)
    tensors = _tensors(header)
    note = json.loads(header["__metadata__"]["spaceclip"])
    theirs = _read(other)[0]["__metadata__"]["spaceclip"]
    yield Forgery("metadata", "dropped", joined(tensors, data))
    strange: list[Any] = [*_WORDS, {"spaceclip": None}, {"spaceclip": note}, {"format": "pt"}, {"Spaceclip": "{}"}]
    strange += [{**header["__metadata__"], key: "x"} for key in ("format", "", *HOSTILE_NAMES)]
    texts = [
        "",
        "nul",
        "null",
        "[]",
        "{}",
        "{",
        theirs,
        json.dumps(note)[:-1],
        f"[{json.dumps(note)}]",
        "\ud800",
        "\ufeff{}",
    ]
    texts += [nested(depth, objects=objects).decode() for depth in DEPTHS for objects in (False, True)]
    texts += [json.dumps({**note, **change}) for change in _changed_notes(note, json.loads(theirs))]
    texts += [json.dumps({k: v for k, v in note.items() if k != key}) for key in note]
    texts += [json.dumps(dict(reversed(note.items()))), json.dumps(note)[:-1] + f', "sha256": "{note["sha256"]}"}}']
    for metadata in (*strange, *({"spaceclip": text} for text in texts)):
        yield Forgery("metadata", str(metadata)[:80], joined({"__metadata__": metadata, **tensors}, data))
    twice = json.dumps({"__metadata__": header["__metadata__"]})[1:-1].encode()
    yield Forgery("metadata", "twice", joined(b"{" + twice + b"," + split(raw)[0][1:], data))
    yield Forgery("metadata", "of another head", joined({**header, "__metadata__": {"spaceclip": theirs}}, data))
    yield Forgery("foreign", "another head's data", joined(header, split(other)[1]))
    yield Forgery("foreign", "another head's header", joined(split(other)[0], data))
    yield Forgery("foreign", "another head", other)


def _changed_notes(note: dict[str, str], theirs: dict[str, str]) -> Iterator[dict[str, Any]]:
    sha256, config = note["sha256"], note["config"]
    for digest in (
        *_WORDS,
        sha256.upper(),
        sha256[:-1],
        sha256 + "0",
        "0" * 64,
        f" {sha256}",
        theirs["sha256"],
        "a" * 9999,
    ):
        yield {"sha256": digest}
    for text in (*_WORDS, config[:-1], config + " ", config.replace(" ", ""), theirs["config"], "{}", "x" * 99_999):
        yield {"config": text}
    yield {"config": json.loads(config)}
    yield from ({key: "x"} for key in ("signature", "__class__", ""))


def lengths(raw: bytes) -> Iterator[Forgery]:
    """A length of the header that is not its length."""
    length, rest = len(split(raw)[0]), raw[LENGTH.size :]
    near = {length + step for step in range(-65, 66)} | {len(rest), len(rest) - 1, len(rest) + 1}
    far = {(1 << power) + step for power in range(64) for step in (-1, 0)} | {(1 << 64) - 1}
    for lie in sorted((near | far) - {length}):
        if lie >= 0:
            yield Forgery("lying length", f"{lie} for {length}", LENGTH.pack(lie) + rest)
    yield Forgery("lying length", "the other byte order", LENGTH.pack(length)[::-1] + rest)


def too_much(raw: bytes) -> Iterator[Forgery]:
    """Headers that nest deeply, or hold more than a reader should take into memory."""
    header, data = _read(raw)
    name = next(iter(_tensors(header)))
    places = {
        "an entry": {**header, name: _PLACE},
        "a shape": {**header, name: {**header[name], "shape": [_PLACE]}},
        "offsets": {**header, name: {**header[name], "data_offsets": _PLACE}},
        "a dtype": {**header, name: {**header[name], "dtype": _PLACE}},
        "metadata": {**header, "__metadata__": _PLACE},
        "a note": {**header, "__metadata__": {"spaceclip": _PLACE}},
        "an addition": {**header, "x": _PLACE},
    }
    for place, holder in places.items():
        text = json.dumps(holder).encode()
        for depth, objects in itertools.product(DEPTHS, (False, True)):
            deep = text.replace(json.dumps(_PLACE).encode(), nested(depth, objects=objects))
            yield Forgery("nested", f"{place} {depth} deep", joined(deep, data))
        for digits in (10, 400, 4_299, 4_301, 100_000):
            number = text.replace(json.dumps(_PLACE).encode(), b"9" * digits)
            yield Forgery("number", f"{place} of {digits} digits", joined(number, data))
    text = split(raw)[0].rstrip()
    for count in (1_000, 10_000, 37_000):
        for element in (b"[]", b"{}", b'""', b"1", b'{"a":0}'):
            many = b'{"x":[' + b",".join([element] * count) + b"]," + text[1:]
            yield Forgery("giant", f"a list of {count} {element.decode()}", joined(many, data))
        entries = b",".join(b'"%d":{}' % number for number in range(count))
        yield Forgery("giant", f"{count} empty entries", joined(b"{" + entries + b"," + text[1:], data))
    for size in (1 << 18, (1 << 19) - len(text) - 20, 1 << 19, 1 << 20):
        for front in (b'{"%s":{},', b'{"x":"%s",', b'{"x":[%s1],'):
            filler = (b" " if b"[" in front else b"x") * size
            yield Forgery("giant", f"{size} bytes in {front.decode()}", joined(front % filler + text[1:], data))


def _read(raw: bytes) -> tuple[dict[str, Any], bytes]:
    header, data = split(raw)
    return json.loads(header), data


def _tensors(header: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
