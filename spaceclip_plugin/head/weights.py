"""Weights of a head in a safetensors file that carries the config they belong to and a digest of both.

The file is not trusted: its header is read by our own strict reader and compared with what the config calls for before
a tensor is touched, and no tensor is used before the digest holds.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spaceclip_plugin._checks import shown
from spaceclip_plugin._digest import tensors_digest
from spaceclip_plugin._files import parse_json_object
from spaceclip_plugin.errors import CheckpointError

MOST_BYTES = 1 << 30
"""Heads have a few megabytes; a config that calls for more than this is refused before anything is read."""

HEADER_MOST_BYTES = 1 << 19

_NOTE = "spaceclip"
_NOTE_KEYS = ("sha256", "config")
_LENGTH = struct.Struct("<Q")
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"} | {
    "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"
}  # fmt: skip
_KINDS = {
    **dict.fromkeys(("float16", "bfloat16", "float32", "float64"), "floating"),
    **dict.fromkeys(("uint8", "int8", "int16", "int32", "int64"), "integer"),
}


@dataclass(frozen=True)
class _Kind:
    """What a tensor is, without its values."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{shown(self.dtype).strip(chr(39))} of shape {shown(self.shape)}"

    def suits(self, wanted: _Kind) -> bool:
        return self.shape == wanted.shape and _KINDS.get(self.dtype) == _KINDS[wanted.dtype]


@dataclass(frozen=True, eq=False)
class Weights:
    """What a weights file holds, proven whole.

    Attributes:
        state: the tensors by name, in the dtypes the file has.
        config: the object they were saved with.
        sha256: digest (hex) of both, as the file carries it.
    """

    state: dict[str, Tensor]
    config: dict[str, Any]
    sha256: str


