"""Quiet, offline building of policies; without lerobot the tests here skip by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from own_commands import installed
from transformers.utils import logging


@pytest.fixture(scope="session", autouse=True)
def _quiet_loading() -> Iterator[None]:
    """Transformers reports every tiny model it loads, key by key."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process of LeRobot's own commands."""
    return installed(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def built() -> Any:
    """A tiny SmolVLA."""
    from tiny_policies import SMOLVLA

    return SMOLVLA.seeded()


@pytest.fixture
def policy(built: Any) -> Any:
    """The same one for all tests of a file, at the start of an episode and read by no step."""
    built.reset()
    return built
