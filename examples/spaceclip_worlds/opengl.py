"""MuJoCo behind one door: an optional package that draws with OpenGL, and says what is missing where it cannot."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spaceclip_plugin.errors import ConfigError


def load_mujoco() -> Any:
    """The package `mujoco`.

    Raises:
        ConfigError: it is not installed, or finds no OpenGL of the kind that MUJOCO_GL names.
    """
    # Mesa draws with an LLVM library of its own: Triton, which torch imports when it first trains or compiles, crashes
    # the process where it is loaded after that one, not where it is loaded before.
    if "mujoco" not in sys.modules and importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")
    with able_to_draw():
        try:
            return importlib.import_module("mujoco")
        except ModuleNotFoundError as error:
            if error.name != "mujoco":
                raise
            raise ConfigError(
                "this needs MuJoCo, which is not installed; pip install 'spaceclip-plugin[sim]'"
            ) from error


@contextmanager
def able_to_draw() -> Iterator[None]:
    """Raise what MuJoCo and its renderers end in where there is no OpenGL as a ConfigError that names the remedy."""
    try:
        yield
    except (ImportError, AttributeError, RuntimeError, OSError) as error:  # however PyOpenGL fails
        raise ConfigError(
            f"MuJoCo cannot draw here: {error}. Without a screen, set the environment variable MUJOCO_GL before Python "
            "starts: to egl, which needs Debian's libegl1 and libgl1-mesa-dri, or to osmesa, which needs libosmesa6"
        ) from error
