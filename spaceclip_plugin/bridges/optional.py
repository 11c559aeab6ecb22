"""Importing a library that only one of the package's extras brings."""

from __future__ import annotations

import importlib
from typing import Any

from spaceclip_plugin.errors import ConfigError, SpaceClipError


def imported(*modules: str, needed_for: str, extra: str, error: type[SpaceClipError] = ConfigError) -> list[Any]:
    """The modules, or `error` saying which extra of this package brings them."""
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as failed:
        raise error(
            f"{needed_for} needs {', '.join(modules)} ({failed}); pip install 'spaceclip-plugin[{extra}]'"
        ) from failed
