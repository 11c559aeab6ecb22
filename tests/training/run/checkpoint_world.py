"""Small checkpoints, and what it means that two are equal."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spaceclip_plugin.training.run.checkpoint import Checkpoint, CheckpointFolder

STATE = {"epoch": 3, "losses": [0.1, 1e-300, -0.0, 2.5e17], "best": None, "name": "Tiefe 深度", "done": False}


def small(step: int) -> Checkpoint:
    head = {"weight": torch.full((2, 3), float(step)), "bias": torch.arange(3.0)}
    return Checkpoint(step, {**STATE, "step": step}, {"head": head, "rng-0": {"torch": torch.tensor([step, 255])}})


def bits(value: Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_equal(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert found.step == expected.step
    assert repr(found.state) == repr(expected.state)
    assert found.tensors.keys() == expected.tensors.keys()
    for stem, tensors in expected.tensors.items():
        assert found.tensors[stem].keys() == tensors.keys()
        for name, value in tensors.items():
            again = found.tensors[stem][name]
            assert (again.dtype, again.shape) == (value.dtype, value.shape)
            assert bits(again) == bits(value), name


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def two_checkpoints(path: Path) -> CheckpointFolder:
    """Of steps 1 and 2."""
    made = CheckpointFolder(path)
    made.save(small(1))
    made.save(small(2))
    return made
