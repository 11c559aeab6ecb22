"""A saved head, what is in its folder, and what may be done to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.head.weights import write_weights

WEIGHT = "decoder.depth.3.weight"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, **changes: Tensor | None) -> None:
    """Replace, add or (None) remove tensors, with a digest that holds: anyone can compute one."""
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        config = json.loads(json.loads(file.metadata()["spaceclip"])["config"])
    state = {**load_file(path), **changes}
    write_weights(path, {name: value for name, value in state.items() if value is not None}, config)


def refused(folder: Path) -> str:
    """The message a folder is refused with; names the folder, or nothing was told."""
    with pytest.raises(CheckpointError) as caught:
        DepthHead.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 900
    return str(caught.value)
