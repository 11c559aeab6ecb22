"""How an attachment's host makes its tower's images out of each camera's, and which depth map gets which mapping.

A user's word holds; that of a policy's configuration holds for a camera once the padding of its images bears it out.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from spaceclip_plugin.attach.declared import PolicyCameras, camera_name
from spaceclip_plugin.attach.decoding import Decoded
from spaceclip_plugin.depth import DepthMap, ImageMapping
from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.depth.padding import declared_borders, inside, verdict
from spaceclip_plugin.errors import CaptureError, ConfigError, nearest

_logger = logging.getLogger(__name__)


class CameraMappings:
    """The mappings of one attachment; making it checks what a user says."""

    def __init__(
        self,
        mapping: ImageMapping | Mapping[str, ImageMapping] | None,  # as a user says
        *,
        cameras: Sequence[str],  # that image calls are of, empty where that is not told
        declared: PolicyCameras | None,  # what counts where no user says a mapping
    ) -> None:
        self._said = dict(mapping) if isinstance(mapping, Mapping) else mapping
        self._declared = declared if mapping is None and declared is not None and declared.mappings else None
        # Where images lie in their padding, if the padding must be looked at.
        self.anchor: Anchor | None = None if self._declared is None else self._declared.anchor
        self._agreed: set[tuple[str | None, ImageMapping]] = set()
        self._warned: set[str | None] = set()
        for one in self._said.values() if isinstance(self._said, dict) else [self._said]:
            if not isinstance(one, ImageMapping) and mapping is not None:
                raise ConfigError(
                    f"mapping is an ImageMapping, or one by camera name, got {type(one).__name__}; "
                    "for example mapping=ImageMapping.letterboxed((480, 640), (224, 224))"
                )
        if isinstance(self._said, dict) and self._said:
            _check_names(self._said, cameras)

    @property
    def said(self) -> tuple[ImageMapping, ...]:
        """What a user says of all cameras or of each; empty where nothing is said."""
        found = self._said.values() if isinstance(self._said, dict) else [self._said]
        return tuple(mapping for mapping in found if mapping is not None)

    def of(self, camera: str) -> ImageMapping | None:
        """What was said, or else is declared, of a camera."""
        if isinstance(self._said, ImageMapping):
            return self._said
        found = self._said if self._declared is None else self._declared.mappings
        return None if found is None else found.get(camera)

    def applied(self, depth: DepthMap, decoded: Decoded) -> DepthMap:
        """A depth map, already under its camera's name, with the mapping of that camera; its padding is not valid."""
        if not isinstance(decoded.mapping, str):  # said by whoever ran the tower
            return self._mapped(depth, decoded.mapping, decoded)
        if self._declared is not None:
            return self._as_declared(self._declared, depth, decoded)
        if not isinstance(self._said, dict):
            return self._mapped(depth, self._said, decoded)
        mapping = self._said.get(depth.camera or "")
        if decoded.blank:  # what stands for a camera that is missing shows nothing, and needs no mapping
            return self._mapped(depth, mapping if mapping is not None and _fits(mapping, depth) else None, decoded)
        known = ", ".join(self._said) or "none"
        if depth.camera is None:
            raise CaptureError(
                f"mapping= is by camera ({known}), and no one can tell which camera image call {depth.frame} is of: "
                "the calls of a host step are not exactly its cameras. Read once per step, give the host every camera, "
                "or give one ImageMapping where all cameras are alike"
            )
        if mapping is None:
            raise ConfigError(
                f"camera {depth.camera!r} has no entry in mapping=; known: {known}. Add one, such as "
                f"ImageMapping.stretched(camera_hw, {tuple(depth.image_hw)}) where the host stretches its images"
            )
        return self._mapped(depth, mapping, decoded)

    def _mapped(self, depth: DepthMap, mapping: ImageMapping | None, decoded: Decoded) -> DepthMap:
        if mapping is None:
            return depth
        if not _fits(mapping, depth):
            several = " and of several sizes" if depth.image_sizes is not None else ""
            raise ConfigError(
                f"the mapping of {_whose(depth.camera)} is to a tower image of {mapping.tower_hw}, the tower saw one "
                f"of {tuple(depth.image_hw)}{several}; give the mapping to what the host shows its tower"
            )
        return depth.with_mapping(mapping if decoded.seen is None else mapping.clipped(decoded.seen.seen))

    def _as_declared(self, declared: PolicyCameras, depth: DepthMap, decoded: Decoded) -> DepthMap:
        """What a policy's configuration says of the camera of this depth, if its pixels agree."""
        mapping = declared.mappings.get(depth.camera or "")
        if mapping is None and len(set(declared.mappings.values())) == 1:
            mapping = next(iter(declared.mappings.values()))  # all cameras are alike: which one this is does not matter
        if mapping is None:
            reason = "its cameras are of different shapes, and no one can tell which one this is"
        elif not _fits(mapping, depth):
            reason = f"its configuration says that its tower sees {mapping.tower_hw}, and it saw {depth.image_hw}"
        else:
            anchor = declared.anchor
            reason = "" if anchor is None else self._disagreement(mapping, declared, anchor, depth, decoded)
        if not reason:
            return self._mapped(depth, mapping, decoded)
        return depth if decoded.blank else self._unmapped(declared, depth, decoded, reason)

    def _disagreement(
        self, mapping: ImageMapping, declared: PolicyCameras, anchor: Anchor, depth: DepthMap, decoded: Decoded
    ) -> str:
        """Why the pixels do not bear out a mapping; empty where they do."""
        # A blank image is all border and says nothing.
        showing = [one for one in decoded.borders or () if one[0] < depth.image_hw[0]]
        verdicts = {verdict(one, mapping, anchor) for one in showing}
        if verdicts == {"as declared"}:
            if depth.camera is None and len(depth) < len(declared.mappings):
                return ""  # not all cameras in one call: the next that has no name may be another one
            self._agreed.add((depth.camera, mapping))
        # Once they agreed, more of the padding's value is a dark edge: cameras do not change their shape.
        if decoded.blank or ("less" not in verdicts and (depth.camera, mapping) in self._agreed):
            return ""
        if not showing:
            return "the pixels that its tower saw are gone, and whether they were padded so cannot be told"
        return (
            f"its configuration says {mapping.camera_hw[0]}x{mapping.camera_hw[1]} (HxW) images, padded by "
            f"{declared_borders(mapping)} pixels (top, left, bottom, right), and the tower saw images padded by "
            f"{' and '.join(map(str, dict.fromkeys(showing)))}"
        )

    def _unmapped(self, declared: PolicyCameras, depth: DepthMap, decoded: Decoded, reason: str) -> DepthMap:
        """Depth that says why it has no mapping, without what is of the padding's value."""
        message = (
            f"how {declared.policy} made the image of {_whose(depth.camera)} is not known: {reason}; give the size "
            f"that the camera has: mapping={{{depth.camera or '…'!r}: {_constructor(declared, depth.image_hw)}}}"
        )
        if depth.camera not in self._warned:
            self._warned.add(depth.camera)
            _logger.warning("%s. Until then its depth has no mapping", message)
        if not decoded.borders or depth.image_sizes is not None:
            return dataclasses.replace(depth, unmapped=message)
        hw = (depth.depth_m.shape[1], depth.depth_m.shape[2])
        shown = inside(decoded.borders, depth.image_hw, hw).to(depth.valid.device)
        return dataclasses.replace(
            depth,
            depth_m=depth.depth_m * shown,
            valid=depth.valid & shown,
            uncertainty_m=None if depth.uncertainty_m is None else depth.uncertainty_m * shown,
            empty=None if depth.empty is None else depth.empty * shown,
            unmapped=message,
        )


