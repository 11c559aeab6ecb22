"""A head as a repository of the Hub holds it, and what tests ask about the ones that come back."""

from __future__ import annotations

import dataclasses
import tempfile

import huggingface_hub
import pytest
import torch
from local_hub import LocalHub
from saved_heads import CONFIG, make_head

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.errors import SpaceClipError

CLIENT = tuple(int(number) for number in huggingface_hub.__version__.split(".")[:2])
REPO = "org/name"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
OLDER, NEWER = make_head(seed=1), make_head(seed=2)


def head_files(head: DepthHead = OLDER) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in head.save_pretrained(folder).iterdir()}


def publish(hub: LocalHub, head: DepthHead = OLDER, *, branch: str = "main") -> str:
    """Commit a head to REPO; returns the commit's id."""
    return hub.commit(REPO, head_files(head), branch=branch)


def is_same(found: DepthHead, expected: DepthHead) -> bool:
    ours, theirs = found.state_dict(), expected.state_dict()
    alike = found.config == expected.config and list(ours) == list(theirs)
    return alike and all(torch.equal(ours[name], theirs[name]) for name in ours)


def other_config(**changes: object) -> DepthHeadConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def refused(repo: str = REPO, **options: object) -> str:
    """The message a repository is refused with: it names the repository, or its files in the cache."""
    with pytest.raises(SpaceClipError) as caught:
        DepthHead.from_pretrained(repo, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert repo in message or f"models--{repo.replace('/', '--')}" in message
    assert len(message) < 900
    return message


def asked(hub: LocalHub, *, since: int = 0) -> list[str]:
    """The requests as `METHOD server/path status`."""
    return [str(request) for request in hub.requests[since:]]


def bodies(hub: LocalHub, *, since: int = 0) -> int:
    """Bytes of files that were sent to the client."""
    return sum(request.sent for request in hub.requests[since:] if request.status in (200, 206))
