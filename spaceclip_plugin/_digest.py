"""One digest for all tensors of a module: equal digests mean equal bits, names, shapes and dtypes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def module_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over every parameter and buffer of a module, non-persistent buffers included."""
    return tensors_digest([*module.named_parameters(), *module.named_buffers()])


def tensors_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (hex) over named tensors, in the order of their names: name, dtype, shape, then the bytes.

    A tensor on the meta device (an offloaded host rests there) has no bytes: its name, dtype and shape alone count.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda item: item[0]):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel() and not tensor.is_meta:
            flat = tensor.detach().cpu().reshape(-1)
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
