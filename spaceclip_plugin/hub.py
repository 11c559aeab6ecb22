"""Heads as files: config.json and model.safetensors, read strictly and written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.files import atomic_path, read_json_object, write_json
from spaceclip_plugin.head.fields import shown

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

DESCRIPTIVE_FIELDS = frozenset({"base_model", "trained_on", "depth_range_m"})
"""Config fields that may be corrected by hand in a saved head: no weight depends on them."""

_SAVED_WITH = "spaceclip_config"
_DTYPE_KINDS = {
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float32, torch.float64), "floating"),
    **dict.fromkeys((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64), "integer"),
}


@dataclass(frozen=True, eq=False)
class SavedHead:
    """What the folder of a head holds; well-formed, but neither file is trusted yet.

    Attributes:
        config: the object in config.json.
        state: the tensors in model.safetensors, by name.
        saved_with: the config the weights say they were saved with; None where they say nothing.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    saved_with: dict[str, Any] | None


def write_folder(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    """Write a head to `folder`, made if absent; on an error what was there before stays as it was.

    Both files are complete on the disk before the first takes its name, the weights first. A process that dies between
    the two renames leaves new weights beside the old config, or beside none. A reader refuses both, unless the two
    configs agree in all that weights depend on: the weights carry the config they belong to, and `check_pair` compares.
    A killed process may leave hidden `*.tmp.*` files, which nobody reads.

    Returns:
        The folder.

    Raises:
        CheckpointError: a weight is not finite or holds no data, or the folder cannot be written.
    """
    tensors = {name: _writable(name, value) for name, value in state.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / CONFIG_NAME) as config_file:
            write_json(config_file, config)
            with atomic_path(folder / WEIGHTS_NAME) as weights_file:
                # One entry: safetensors writes several in random order, and equal heads would give unequal files.
                save_file(tensors, weights_file, metadata={_SAVED_WITH: json.dumps(dict(config))})
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: a path or config that cannot be written
        raise CheckpointError(f"cannot write a head to {str(folder)!r}: {error}") from error
    return folder


def read_folder(folder: Path) -> SavedHead:
    """The files of the head in `folder`; nothing in them is executed.

    Raises:
        CheckpointError: no such folder, a file missing, truncated or of another format.
    """
    if not os.path.isdir(folder):  # not folder.is_dir(), which raises on a name too long for the disk
        raise CheckpointError(
            f"no head at {str(folder)!r}: expected a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, "
            "as DepthHead.save_pretrained or `spaceclip train` writes it"
        )
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not os.path.isfile(folder / name):
            raise CheckpointError(f"{str(folder)!r} is not a head: {name} is missing; save or download it again")
    config = read_json_object(folder / CONFIG_NAME)
    state, saved_with = _read_weights(folder / WEIGHTS_NAME)
    return SavedHead(config, state, saved_with)


def check_pair(folder: Path, saved: SavedHead) -> None:
    """Check that the two files of a head were saved together, as far as the weights tell.

    Shapes do not show everything: other taps of the same tower, or another tower of the same width, give weights that
    load and a depth that is wrong. `DESCRIPTIVE_FIELDS` may differ.

    Raises:
        CheckpointError: a field of config.json is not what the weights were saved with.
    """
    if saved.saved_with is None:
        return
    ours, theirs = _flat(saved.config), _flat(saved.saved_with)
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in DESCRIPTIVE_FIELDS and ours.get(key) != theirs.get(key):
            raise CheckpointError(
                f"{str(folder)!r} holds two halves: {CONFIG_NAME} says {key} is {shown(ours.get(key))}, {WEIGHTS_NAME} "
                f"was saved with {shown(theirs.get(key))}. A save was interrupted, or {CONFIG_NAME} was edited; "
                "save or download the head again"
            )


def matched_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Copies of the weights in the dtypes the config calls for, after comparing everything else with it.

    Args:
        state: weights from outside.
        expected: the state dict of a module built from the config; the meta device will do.
        source: where the weights come from, for messages.

    Raises:
        CheckpointError: the first few names that are missing, unknown, of another shape or dtype kind, or not finite.
    """
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        raise CheckpointError(
            f"{source} does not hold the weights its config calls for: "
            f"missing {_first(missing)}; unknown {_first(unknown)}"
        )
    for name, value in state.items():
        wanted = expected[name]
        if value.shape != wanted.shape or _DTYPE_KINDS.get(value.dtype) != _DTYPE_KINDS[wanted.dtype]:
            raise CheckpointError(f"{source}: {name!r} is {_kind(value)}, the config calls for {_kind(wanted)}")
    matched: dict[str, Tensor] = {}
    for name, value in state.items():
        # A copy even in the same dtype: the tensors of a safetensors file are views of it, and change with it.
        matched[name] = value.detach().to(expected[name].dtype, copy=True, memory_format=torch.contiguous_format)
        if not torch.isfinite(matched[name]).all():
            raise CheckpointError(f"{source}: {name!r} holds NaN, infinity or more than its dtype can hold")
    return matched


def _writable(name: str, value: Tensor) -> Tensor:
    if value.is_meta:
        raise CheckpointError(
            f"weight {name!r} is on the meta device and holds no data; load the head before saving it"
        )
    if not torch.isfinite(value).all():
        raise CheckpointError(f"weight {name!r} holds NaN or infinity; a head like this is not saved")
    return value.detach().cpu().contiguous()


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            note = (file.metadata() or {}).get(_SAVED_WITH)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        saved_with = None if note is None else dict(json.loads(note))
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    return state, saved_with


def _flat(config: Mapping[str, Any]) -> dict[str, object]:
    """The fields of a config, those of its options among them as `options.NAME`."""
    options = config.get("options")
    nested = options if isinstance(options, dict) else {}
    return {**{k: v for k, v in config.items() if k != "options"}, **{f"options.{k}": v for k, v in nested.items()}}


def _first(names: list[str], count: int = 3) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(name) for name in names[:count]) + more


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
