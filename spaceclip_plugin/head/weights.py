"""Weights of a head in a safetensors file that carries the config they belong to and a digest of both.
It is not trusted: its header must be what the config calls for before a tensor is read, and the digest must hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spaceclip_plugin._checks import shown
from spaceclip_plugin._files import parse_json_object
from spaceclip_plugin._tensor_files import LENGTH, Header, NotedTensors, TensorKind, load_tensors
from spaceclip_plugin.errors import CheckpointError

MAX_BYTES = 1 << 30  # heads have a few megabytes; a config that calls for more is refused before anything is read
_FORMAT = NotedTensors(
    entry="spaceclip",
    keys=("sha256", "config"),
    signed=lambda note, tensors: f"{note['config']}\0{tensors}",
    max_header_bytes=1 << 19,
)
_NUMBERS = {
    **dict.fromkeys(("float16", "bfloat16", "float32", "float64"), "floating"),
    **dict.fromkeys(("uint8", "int8", "int16", "int32", "int64"), "integer"),
}


@dataclass(frozen=True, eq=False)
class Weights:
    """What a weights file holds, proven whole."""

    state: dict[str, Tensor]  # in the dtypes the file has
    config: dict[str, Any]  # that they were saved with
    sha256: str  # digest (hex) of both, as the file carries it


def writable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they can be written: finite, on the CPU and contiguous."""
    for name, value in state.items():
        if value.is_meta:
            raise CheckpointError(
                f"weight {name!r} is on the meta device and holds no data; load the head before saving it"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"weight {name!r} holds NaN or infinity; a head like this is not saved")
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def write_weights(path: Path, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> str:
    """Write `writable` tensors and the config they belong to; returns the digest. ValueError: a config without JSON."""
    return _FORMAT.write(path, tensors, {"config": json.dumps(dict(config), allow_nan=False)})


def read_weights(path: Path, expected: Mapping[str, Tensor], *, hint: str = "") -> Weights:
    """Read a weights file that may come from anywhere. `expected` is the state dict of a module built from the head's
    config (the meta device will do), `hint` what else to say where a weight is missing or unknown."""
    header = _read_header(path)
    check_kinds(header.kinds, expected, source=repr(str(path)), hint=hint)
    state = load_tensors(path)
    if _FORMAT.digest(header.note, state.items()) != header.sha256:
        raise CheckpointError(
            f"{str(path)!r} is damaged or was changed: its tensors and their config do not have the sha256 it "
            f"carries ({header.sha256[:12]}…); download or save the head again"
        )
    config = parse_json_object(header.note["config"], source=f"the config in {str(path)!r}")
    return Weights(state, config, header.sha256)


def is_written_here(path: Path) -> bool:
    """Whether a file is one that `write_weights` wrote, judged by its header; its tensors are not read."""
    try:
        _read_header(path)
    except CheckpointError:
        return False
    return True


def matched_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Copies of weights from outside in the dtypes of `expected`, after comparing all else with it; see `read_weights`.
    CheckpointError also for what is not finite, or becomes so in that dtype."""
    check_kinds(state, expected, source=source)
    matched: dict[str, Tensor] = {}
    for name, value in state.items():
        matched[name] = value.detach().to(expected[name].dtype, copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(matched[name]).all():
            raise CheckpointError(f"{source}: {name!r} holds NaN, infinity or more than its dtype can hold")
    return matched


def check_size(expected: Mapping[str, Tensor], *, source: str) -> int:
    """Most bytes a file of such weights can have; CheckpointError for more than a head has."""
    needed = sum(8 * value.numel() for value in expected.values())  # in the widest dtype of a file
    if needed > 2 * MAX_BYTES:
        raise CheckpointError(
            f"{source} calls for {needed / 2e9:.1f} GB of weights; a head has at most {MAX_BYTES / 1e9:.1f} GB"
        )
    return needed + _FORMAT.max_header_bytes + LENGTH.size


def _read_header(path: Path) -> Header:
    header = _FORMAT.read_header(path)
    if not isinstance(header.note["config"], str):
        raise CheckpointError(f"the metadata of {str(path)!r} must hold the config as text")
    return header


def check_kinds(
    found: Mapping[str, Tensor | TensorKind], expected: Mapping[str, Tensor], *, source: str, hint: str = ""
) -> None:
    """Compare names, shapes and kinds of numbers with those of a module's state dict; see `read_weights`."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        raise CheckpointError(
            f"{source} does not hold the weights its config calls for: "
            f"missing {_first(missing)}; unknown {_first(unknown)}{hint}"
        )
    for name, value in found.items():
        kind = TensorKind.of(value) if isinstance(value, Tensor) else value
        wanted = TensorKind.of(expected[name])
        if kind.shape != wanted.shape or _NUMBERS.get(kind.dtype) != _NUMBERS[wanted.dtype]:
            raise CheckpointError(f"{source}: {name!r} is {kind}, the config calls for {wanted}")


def _first(names: list[str], count: int = 3) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(shown(name) for name in names[:count]) + more