def writable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they can be written.

    Raises:
        CheckpointError: a weight is not finite or holds no data.
    """
    return {name: _writable(name, value) for name, value in state.items()}


def write_weights(path: Path, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> str:
    """Write `writable` tensors and the config they belong to; returns the digest.

    Raises:
        ValueError: the config has no JSON.
        OSError, SafetensorError: the disk refuses the write.
    """
    text = json.dumps(dict(config), allow_nan=False)
    sha256 = _digest(text, tensors)
    # One entry: safetensors writes several in random order, and equal heads would give unequal files.
    save_file(tensors, path, metadata={_NOTE: json.dumps({"sha256": sha256, "config": text})})
    return sha256


def read_weights(path: Path, expected: Mapping[str, Tensor], *, hint: str = "") -> Weights:
    """Read a weights file that may come from anywhere.

    Args:
        path: of the file.
        expected: the state dict of a module built from the head's config; the meta device will do.
        hint: what else to say where a weight is missing or unknown.

    Raises:
        CheckpointError: the file is cut, of another format, not written by `write_weights`, changed since, or holds
            other tensors than expected. The message names the file.
    """
    header = _read_header(path)
    note = _read_note(path, header.pop("__metadata__", None))
    _check_against(
        {name: _kind_in_header(path, name, entry) for name, entry in header.items()}, expected, repr_of(path), hint
    )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Clones: the tensors of a safetensors file may be views of it, and change with it.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{repr_of(path)} is not a readable safetensors file: {error}") from error
    if _digest(note["config"], state) != note["sha256"]:
        raise CheckpointError(
            f"{repr_of(path)} is damaged or was changed: its tensors and their config do not have the sha256 it "
            f"carries ({note['sha256'][:12]}…); download or save the head again"
        )
    config = parse_json_object(_encoded(note["config"]), source=f"the config in {repr_of(path)}")
    return Weights(state, config, note["sha256"])


def is_written_here(path: Path) -> bool:
    """Whether a file is one that `write_weights` wrote, judged by its header; its tensors are not read."""
    try:
        _read_note(path, _read_header(path).get("__metadata__"))
    except CheckpointError:
        return False
    return True


def matched_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Copies of the weights in the dtypes the config calls for, after comparing everything else with it.

    Args:
        state: weights from outside.
        expected: the state dict of a module built from the config; the meta device will do.
        source: where the weights come from, for messages.

    Raises:
        CheckpointError: the first few names that are missing, unknown, of another shape or dtype kind, or not finite.
    """
    check_kinds(state, expected, source=source)
    matched: dict[str, Tensor] = {}
    for name, value in state.items():
        matched[name] = value.detach().to(expected[name].dtype, copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(matched[name]).all():
            raise CheckpointError(f"{source}: {name!r} holds NaN, infinity or more than its dtype can hold")
    return matched


def check_kinds(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str, hint: str = "") -> None:
    """Compare names, shapes and kinds of numbers with those of a module's state dict; see `read_weights`.

    Raises:
        CheckpointError: the first few names that are missing, unknown, or of another shape or dtype kind.
    """
    _check_against({name: _kind(value) for name, value in state.items()}, expected, source, hint)


def check_size(expected: Mapping[str, Tensor], *, source: str) -> int:
    """Most bytes a file of such weights can have.

    Raises:
        CheckpointError: more than `MOST_BYTES`.
    """
    # In the widest dtype a file may have them in.
    needed = sum(8 * value.numel() for value in expected.values())
    if needed > 2 * MOST_BYTES:
        raise CheckpointError(
            f"{source} calls for {needed / 2e9:.1f} GB of weights; a head has at most {MOST_BYTES / 1e9:.1f} GB"
        )
    return needed + HEADER_MOST_BYTES + _LENGTH.size


def repr_of(path: Path) -> str:
    """A path in quotes, for messages."""
    return repr(str(path))


def _digest(config_text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(_encoded(f"{config_text}\0{tensors_digest(tensors.items())}")).hexdigest()


def _encoded(text: str) -> bytes:
    """UTF-8; lone surrogates, which JSON can spell and text cannot, become bytes that no strict reader takes."""
    return text.encode("utf-8", "surrogatepass")


def _writable(name: str, value: Tensor) -> Tensor:
    if value.is_meta:
        raise CheckpointError(
            f"weight {name!r} is on the meta device and holds no data; load the head before saving it"
        )
    if not torch.isfinite(value).all():
        raise CheckpointError(f"weight {name!r} holds NaN or infinity; a head like this is not saved")
    return value.detach().cpu().contiguous()


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            prefix = file.read(_LENGTH.size)
            length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
            raw = file.read(min(length, HEADER_MOST_BYTES))
    except OSError as error:
        raise CheckpointError(f"cannot read {repr_of(path)} ({error.strerror}); check its permissions") from error
    if not raw or len(raw) != length:
        raise CheckpointError(
            f"{repr_of(path)} is not a safetensors file of a head, or was cut: its first 8 bytes must give the length "
            f"of a header that is there, of at most {HEADER_MOST_BYTES} bytes"
        )
    return parse_json_object(raw, source=f"the header of {repr_of(path)}")


def _read_note(path: Path, metadata: object) -> dict[str, str]:
    """What `write_weights` noted in the header."""
    if not isinstance(metadata, dict) or list(metadata) != [_NOTE] or not isinstance(metadata[_NOTE], str):
        raise CheckpointError(
            f"{repr_of(path)} carries no digest of a depth head: expected the one metadata entry {_NOTE!r}, as "
            "DepthHead.save_pretrained writes it"
        )
    note = parse_json_object(_encoded(metadata[_NOTE]), source=f"the metadata of {repr_of(path)}")
    if list(note) != list(_NOTE_KEYS) or not all(isinstance(value, str) for value in note.values()):
        raise CheckpointError(f"the metadata of {repr_of(path)} must hold the strings {' and '.join(_NOTE_KEYS)} alone")
    return {name: str(note[name]) for name in _NOTE_KEYS}


def _kind_in_header(path: Path, name: str, entry: object) -> _Kind:
    if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}:
        dtype, shape = entry["dtype"], entry["shape"]
        if isinstance(dtype, str) and isinstance(shape, list) and all(type(side) is int for side in shape):
            return _Kind(_DTYPES.get(dtype, dtype), tuple(shape))
    raise CheckpointError(
        f"the header of {repr_of(path)} says of {shown(name)} something else than dtype, shape and data_offsets"
    )


def _check_against(found: Mapping[str, _Kind], expected: Mapping[str, Tensor], source: str, hint: str) -> None:
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        raise CheckpointError(
            f"{source} does not hold the weights its config calls for: "
            f"missing {_first(missing)}; unknown {_first(unknown)}{hint}"
        )
    for name, kind in found.items():
        wanted = _kind(expected[name])
        if not kind.suits(wanted):
            raise CheckpointError(f"{source}: {name!r} is {kind}, the config calls for {wanted}")


def _first(names: list[str], count: int = 3) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(shown(name) for name in names[:count]) + more


def _kind(value: Tensor) -> _Kind:
    return _Kind(str(value.dtype).removeprefix("torch."), tuple(value.shape))
