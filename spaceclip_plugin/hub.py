"""Heads as files: config.json and model.safetensors, read strictly and written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.files import atomic_path, read_json_object, write_json

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def write_folder(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    """Write a head to `folder`, made if absent; each file is complete or absent, never half-written.

    Returns:
        The folder.

    Raises:
        CheckpointError: a weight is not finite, or the folder cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"weight {name!r} holds NaN or infinity; a head like this is not saved")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / WEIGHTS_NAME) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        write_json(folder / CONFIG_NAME, dict(config))
    except OSError as error:
        raise CheckpointError(f"cannot write a head to {folder}: {error}") from error
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config mapping and the weights in `folder`; nothing in them is executed, and neither is trusted yet.

    Raises:
        CheckpointError: no such folder, a file missing, truncated or of another format.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"no head at {str(folder)!r}: expected a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, "
            "as DepthHead.save_pretrained or `spaceclip train` writes it"
        )
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a head: {name} is missing")
    return read_json_object(folder / CONFIG_NAME), read_tensors(folder / WEIGHTS_NAME)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file.

    Raises:
        CheckpointError: missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str) -> None:
    """Compare weights with what the config calls for, by name, shape, kind and finiteness.

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
        if value.shape != wanted.shape or value.is_floating_point() != wanted.is_floating_point():
            raise CheckpointError(f"{source}: {name!r} is {_kind(value)}, the config calls for {_kind(wanted)}")
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{source}: {name!r} holds NaN or infinity")


def _first(names: list[str], count: int = 3) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(name) for name in names[:count]) + more


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
