"""The intrinsics of an attachment's cameras, and which depth map is brought to which camera's metres."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from spaceclip_plugin.attach.camera_mappings import CameraMappings
from spaceclip_plugin.attach.declared import CameraOrder, camera_name
from spaceclip_plugin.attach.decoding import Decoded
from spaceclip_plugin.attach.preparation_match import PreparationMatch
from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.depth.age import CountedAge
from spaceclip_plugin.depth.camera import check_whole_image, same_aspect
from spaceclip_plugin.depth.resampling import pixel_centres, within
from spaceclip_plugin.depth.strangeness import widened
from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_plugin.head import DepthHead, DepthHeadConfig
from spaceclip_plugin.towers import SeenPart, TowerFeatures

_logger = logging.getLogger(__name__)


class CameraLenses:
    """The intrinsics of the cameras of one attachment; making it checks what a user says."""

    def __init__(self, intrinsics: Mapping[str, Intrinsics | None], head: DepthHeadConfig, order: CameraOrder) -> None:
        names = order.names
        for name in intrinsics:
            if name not in names:
                raise ConfigError(
                    f"cameras= names {name!r}, which is no camera of this host{nearest(camera_name(name), names)}; "
                    f"its cameras: {', '.join(names)}"
                )
        self._of = {
            name: check_whole_image(one, whose=f"camera {name!r}")
            for name, one in intrinsics.items()
            if one is not None
        }
        # Of images without a name, where it does not matter which camera's they are.
        of_each = {self._of.get(name) for name in names if name not in order.placeholders}
        self._alike = next(iter(of_each)) if len(of_each) == 1 else None
        if self._of and head.focal_length is None:
            _logger.warning(
                "the head does not tell the focal length of the camera it was trained for: its depth is in metres of "
                "that camera, whatever the intrinsics of %s; heads trained by now tell it", ", ".join(self._of),
            )  # fmt: skip
        elif self._of and head.focal_length_assumed:
            _logger.warning(
                "no training data told the focal length of the head's camera: depth is brought to the cameras %s as if "
                "it had been the assumed one, %.3g x %.3g of the image's width and height", ", ".join(self._of),
                *(head.focal_length or ()),
            )  # fmt: skip

    def check(self, mappings: CameraMappings, image_hw: tuple[int, int]) -> None:
        """ConfigError for intrinsics that no image call of their camera could ever be of.

        `image_hw` is the size of the tower's image.
        """
        for name, camera in self._of.items():
            mapping = mappings.of(name)
            if mapping is not None:
                mapping.to_tower(camera)
            elif not same_aspect(camera.image_hw, image_hw):
                raise ConfigError(_not_told(name, camera, image_hw))

    def applied(self, depth: DepthMap) -> DepthMap:
        """A depth map, already under its camera's name and with its mapping, in metres of that camera, if known."""
        camera = self._alike if depth.camera is None else self._of.get(depth.camera)
        if camera is None or depth.unmapped is not None or depth.image_sizes is not None:
            return depth
        if depth.mapping is None and not same_aspect(camera.image_hw, depth.image_hw):
            raise ConfigError(_not_told(depth.camera, camera, depth.image_hw))
        return depth.with_intrinsics(camera)


@dataclass(frozen=True, eq=False)
class CameraGeometry:
    """All that an attachment knows of its cameras: how their images become the tower's, and their lenses.

    `images` says how those compare with the head's.
    """

    mappings: CameraMappings
    lenses: CameraLenses
    images: PreparationMatch

    def applied(self, decoded: Decoded, head: DepthHead, *, camera: str | None, age: CountedAge) -> DepthMap:
        """A depth map under its camera's name, with its mapping, as familiar as it is, in its camera's metres."""
        depth = self.mappings.applied(decoded.depth.relabelled(camera=camera, age=age), decoded)
        if decoded.features is not None:
            depth = _familiar(depth, decoded.features, head)
        if isinstance(decoded.lens, Intrinsics):
            return depth.with_intrinsics(decoded.lens)
        # Of images that someone made out of the camera's in a way that is not told, its lens is not known either.
        return depth if decoded.mapping is None or decoded.lens is None else self.lenses.applied(depth)


def _familiar(depth: DepthMap, features: TowerFeatures, head: DepthHead) -> DepthMap:
    """A depth map that tells how familiar its images are, its uncertainty with it; the host's padding aside."""
    shown = None
    if depth.mapping is not None and head.familiarity is not None:
        height, width = features.hidden[head.familiarity.options.tap].shape[-2:]
        shown = shown_patches(depth.mapping, features.seen, (height, width))
    familiarity = head.familiarity_of(features, shown=shown)
    if familiarity is None:
        return depth
    sd_m = depth.uncertainty_m
    wider = None if sd_m is None else widened(sd_m, depth.depth_m, familiarity)
    return depth.with_familiarity(familiarity, wider)


def shown_patches(mapping: ImageMapping, seen: SeenPart | None, grid_hw: tuple[int, int]) -> Tensor:
    """(h, w) bool, which patches of the tower's grid have their centre in what shows the camera's image."""
    grid = (0.0, 0.0, *mapping.tower_hw) if seen is None else seen.grid
    rows, columns = (
        within(grid[i] + pixel_centres(grid_hw[i], grid[i + 2] - grid[i]), mapping.shown[i], mapping.shown[i + 2])
        for i in (0, 1)
    )
    return rows[:, None] & columns


def _not_told(name: str | None, camera: Intrinsics, image_hw: tuple[int, int]) -> str:
    height, width = camera.image_hw
    return (
        f"the intrinsics of camera {name!r} are of {height}x{width} (HxW) images, the tower sees {image_hw[0]}x"
        f"{image_hw[1]}, and how one is made out of the other is not told; give mapping=, such as "
        f"ImageMapping.stretched(({height}, {width}), {tuple(image_hw)}) or letterboxed"
    )
