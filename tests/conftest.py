"""Shared fixtures: where the real data lies, and one thread so that results and times are steady."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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
