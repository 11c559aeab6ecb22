from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.arm.simulator import Simulation
from spaceclip_worlds.opengl import load_mujoco


def test_without_mujoco_an_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match=r"pip install 'spaceclip-plugin\[sim\]'"):
        load_mujoco()


@pytest.mark.parametrize("error", [ImportError("no EGL"), AttributeError("eglQueryString"), ModuleNotFoundError("gl")])
def test_without_opengl_an_error_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real_import = importlib.import_module

    def failing(name: str, package: str | None = None) -> ModuleType:
        if name == "mujoco":
            raise error
        return real_import(name, package)

    monkeypatch.setattr(importlib, "import_module", failing)
    with pytest.raises(ConfigError, match=r"MUJOCO_GL.*libegl1 and libgl1-mesa-dri.*libosmesa6"):
        load_mujoco()


def test_a_renderer_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_display(*arguments: Any) -> None:
        raise RuntimeError("no display")

    fake = SimpleNamespace(
        MjModel=SimpleNamespace(from_xml_string=lambda xml: xml),
        MjData=lambda model: model,
        mj_forward=lambda model, data: None,
        Renderer=no_display,
    )
    monkeypatch.setitem(sys.modules, "mujoco", fake)
    with Simulation("<mujoco/>", image_hw=(4, 4)) as simulation, pytest.raises(ConfigError, match="no display"):
        simulation.picture("table0")
