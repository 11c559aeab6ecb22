"""The one camera whose metres a head learns: a picture does not tell how long the lens was that took it.

What looks as large through a lens twice as long is twice as far: depth of every sample is brought to what it would be
for the head's camera (Yin et al., "Metric3D", 2023, section 3.2), and brought back where the head is judged.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as Structural
from typing import runtime_checkable

from spaceclip_plugin.data import DepthSample, DepthSource, Mixture
from spaceclip_plugin.data.preparation import ImagePreparation
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.depth.camera import FocalLength, checked_focal_length, focal_in_words, lens_scale, same_aspect
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation import Protocol
from spaceclip_plugin.training.processes import Processes

ASSUMED_FIELD_OF_VIEW_DEG = 60.0
"""Along the longer side of a camera of which nobody knows anything."""
LOOKED_AT = 48
"""Samples of each part of the training data whose lens is looked at beforehand."""

_REMEDY = (
    "give the focal length of data that has no intrinsics as --focal-length FX,FY (in Python focal_length=(fx, fy)), "
    "over the photo's width and height, or add it to the data: a third word in every line of a list, intrinsics.json "
    "in a folder"
)

_logger = logging.getLogger(__name__)


@runtime_checkable
class TellsCamera(Structural):
    """A source that knows without reading them which of its samples have intrinsics."""

    def tells_camera(self, index: int) -> bool | None:
        """Whether sample `index` has; None where that cannot be told without reading it."""


@dataclass(frozen=True)
class DataCamera:
    """The head's camera, and what is taken to be that of data without intrinsics."""

    focal_length: FocalLength  # of the head's camera, over the sides of the tower's image
    untold: FocalLength | None = None  # of data without intrinsics, over the sides of the photo; None: not said
    assumed: bool = False  # nothing told a focal length: no metres are scaled

    def to_head(self, sample: DepthSample, protocol: Protocol, *, preparation: ImagePreparation | None = None) -> float:
        """What the metres of a training sample are multiplied by; DataError where it alone has, or lacks, a lens."""
        found = focal_length_of(sample, protocol, untold=self.untold, preparation=preparation)
        if (found is None) != self.assumed:
            has, others = ("no intrinsics", "some") if found is None else ("intrinsics", "none")
            raise DataError(
                f"{sample.name} has {has}, and the training samples looked at before have {others}; {_REMEDY}"
            )
        return 1.0 if found is None else lens_scale(to=self.focal_length, of=found)

    def from_head(
        self, sample: DepthSample, protocol: Protocol, *, preparation: ImagePreparation | None = None
    ) -> float:
        """What the head's metres for a sample are multiplied by to be those of its camera: 1 where that is unknown."""
        found = focal_length_of(sample, protocol, untold=self.untold, preparation=preparation)
        return 1.0 if found is None else lens_scale(to=found, of=self.focal_length)

    def told(self, source: DepthSource) -> DepthSource:
        """The source with intrinsics for all of its samples, where something is said of those that have none."""
        return source if self.untold is None else _Told(source, self.untold)


@dataclass(frozen=True, eq=False)
class _Told:
    source: DepthSource
    untold: FocalLength

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> DepthSample:
        return _with_intrinsics(self.source[index], self.untold)


def focal_length_of(
    sample: DepthSample,
    protocol: Protocol,
    *,
    untold: FocalLength | None = None,
    preparation: ImagePreparation | None = None,
) -> FocalLength | None:
    """That of the sample's camera, over the sides of the tower's image; None where nothing tells it.

    Args:
        sample: a photo, and its camera where it is known.
        protocol: says what part of the photo the host sees.
        untold: focal length of samples without a camera, over the sides of the photo.
        preparation: makes the tower's image of it; None: it is stretched.

    Raises:
        DataError: intrinsics of images of another aspect than the depth map, or of no camera.
    """
    if untold is not None:
        sample = _with_intrinsics(sample, untold)
    if sample.intrinsics is None:
        return None
    height, width = sample.depth_m.shape
    of_hw = sample.intrinsics.image_hw
    if not same_aspect(of_hw, (height, width)):
        raise DataError(
            f"{sample.name}: the intrinsics are of {of_hw[0]}x{of_hw[1]} (HxW) images, and the depth map, {height}x"
            f"{width}, is no such image at any resolution; give those of the depth map"
        )
    camera = protocol.input_intrinsics(sample)
    try:
        if camera is None:
            return None
        own = checked_focal_length(camera.focal_length)
        return checked_focal_length(_over_the_tower(own, camera.image_hw, preparation))
    except ConfigError as error:
        raise DataError(
            f"{sample.name}: no camera has the focal length of its intrinsics: {error}; check that they are in pixels, "
            "of the depth map"
        ) from error


