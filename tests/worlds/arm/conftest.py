"""MuJoCo with something to draw with, or a stated reason to skip."""

from __future__ import annotations

import importlib.util
import os

import pytest

if importlib.util.find_spec("mujoco") is not None and "MUJOCO_GL" not in os.environ and "DISPLAY" not in os.environ:
    os.environ["MUJOCO_GL"] = "egl"  # it is read once, when mujoco is imported

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.arm.simulator import Simulation

EMPTY = '<mujoco><worldbody><camera name="any"/></worldbody></mujoco>'


@pytest.fixture(scope="session")
def drawing() -> None:
    """Skips where MuJoCo is missing or cannot draw."""
    try:
        with Simulation(EMPTY, image_hw=(8, 8)) as simulation:
            simulation.picture("any")
    except ConfigError as error:
        pytest.skip(f"no pictures of the arm here: {error}")


@pytest.fixture(scope="session")
def moving() -> None:
    """Skips where MuJoCo is missing."""
    try:
        Simulation(EMPTY, image_hw=(8, 8))
    except ConfigError as error:
        pytest.skip(f"no simulated arm here: {error}")
