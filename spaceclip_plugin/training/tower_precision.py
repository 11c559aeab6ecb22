"""The arithmetic in which the frozen tower makes the features that a head learns from: its own, or bfloat16.

Where the head works, and where it is validated, the tower computes as it always does.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from spaceclip_plugin.errors import ConfigError

OWN, BF16 = "own", "bf16"
TOWER_PRECISIONS = (OWN, BF16)

_FAST_ON_CPU = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
"""Functions of `torch.cpu`, which older torches lack: whether it computes in bfloat16 rather than emulates it."""
_AMPERE = 8  # the first GPUs, by compute capability, that do


def arithmetic(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """What a tower runs in, on that device; matrices alone are multiplied in bfloat16, as autocast has it."""
    return torch.autocast(device.type, torch.bfloat16) if precision == BF16 else contextlib.nullcontext()


def check_tower_precision(precision: str, tower: nn.Module) -> None:
    """Raise ConfigError unless that precision of the tower is its own, or one that its device is made for."""
    if precision == OWN:
        return
    weight = next(parameter for parameter in tower.parameters() if parameter.is_floating_point())
    if weight.dtype != torch.float32:
        raise ConfigError(
            f"tower_precision {precision!r} is for a tower in float32, and this one computes in {weight.dtype} by "
            "itself; leave it out"
        )
    if not _is_fast(weight.device):
        raise ConfigError(
            f"tower_precision {precision!r} needs a CPU with AMX or AVX512-BF16 that torch knows of, or a GPU from "
            f"compute capability {_AMPERE}.0 on: this {weight.device.type} only emulates it; leave it out"
        )


def _is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in _FAST_ON_CPU)
