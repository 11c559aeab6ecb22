"""SHA-256 of what must not change: bytes and texts, tensors, the weights of a module, the code of this package."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn


def sha256_of(*parts: str | bytes | memoryview) -> str:
    """SHA-256 (hex) of bytes and texts, one after the other; lone surrogates, which JSON can spell, are let pass."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return total.hexdigest()


def module_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over every parameter and buffer of a module, non-persistent buffers included."""
    return tensors_digest([*module.named_parameters(), *module.named_buffers()])


def tensors_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (hex) over named tensors, in the order of their names: name, dtype, shape, then the bytes, which those
    on the meta device (an offloaded host rests there) do not have."""
    total = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda item: item[0]):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel() and not tensor.is_meta:
            flat = tensor.detach().cpu().reshape(-1)
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def code_digest(package: Path | None = None, *, without: Collection[str] = ()) -> str:
    """SHA-256 (hex) over the Python files in the folder of a package (None: this one), however their lines end; of
    files `without` the names given."""
    folder = Path(__file__).parent if package is None else package
    total = hashlib.sha256()
    for place, path in sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py")):
        if path.name in without:
            continue
        content = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{place}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()
