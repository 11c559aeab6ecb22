"""PyAV, imported when a video is to be read or written."""

from __future__ import annotations

from typing import Any

from spaceclip_plugin.bridges.optional import imported


def import_av() -> Any:
    """The package av; ConfigError where it is not installed."""
    [av] = imported("av", needed_for="a video", extra="video")
    return av
