"""Shared fixtures: where the real data lies, one thread for steady results, and no way out but the loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if "DISPLAY" not in os.environ:
    os.environ.setdefault("MUJOCO_GL", "egl")  # it is read once, when mujoco is imported

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    """A test that turns to the network fails, and says where it wanted to go."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_loopback(str(host)):
            raise AssertionError(f"a test tried to look up {host}")
        return lookup(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_lookup)
        yield


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {name!r} of the shared folder beside the project, which is absent here")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and outputs of the published SPACE-CLIP code."""
    return _shared_folder("golden")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real photos with metric depth."""
    return _shared_folder("data")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """A real ImageNet-supervised ViT (not CLIP)."""
    return _shared_folder("weights")
