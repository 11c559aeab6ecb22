"""Files of tensors with a JSON note: safetensors that carry what they belong to, and a SHA-256 of both.
They are not trusted: our own strict reader reads their header before safetensors opens them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spaceclip_plugin._checks import shown
from spaceclip_plugin._digest import sha256_of, tensors_digest
from spaceclip_plugin._files import parse_json_object
from spaceclip_plugin.errors import CheckpointError, TrainingError

LENGTH = struct.Struct("<Q")  # what a safetensors file begins with: the length of its header in bytes
_SHA256 = "sha256"
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"} | {
    "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"
}  # fmt: skip


@dataclass(frozen=True)
class TensorKind:
    """Dtype, as torch calls it, and shape of a tensor; in a file that is not trusted, both may be anything."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Tensor) -> TensorKind:
        """The kind of a tensor in memory."""
        return cls(str(value.dtype).removeprefix("torch."), tuple(value.shape))

    def __str__(self) -> str:
        return f"{shown(self.dtype).strip(chr(39))} of shape {shown(self.shape)}"


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of itself."""

    note: dict[str, Any]
    sha256: str  # the digest (hex) it was written with, of the note and the tensors
    kinds: dict[str, TensorKind]


def whole_note(note: Mapping[str, Any], tensors: str) -> str:
    """All of a note, and the digest of the tensors."""
    return f"{tensors}{json.dumps(dict(note), sort_keys=True)}"


@dataclass(frozen=True, kw_only=True)
class NotedTensors:
    """One kind of files: tensors and a note, as JSON in the one metadata entry `entry`.
    safetensors writes several entries in random order, and equal tensors would give unequal files."""

    entry: str
    keys: tuple[str, ...]  # of the note, in their order, "sha256" among them
    max_header_bytes: int
    signed: Callable[[Mapping[str, Any], str], str] = whole_note  # from note and tensors' digest: the text to be hashed

    def digest(self, note: Mapping[str, Any], named: Iterable[tuple[str, Tensor]]) -> str:
        """SHA-256 (hex) of a note and tensors, in any order."""
        return sha256_of(self.signed(note, tensors_digest(named)))

    def write(self, path: Path, tensors: dict[str, Tensor], note: Mapping[str, Any]) -> str:
        """Write contiguous tensors on the CPU and their note; returns the digest. ValueError: the note has no JSON."""
        sha256 = self.digest(note, tensors.items())
        whole = {**note, _SHA256: sha256}
        save_file(tensors, path, metadata={self.entry: json.dumps({key: whole[key] for key in self.keys})})
        return sha256

    def read_header(self, path: Path) -> Header:
        """What a file says of itself; its tensors are not read. CheckpointError: not such a file, or cut."""
        header = self._parsed(path)
        metadata = header.pop("__metadata__", None)
        text = metadata[self.entry] if isinstance(metadata, dict) and list(metadata) == [self.entry] else None
        if not isinstance(text, str):
            raise CheckpointError(
                f"{str(path)!r} carries no digest: expected the one metadata entry {self.entry!r}, as this package "
                "writes it; it was written by something else, or edited"
            )
        note = parse_json_object(text, source=f"the metadata of {str(path)!r}")
        if list(note) != list(self.keys) or not isinstance(note[_SHA256], str):
            raise CheckpointError(
                f"the metadata of {str(path)!r} must hold {', '.join(self.keys)} alone, in this order"
            )
        kinds = {name: _kind_in_header(path, name, entry) for name, entry in header.items()}
        return Header(note, note.pop(_SHA256), kinds)

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The note and copies of all tensors. CheckpointError: not such a file, or not as it was written."""
        header, tensors = self.read_header(path), load_tensors(path)
        if header.sha256 != self.digest(header.note, tensors.items()):
            raise CheckpointError(f"{str(path)!r} is damaged: its content is not what was written")
        return header.note, tensors

    def _parsed(self, path: Path) -> dict[str, Any]:
        try:
            with path.open("rb") as file:
                prefix = file.read(LENGTH.size)
                length = LENGTH.unpack(prefix)[0] if len(prefix) == LENGTH.size else 0
                raw = file.read(min(length, self.max_header_bytes))
        except OSError as error:
            raise CheckpointError(f"cannot read {str(path)!r} ({error.strerror}); check its permissions") from error
        if not raw or len(raw) != length:
            raise CheckpointError(
                f"{str(path)!r} is not a safetensors file, or was cut: its first 8 bytes must give the length of a "
                f"header that is there, of at most {self.max_header_bytes} bytes"
            )
        return parse_json_object(raw, source=f"the header of {str(path)!r}")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Copies of all tensors of a safetensors file, on the CPU."""
    with foreign_errors(path):
        # Copies: the tensors of a safetensors file may be views of it, and change with it.
        file = mapped_tensors(path)
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping


def mapped_tensors(path: Path) -> Any:
    """A safetensors file, memory-mapped: `get_tensor` and `get_slice` read from it for as long as it is there."""
    # Not safetensors.torch.load: version 0.4.2's refuses empty tensors.
    return cast(Any, safe_open(path, framework="pt", device="cpu"))


@contextmanager
def foreign_errors(path: Path) -> Iterator[None]:
    """Raise what safetensors says of a file as CheckpointError, which names it."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{str(path)!r} is not a readable safetensors file: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ShardWords:
    """What messages say of one kind of shards."""

    holds: str  # what a file is one of: "the feature cache"
    rows: str  # what it has rows of: "images"
    others: str  # what one of another key holds: "features of another host, data or setting"
    instead: str  # what to do about that
    misplaced: str  # what to do where its rows are not those of its number
    again: str  # after "Remove that file and": what makes it again


