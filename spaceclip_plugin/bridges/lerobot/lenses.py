"""The intrinsics of a policy's cameras: as steps take and save them, and depth in metres of those cameras."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spaceclip_plugin import DepthMap, _checks
from spaceclip_plugin.attach.declared import checked_cameras
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.depth.camera import check_whole_image
from spaceclip_plugin.errors import ConfigError, HostError, nearest

_MOST_PX = 1e6

_logger = logging.getLogger(__name__)


def checked_intrinsics(given: Mapping[str, Intrinsics | Sequence[float]] | None) -> dict[str, Intrinsics]:
    """Intrinsics by camera's name; in files they are [fx, fy, cx, cy, height, width], in pixels of the camera's image.

    ConfigError for what no camera has.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"intrinsics are given by camera's name, {{'front': Intrinsics(…)}}, got {given!r}")
    if not given:
        return {}
    return {name: _checked(name, one) for name, one in zip(checked_cameras([*given]), given.values(), strict=True)}


def as_lists(intrinsics: Mapping[str, Intrinsics]) -> dict[str, list[float]]:
    """As JSON, which `checked_intrinsics` reads."""
    return {name: [one.fx_px, one.fy_px, one.cx_px, one.cy_px, *one.image_hw] for name, one in intrinsics.items()}


def _checked(name: str, given: Any) -> Intrinsics:
    if not isinstance(given, Intrinsics):
        where = f"intrinsics of camera {name!r}, [fx, fy, cx, cy, height, width],"
        fx, fy, cx, cy, height, width = _checks.reals(where, given, 0.0, _MOST_PX, length=6)
        if height != int(height) or width != int(width):
            raise ConfigError(f"{where} end with whole numbers of pixels, got {height} and {width}")
        given = Intrinsics(fx, fy, cx, cy, (int(height), int(width)))
    return check_whole_image(given, whose=f"camera {name!r}")


class PolicyLenses:
    """What the steps of one policy were told of its cameras' intrinsics."""

    def __init__(self) -> None:
        self._of: dict[str, Intrinsics] = {}
        self._warned: set[str] = set()

    def tell(self, intrinsics: Mapping[str, Intrinsics], *, cameras: Iterable[str]) -> None:
        """Take what a step was told; ConfigError for no camera of the policy, or others than another step was told."""
        names = [*cameras]
        for name, camera in intrinsics.items():
            if name not in names:
                raise ConfigError(
                    f"intrinsics name {name!r}, which is no camera of this policy{nearest(name, names)}; its cameras: "
                    f"{', '.join(names)}"
                )
            if self._of.get(name, camera) != camera:
                raise ConfigError(
                    f"two steps of this policy were told different intrinsics of camera {name!r}; tell one of them, or "
                    "both the same"
                )
        self._of.update(intrinsics)

    def applied(self, depth: DepthMap) -> DepthMap:
        """Depth over a camera's image in metres of that camera, where its intrinsics are known.

        HostError where they are not of its images. Where it cannot be told which camera the depth is of, or where it
        lies in the camera's image, it stays in metres of the camera that the head assumes, and a log says so once.
        """
        camera = None if depth.camera is None else self._of.get(depth.camera)
        if depth.camera is not None and camera is None:
            return depth
        if camera is None or depth.mapping is None:
            if self._of and depth.valid.any():
                self._warn("it cannot be told of which camera the depth is, or where it lies in its image")
            return depth
        if depth.focal_length is None:
            self._warn("the head does not tell the focal length of the camera it was trained for")
        try:
            return depth.with_intrinsics(camera)
        except ConfigError as error:
            raise HostError(f"the intrinsics of camera {depth.camera!r} do not fit its images: {error}") from error

    def _warn(self, why: str) -> None:
        if why not in self._warned:
            self._warned.add(why)
            _logger.warning("intrinsics are given, but depth is not brought to metres of the robot's camera: %s", why)
