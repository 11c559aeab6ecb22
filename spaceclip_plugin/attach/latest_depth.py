"""The newest depth of every camera of an attachment, wherever it was decoded."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.errors import ConfigError, nearest


class LatestDepth:
    """Keeps the newest depth map of each named camera, and those without a name of the last step that had any.

    A thread may add to it while another asks.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        self._cameras = tuple(cameras)
        self._lock = threading.Lock()
        self._newest: DepthMap | None = None
        self._named: dict[str, DepthMap] = {}
        self._unnamed: tuple[DepthMap, ...] = ()

    def add(self, maps: Sequence[DepthMap]) -> None:
        """Take depth maps of one read, in call order; of older image calls than it has, none counts."""
        with self._lock:
            for depth in maps:
                if self._newest is None or depth.frame > self._newest.frame:
                    self._newest = depth
                if depth.camera is not None and _is_newer(depth, self._named.get(depth.camera)):
                    self._named[depth.camera] = depth
            steps = {depth.step for depth in (*maps, *self._unnamed)}
            if steps:  # names that come after those without are of the same cameras
                unnamed = [depth for depth in (*self._unnamed, *maps) if depth.camera is None]
                self._unnamed = tuple(depth for depth in unnamed if depth.step == max(steps))

    @property
    def newest(self) -> DepthMap | None:
        """That of the newest image call of all, a new object each time; None before the first."""
        newest = self._newest
        return None if newest is None else newest.relabelled()

    def of(self, view: str) -> DepthMap | None:
        """That of one camera; None before its first.

        Raises:
            ConfigError: no camera has that name.
        """
        with self._lock:
            known = dict.fromkeys((*self._cameras, *self._named))
            found = self._named.get(view)
        if view not in known:
            listed = ", ".join(known) or "none by name: attach with cameras=[…]"
            hint = nearest(str(view), known)
            raise ConfigError(f"no camera is called {view!r}{hint}; the cameras of this attachment are {listed}")
        return found

    @property
    def each(self) -> tuple[DepthMap, ...]:
        """That of every camera: named ones in the order of the cameras, then those without a name in call order."""
        with self._lock:
            names = dict.fromkeys((*self._cameras, *self._named))  # a refreshed camera may be none of these
            return (*(self._named[name] for name in names if name in self._named), *self._unnamed)


def _is_newer(depth: DepthMap, than: DepthMap | None) -> bool:
    return than is None or depth.frame > than.frame