def data_camera(
    train: DepthSource,
    protocol: Protocol,
    processes: Processes,
    *,
    untold: FocalLength | None = None,
    head: FocalLength | None = None,
    preparation: ImagePreparation | None = None,
) -> DataCamera:
    """The camera that a run's training data is brought to.

    It is the head's own where that knows one, else the median of the samples looked at along each axis.

    Args:
        train: not empty.
        protocol: says what part of an image the host sees.
        processes: each looks at a share.
        untold: focal length of data without intrinsics; None: not known.
        head: focal length that a trained head was made for.
        preparation: makes the tower's images; None: photos are stretched to them.

    Raises:
        DataError: some samples have intrinsics and others none, or they are of no camera.
    """
    indices = _looked_at(train)

    def found(numbers: Sequence[int]) -> Iterator[tuple[str, FocalLength | None, FocalLength | None, FocalLength]]:
        for sample in (train[indices[number]] for number in numbers):
            own = focal_length_of(sample, protocol, preparation=preparation)
            used = own
            if own is None:
                used = focal_length_of(sample, protocol, untold=untold, preparation=preparation)
            yield sample.name, own, used, _assumed(sample, protocol, preparation)

    seen = processes.shared_out(found, len(indices))
    lenses = [used for _, _, used, _ in seen if used is not None]
    if not lenses:
        camera = DataCamera(seen[0][3] if head is None else head, assumed=True)
    elif len(lenses) < len(seen):
        has, lacks = (next(name for name, own, *_ in seen if (own is None) == none) for none in (False, True))
        raise DataError(
            f"some training samples have intrinsics, such as {has}, and others none, such as {lacks}: a head learns "
            f"the metres of one camera; {_REMEDY}"
        )
    else:
        median = (statistics.median(x for x, _ in lenses), statistics.median(y for _, y in lenses))
        camera = DataCamera(median if head is None else head, untold)
    if processes.main:
        _log_camera(camera, lenses, silent=sum(own is None for _, own, *_ in seen))
    return camera


def _log_camera(camera: DataCamera, lenses: Sequence[FocalLength], *, silent: int) -> None:
    """Log what the head's camera is, and how it was found."""
    words = focal_in_words(camera.focal_length)
    if camera.assumed:
        _logger.warning(
            "no training sample has intrinsics: they are taken to be of a camera of %s, and the head's depth is true "
            "for the camera that took them alone; %s", words, _REMEDY,
        )  # fmt: skip
        return
    scales = [lens_scale(to=camera.focal_length, of=lens) for lens in lenses]
    _logger.info(
        "the head's camera: %s; metres of %d training samples looked at are multiplied by %.3g to %.3g",
        words, len(lenses), min(scales), max(scales),
    )  # fmt: skip
    if camera.untold is not None:
        _logger.info("%d of these have no intrinsics, and are of the focal length that was given", silent)
    if camera.untold is not None and not silent:
        _logger.warning("focal_length is of data without intrinsics, and there is none among the training samples")


def _looked_at(source: DepthSource) -> list[int]:
    """Indices spread over each part of a source, and the first sample that has, and that has no, intrinsics."""
    if isinstance(source, Mixture):
        starts = [0]
        for part in source.parts:
            starts.append(starts[-1] + len(part))
        return [start + index for start, part in zip(starts, source.parts, strict=False) for index in _looked_at(part)]
    count = len(source)
    chosen = {number * count // LOOKED_AT for number in range(LOOKED_AT)}
    if isinstance(source, TellsCamera):
        tells = [source.tells_camera(index) for index in range(count)]
        chosen |= {tells.index(kind) for kind in (True, False) if kind in tells}
    return sorted(chosen)


def _over_the_tower(
    focal_length: FocalLength, image_hw: tuple[int, int], preparation: ImagePreparation | None
) -> FocalLength:
    """A focal length over the sides of what the host sees, (H, W) pixels, as one over those of the tower's image."""
    if preparation is None or (mapping := preparation.mapping(image_hw)).stretches:
        return focal_length  # a stretch changes none
    return mapping.to_tower(Intrinsics.from_focal_length(focal_length, image_hw)).focal_length


def _assumed(sample: DepthSample, protocol: Protocol, preparation: ImagePreparation | None) -> FocalLength:
    """Of a camera with square pixels that took what the host sees of the sample."""
    _, _, height, width = protocol.crop_box((sample.image.shape[0], sample.image.shape[1]))
    focal_px = 0.5 * max(height, width) / math.tan(math.radians(0.5 * ASSUMED_FIELD_OF_VIEW_DEG))
    return _over_the_tower((focal_px / width, focal_px / height), (height, width), preparation)


def _with_intrinsics(sample: DepthSample, focal_length: FocalLength) -> DepthSample:
    if sample.intrinsics is not None:
        return sample
    height, width = sample.depth_m.shape
    return dataclasses.replace(sample, intrinsics=Intrinsics.from_focal_length(focal_length, (height, width)))