def _check_names(mappings: Mapping[str, ImageMapping], cameras: Sequence[str]) -> None:
    """Refuse names that no image call will ever bear."""
    if not cameras:
        raise ConfigError(
            f"mapping= is by camera ({', '.join(map(str, mappings))}), but this host does not tell which camera an "
            "image call is of; give cameras=[…], their names in the order in which it runs its tower within a step, or "
            "one ImageMapping for all"
        )
    for name in mappings:
        if name not in cameras:
            raise ConfigError(
                f"mapping= names {name!r}, which is no camera of this host{nearest(camera_name(str(name)), cameras)}; "
                f"its cameras: {', '.join(cameras)}"
            )


def _fits(mapping: ImageMapping, depth: DepthMap) -> bool:
    return tuple(mapping.tower_hw) == tuple(depth.image_hw) and depth.image_sizes is None


def _constructor(declared: PolicyCameras, tower_hw: tuple[int, int]) -> str:
    if declared.anchor is None:
        return f"ImageMapping.stretched((H, W), {tuple(tower_hw)})"
    return f"ImageMapping.letterboxed((H, W), {tuple(tower_hw)}, anchor={declared.anchor!r})"


def _whose(camera: str | None) -> str:
    return "an image call" if camera is None else f"camera {camera!r}"
