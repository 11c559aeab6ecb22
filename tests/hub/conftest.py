"""A Hub on the loopback, and huggingface_hub, whatever its version, turned to it for one test."""

from __future__ import annotations

import importlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from local_hub import LocalHub

_CLIENT_MODULES = ("constants", "file_download", "hf_api", "lfs", "_commit_api", "repocard", "utils._http")
_ENVIRONMENT = ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """The Hub that huggingface_hub speaks to in this test, and it alone: no token, cache or setting of the machine."""
    asked: list[tuple[Any, ...]] = []
    connect = socket.socket.connect

    def noted_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            asked.append(address[:2])
        connect(self, address)

    with LocalHub() as hub:
        turn_client(monkeypatch, hub, tmp_path / "hf_home")
        monkeypatch.setattr(socket.socket, "connect", noted_connect)
        try:
            yield hub
        finally:
            close_sessions()
    ports = [int(address.rpartition(":")[2]) for address in (hub.address, hub.store_address)]
    ours = {(host, port) for host in ("127.0.0.1", "::1") for port in ports}
    assert set(asked) <= ours, "something turned to another address than the local Hub"
    assert not hub.broken, hub.broken


@pytest.fixture
def client_setting(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Changes a setting of huggingface_hub for the rest of the test."""
    return lambda name, value: change_setting(monkeypatch, name, value)


def turn_client(monkeypatch: pytest.MonkeyPatch, hub: LocalHub, home: Path) -> None:
    """Settings that huggingface_hub reads from the environment when it is imported, for this test."""
    for name in _ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    settings = {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_ENABLE_HF_TRANSFER": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        "HF_HUB_ETAG_TIMEOUT": 5,
        "HF_HUB_DOWNLOAD_TIMEOUT": 5,
        "DOWNLOAD_CHUNK_SIZE": 256,
    }
    for module in _CLIENT_MODULES:
        importlib.import_module(f"huggingface_hub.{module}")
    for setting, value in settings.items():
        change_setting(monkeypatch, setting, value)
    # Clients wait a second and more between attempts.
    no_waiting = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module_settings in _client_modules():
        if module_settings.get("time") is time:
            monkeypatch.setitem(module_settings, "time", no_waiting)
    close_sessions()


def change_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Everywhere: old versions copy settings into the modules that use them."""
    for module_settings in _client_modules():
        if name in module_settings:
            monkeypatch.setitem(module_settings, name, value)


def _client_modules() -> list[dict[str, Any]]:
    return [vars(module) for name, module in list(sys.modules.items()) if name.startswith("huggingface_hub.")]


def close_sessions() -> None:
    """Connections and proxies of other tests are not for this one, nor the other way round."""
    http = importlib.import_module("huggingface_hub.utils._http")
    close = getattr(http, "close_session", None) or http.reset_sessions
    close()
