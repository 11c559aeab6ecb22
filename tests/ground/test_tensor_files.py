"""Files of tensors with a note: what is written is read back, and what was changed is refused, of whatever kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spaceclip_plugin._digest import sha256_of, tensors_digest
from spaceclip_plugin._tensor_files import LENGTH, NotedTensors, TensorKind, load_tensors
from spaceclip_plugin.errors import CheckpointError

NOTED = NotedTensors(
    entry="thing", keys=("what", "sha256"), signed=lambda note, found: f"{note['what']}|{found}", max_header_bytes=4096
)
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor([1, 2], dtype=torch.int8), "n": torch.empty(0, 4)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    NOTED.write(tmp_path / "x.safetensors", dict(TENSORS), {"what": "ä"})
    return tmp_path / "x.safetensors"


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    end = LENGTH.size + LENGTH.unpack(raw[: LENGTH.size])[0]
    return json.loads(raw[LENGTH.size : end]), raw[end:]


def write(path: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(LENGTH.pack(len(text)) + text + data)


def test_a_file_gives_back_what_was_written(path: Path) -> None:
    header = NOTED.read_header(path)
    assert header.note == {"what": "ä"}
    assert header.kinds == {
        "a": TensorKind("float32", (2, 3)),
        "b.c": TensorKind("int8", (2,)),
        "n": TensorKind("float32", (0, 4)),
    }
    loaded = load_tensors(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], value) for name, value in TENSORS.items())
    assert NOTED.digest(header.note, loaded.items()) == header.sha256
    assert header.sha256 == sha256_of(f"ä|{tensors_digest(TENSORS.items())}")


def test_equal_content_gives_equal_files(path: Path, tmp_path: Path) -> None:
    NOTED.write(tmp_path / "y.safetensors", dict(reversed(TENSORS.items())), {"what": "ä"})
    assert (tmp_path / "y.safetensors").read_bytes() == path.read_bytes()


def test_a_changed_tensor_has_another_digest(path: Path) -> None:
    header, data = parts(path)
    write(path, header, data[:-1] + bytes([data[-1] ^ 1]))
    assert NOTED.digest({"what": "ä"}, load_tensors(path).items()) != NOTED.read_header(path).sha256


def with_note(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    def apply(header: dict[str, Any]) -> None:
        note = json.loads(header["__metadata__"]["thing"])
        changed = change(note)
        header["__metadata__"]["thing"] = changed if isinstance(changed, str) else json.dumps(changed)

    return apply


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda header: header.pop("__metadata__"), "'thing'"),
        (lambda header: header["__metadata__"].update(other="x"), "'thing'"),
        (lambda header: header["__metadata__"].update(thing=3), "'thing'"),
        (with_note(lambda note: {"sha256": note["sha256"], "what": "ä"}), "what, sha256"),
        (with_note(lambda note: {**note, "more": 1}), "what, sha256"),
        (with_note(lambda note: {**note, "sha256": 1}), "what, sha256"),
        (with_note(lambda note: [note]), "list"),
        (with_note(lambda _note: '{"what": 1, "what": 2}'), "'what' appears twice"),
        (with_note(lambda _note: '{"what": "\ud800", "sha256": ""}'), "not valid JSON"),
        (lambda header: header["a"].update(more=1), "'a'"),
        (lambda header: header["a"].update(shape=[2, 3.0]), "'a'"),
        (lambda header: header["a"].update(dtype=None), "'a'"),
        (lambda header: header.update(a=[1]), "'a'"),
        (lambda header: header.update(a={"x": 1e999}), "not valid JSON"),
        (lambda header: header.update({f"x{i}": header["a"] for i in range(100)}), "at most 4096 bytes"),
    ],
)
def test_a_header_that_says_something_else_is_refused(
    path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    header, data = parts(path)
    change(header)
    write(path, header, data)
    with pytest.raises(CheckpointError, match=r"x\.safetensors.*" + complaint):
        NOTED.read_header(path)


def test_a_tensor_that_is_named_twice_is_refused(path: Path) -> None:
    header, data = parts(path)
    again = json.dumps({"a": header["a"]})[1:-1]
    write(path, f"{{{again},{json.dumps(header)[1:]}".encode(), data)
    with pytest.raises(CheckpointError, match="'a' appears twice"):
        NOTED.read_header(path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
def test_a_file_that_was_cut_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        NOTED.read_header(path)


def test_what_safetensors_refuses_names_the_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_tensors(path)
    path.unlink()
    for read in (NOTED.read_header, load_tensors):
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            read(path)


def test_a_file_without_a_note_is_refused_and_its_tensors_can_be_loaded(tmp_path: Path) -> None:
    save_file(dict(TENSORS), tmp_path / "plain.safetensors")
    assert load_tensors(tmp_path / "plain.safetensors").keys() == TENSORS.keys()
    with pytest.raises(CheckpointError, match=r"plain\.safetensors"):
        NOTED.read_header(tmp_path / "plain.safetensors")


def test_the_digest_of_parts_is_that_of_their_sequence() -> None:
    assert sha256_of("ä", b"bc", memoryview(b"d")) == hashlib.sha256("äbcd".encode()).hexdigest()
