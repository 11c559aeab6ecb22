"""Are images prepared as those were that a head was trained on? Where they lie otherwise, its metres are off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from spaceclip_plugin.attach.declared import PolicyCameras
from spaceclip_plugin.attach.preparations import told_preparation
from spaceclip_plugin.attach.tower_match import OTHER, SAME, UNKNOWN
from spaceclip_plugin.data.preparation import ImagePreparation
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.head import DepthHeadConfig
from spaceclip_plugin.towers import ImageGeometry, TowerSpec
from spaceclip_plugin.towers.adapter import lineage

# Photos to compare two preparations by, where no camera's size is known; no tower's image has the shape of all.
_ANY_CAMERAS = ((480, 640), (640, 480), (720, 1280))
_ROUNDING_PX = 1.0  # hosts round the sides of what they resize, and halves of margins, in their own ways

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparationMatch:
    """How images are prepared here, compared with those that a head was trained on.

    Attributes:
        verdict: `SAME`, `OTHER`, or `UNKNOWN`.
        trained: how the head's were (`ImagePreparation.kind`); None: not told.
        here: how they are here, in words; None: not told.
        reason: why nothing was compared; None where it was.
    """

    verdict: str
    trained: str | None
    here: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        """In words, for people."""
        if self.verdict == UNKNOWN:
            return f"not compared: {self.reason}"
        as_head = "prepared as the head's were" if self.verdict == SAME else "prepared otherwise than the head's were"
        return f"{as_head} ({self.trained}{f', here {self.here}' * (self.trained != self.here)})"


_UNTOLD = PreparationMatch(UNKNOWN, None, reason="the head does not tell how its images were prepared")


def match_images(
    config: DepthHeadConfig,
    host: nn.Module,
    spec: TowerSpec,
    *,
    declared: PolicyCameras | None,
    said: Sequence[ImageMapping] = (),
) -> PreparationMatch:
    """Compare a head's images with those that a host shows its tower: as a user said, else as it tells itself.

    Nothing is raised: a host whose preparation is not understood is one that does not tell.
    """
    if config.preparation is None:
        return _UNTOLD
    if said:
        return _by_mappings(config.preparation, said, "as mapping= says")
    cameras = [] if declared is None else list(declared.mappings.values())
    try:
        told = told_preparation([*lineage(host, spec.path)], spec, declared)
    except HostError as error:
        return PreparationMatch(UNKNOWN, config.preparation, reason=str(error))
    if told is not None:
        return match_preparation(config, told, cameras_hw=[mapping.camera_hw for mapping in cameras])
    if declared is not None and cameras:
        return _by_mappings(config.preparation, cameras, f"as {declared.policy} declares")
    return PreparationMatch(UNKNOWN, config.preparation, reason="the host does not tell how it prepares images")


def match_preparation(
    config: DepthHeadConfig, preparation: ImagePreparation, *, cameras_hw: Sequence[tuple[int, int]] = ()
) -> PreparationMatch:
    """Compare a head's images with those that a preparation makes of photos of these sizes, or of any."""
    trained, here = config.preparation, preparation.kind
    if trained is None:
        return _UNTOLD
    if trained == here:
        return PreparationMatch(SAME, trained, here)
    if _geometry(trained) is None:
        return PreparationMatch(OTHER, trained, here)
    mappings = []
    for hw in cameras_hw or _ANY_CAMERAS:
        try:
            mappings.append(preparation.mapping(hw))
        except (ConfigError, HostError):  # it takes no photos of that size
            continue
    return _by_mappings(trained, mappings, here)


def warn_of_other_images(match: PreparationMatch) -> None:
    """Say what differs, what it costs and what to do, where anything does."""
    if match.verdict == OTHER:
        _logger.warning("%s", _complaint(match.trained or "", match.here or ""))


def _complaint(trained: str, here: str) -> str:
    text = (
        f"the head was trained on images that were prepared otherwise ({trained}) than they are here ({here}): what it "
        "sees has another shape or size than what it learnt, and its metres are off without any other sign. Train a "
        "head on this host as it is (--preparation host, the default)"
    )
    theirs, ours = _geometry(trained), _geometry(here)
    if theirs is not None:
        text += (
            f"; or, where photos shall be prepared as the head's were, say so: --preparation {trained} (in Python "
            f"ImageGeometry.parse({trained!r}).declare(host))"
        )
    if theirs is not None and ours is not None and {theirs.layout, ours.layout} == {"stretch", "letterbox"}:
        text += ". Of photos of the same shape as the tower's image, both make the same"
    return text


def _by_mappings(trained: str, mappings: Sequence[ImageMapping], here: str) -> PreparationMatch:
    """Compare by where photos lie in the tower's image."""
    theirs = _geometry(trained)
    if theirs is None:
        reason = f"the head's images were prepared by {trained}, which is no preparation known here"
        return PreparationMatch(UNKNOWN, trained, here, reason)
    same = bool(mappings) and all(_lays_alike(theirs, mapping) for mapping in mappings)
    return PreparationMatch(SAME if same else OTHER, trained, here)


def _lays_alike(theirs: ImageGeometry, ours: ImageMapping) -> bool:
    """Whether a geometry lays photos where a mapping does, a pixel aside."""
    try:
        corners = _corners(theirs.mapping(ours.camera_hw, ours.tower_hw))
    except ConfigError:  # it makes no image of that size
        return False
    return all(abs(one - other) <= _ROUNDING_PX for one, other in zip(corners, _corners(ours), strict=True))


def _corners(mapping: ImageMapping) -> tuple[float, float, float, float]:
    """Where the whole photo lies: its top, left, bottom and right in the tower's pixels."""
    (height, width), top, left = mapping.camera_hw, mapping.offset_y, mapping.offset_x
    return top, left, top + mapping.scale_y * height, left + mapping.scale_x * width


def _geometry(words: str) -> ImageGeometry | None:
    """What `ImageGeometry.parse` makes of words; None of those that a policy of someone's describes itself by."""
    try:
        return ImageGeometry.parse(words)
    except ConfigError:
        return None
