"""Which camera an image call belongs to, as far as that can be told without asking the policy, and its newest depth.

Policies call their tower for each camera in order; those without an image come last, in one value, or not at all. Names
are given only where the calls of a host step, or the user, leave no doubt: a wrong one would be worse than none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

from spaceclip_plugin._checks import shown
from spaceclip_plugin.attach.declared import CameraOrder, camera_name
from spaceclip_plugin.attach.decoding import Decoded
from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.errors import ConfigError, nearest

Given = Mapping[int, frozenset[str]]
"""The cameras that a policy had images of in a host step, by its number; empty where no one told."""

_logger = logging.getLogger(__name__)


class CallNames:
    """Names for the cameras of the image calls of one attachment; says once in the log where it has none."""

    def __init__(self, order: CameraOrder) -> None:
        self.order = order
        self.given: Given = {}  # what was told last
        self._refreshed: int | None = None
        self._warned = False

    def tell(self, step: int, cameras: Iterable[str]) -> None:
        """Take note of the cameras that the policy is given in a host step; see `DepthAttachment.given`."""
        keys = [cameras] if isinstance(cameras, str) else [str(key) for key in cameras]
        known = self.order.names
        named = {key: key if key in known else camera_name(key) for key in keys}
        unknown = [key for key, name in named.items() if name not in known]
        if len(unknown) == len(keys) or (unknown and not isinstance(cameras, Mapping)):
            hint = nearest(unknown[0], known) if unknown else ""
            raise ConfigError(
                "given takes the names of the cameras that the policy has images of, or its observation, got "
                f"{shown(keys)}{hint}; the cameras of this attachment are "
                f"{', '.join(known) or 'none by name: attach with cameras=[…]'}"
            )
        self.given = {step: frozenset(named.values()) & frozenset(known)}

    def refreshed(self, step: int) -> None:
        """Take note that image calls of that step are not the policy's: that they bear no name surprises no one."""
        self._refreshed = step

    def of(self, decoded: Sequence[Decoded], given: Given) -> list[str | None]:
        """The camera of every image call of a read in call order, or None; `given` is what was told by then."""
        names = [one.depth.camera for one in decoded]
        if not self.order.names:
            return names
        asked = [i for i, name in enumerate(names) if name is None]
        for step in {decoded[i].depth.step for i in asked}:
            calls = [i for i in asked if decoded[i].depth.step == step]
            found = names_of_step(self.order, [decoded[i].blank for i in calls], given.get(step))
            for i, name in zip(calls, found, strict=True):
                names[i] = name
            nameless = any(names[i] is None and decoded[i].blank is False for i in calls)
            if nameless and step != self._refreshed and not self._warned:
                self._warned = True
                _logger.warning(
                    "%d image call(s) of the cameras %s bear no name: which is of which cannot be told. Read once per "
                    "host step; where cameras are missing, tell which there are: attachment.given(observation) in "
                    "every step, or attach_depth_head(…, cameras=[…]) with those alone",
                    len(calls), ", ".join(self.order.names),
                )  # fmt: skip
        return names


def names_of_step(
    order: CameraOrder, blank: Sequence[bool | None], given: Collection[str] | None = None
) -> list[str | None]:
    """The cameras of one step's calls: first those that are there, in order, then images of one value for others.

    `blank` is as in `Decoded`; `given` are the cameras that the policy had images of, where that was told.
    """
    names = order.names
    unknown: list[str | None] = [None] * len(blank)
    if None in blank:
        return unknown
    if given is None:
        if len(blank) == len(names) and not any(blank):
            return [*names]
        there = [name for name in names if name not in order.placeholders]
        if not _are_all_there(order, there, blank):
            return unknown
    else:
        there = [name for name in names if name in given]
    stand_ins = blank[len(there) :]
    if len(blank) < len(there) or not all(stand_ins):
        return unknown
    others = [name for name in names if name not in there]
    # Of several missing cameras, fewer images may stand for them; whom one stands for is told where each has its own.
    return [*there, *(others if len(others) == len(stand_ins) else [None] * len(stand_ins))]


def _are_all_there(order: CameraOrder, there: Sequence[str], blank: Sequence[bool | None]) -> bool:
    """Whether no camera is missing, which would move those behind it up; one that is dark shows one value, too.

    None is if the last one's call shows something, if missing ones get no call and all calls came, or of one camera.
    """
    shows = [i for i, is_blank in enumerate(blank, 1) if not is_blank]
    counted = order.leaves_out and len(blank) == len(order.names)
    return counted or len(there) == 1 or (bool(shows) and shows[-1] >= len(there))


class LatestDepth:
    """The newest depth map of each named camera, and those without a name of the last step with any; thread-safe."""

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
                if _is_newer(depth, self._newest):
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

    def of(self, camera: str) -> DepthMap | None:
        """That of one camera, None before its first; ConfigError where no camera has that name."""
        with self._lock:
            known = dict.fromkeys((*self._cameras, *self._named))
            found = self._named.get(camera)
        if camera not in known:
            listed = ", ".join(known) or "none by name: attach with cameras=[…]"
            hint = nearest(str(camera), known)
            raise ConfigError(f"no camera is called {camera!r}{hint}; the cameras of this attachment are {listed}")
        return found

    @property
    def each(self) -> tuple[DepthMap, ...]:
        """That of every camera: named ones in the order of the cameras, then those without a name in call order."""
        with self._lock:
            names = dict.fromkeys((*self._cameras, *self._named))  # a refreshed camera may be none of these
            return (*(self._named[name] for name in names if name in self._named), *self._unnamed)


def _is_newer(depth: DepthMap, than: DepthMap | None) -> bool:
    return than is None or depth.frame > than.frame