class Shard:
    """One file of rows of a source, memory-mapped: its note tells the "key" of what they belong to, the "start" of the
    first and the "names" of all. `sha256` is what was written down when it was made."""

    def __init__(self, path: Path, files: NotedTensors, words: ShardWords, *, key: str) -> None:
        """TrainingError: not such a file, or one of another key; see `read_rows`."""
        self.path, self._files, self._words = path, files, words
        try:
            header = files.read_header(path)
            self.sha256, self._note = header.sha256, header.note
            self.start = int(self._note["start"])
            self.names = tuple(str(name) for name in self._note["names"])
            found = str(self._note["key"])
            self._kinds = header.kinds
            with foreign_errors(path):
                self._file = mapped_tensors(path)
                self.read_rows()
        except (CheckpointError, KeyError, ValueError, TypeError) as error:
            raise self.damaged(f"it cannot be read ({error})") from error
        if found != key:
            raise TrainingError(
                f"{words.holds} {str(path)!r} holds {words.others} (key {found[:12]}…, wanted {key[:12]}…); "
                f"{words.instead}"
            )

    def read_rows(self) -> None:
        """What one kind of shards reads of its note and its tensors; ValueError where they do not fit."""

    def __len__(self) -> int:
        return len(self.names)

    def check_place(self, rows: range) -> None:
        """Check that the file holds these rows of the source."""
        if (self.start, len(self)) != (rows.start, len(rows)):
            words = self._words
            raise TrainingError(
                f"{words.holds} {str(self.path)!r} holds {words.rows} {self.start} to {self.start + len(self) - 1}, "
                f"expected {rows.start} to {rows.stop - 1}: files of it were renamed or left out. {words.misplaced}"
            )

    def verify(self) -> None:
        """Read everything and compare with the digest."""
        try:
            with foreign_errors(self.path):
                found = self._files.digest(self._note, ((name, self._file.get_tensor(name)) for name in self._kinds))
        except CheckpointError as error:
            raise self.damaged(f"it cannot be read ({error})") from error
        if found != self.sha256:
            raise self.damaged("its content is not what was written")

    def damaged(self, what: str) -> TrainingError:
        """The error that says so, and what to do."""
        return TrainingError(
            f"{self._words.holds} {str(self.path)!r} is damaged: {what}. Remove that file and {self._words.again}: it "
            "alone is made again. If this happens twice, check the disk"
        )


def _kind_in_header(path: Path, name: str, entry: object) -> TensorKind:
    if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}:
        dtype, shape = entry["dtype"], entry["shape"]
        if isinstance(dtype, str) and isinstance(shape, list) and all(type(side) is int for side in shape):
            return TensorKind(_DTYPES.get(dtype, dtype), tuple(shape))
    raise CheckpointError(
        f"the header of {str(path)!r} says of {shown(name)} something else than dtype, shape and data_offsets"
    )
