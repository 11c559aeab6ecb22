"""What is checked of a run's data before anything is written.
Depth in the right unit, images to judge by that can be scored, and no image in two sources."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Structural
from typing import runtime_checkable

import numpy as np

from spaceclip_plugin.data import DepthSource, Mixture, check_depth_units
from spaceclip_plugin.data.preparation import ImagePreparation
from spaceclip_plugin.data.sample import fingerprint, photo_of
from spaceclip_plugin.depth.camera import FocalLength
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import Protocol
from spaceclip_plugin.training.data_camera import DataCamera, data_camera, focal_length_of
from spaceclip_plugin.training.processes import Processes

_LEARNT = "train"
_SHOWN = 5

_logger = logging.getLogger(__name__)


@runtime_checkable
class Seeded(Structural):
    """A source that is computed: another seed gives other samples."""

    @property
    def seed(self) -> int:
        """What its samples follow from."""

    def named_with(self, seed: int) -> str:
        """How a command line and a config name as much of another seed."""


@dataclass(frozen=True, eq=False)
class CheckedSources:
    """What is known of a run's data once it is checked."""

    fingerprints: dict[str, list[str]]  # of all samples of every source, in order
    camera: DataCamera


def checked_sources(
    sources: Mapping[str, DepthSource],
    protocol: Protocol,
    processes: Processes,
    *,
    untold: FocalLength | None = None,
    head: FocalLength | None = None,
    preparation: ImagePreparation | None = None,
) -> CheckedSources:
    """What is known of the sources "train", "validation" and, where there is one, "test", once they are checked.

    Samples of "train" may be very many: the protocol's check of each comes where their features are made. For `untold`,
    `head` and `preparation` see `data_camera`.
    """
    for name, source in sources.items():
        if len(source) == 0:
            raise DataError(f"the {name} source is empty; give at least one image")
    for source in sources.values():
        processes.on_main(lambda source=source: check_depth_units(source, protocol))  # type: ignore[misc]
    camera = data_camera(sources[_LEARNT], protocol, processes, untold=untold, head=head, preparation=preparation)
    for name, source in sources.items():
        if name != _LEARNT:  # the first score of a sample may come when a run has ended
            _check_usable(name, source, protocol, camera, processes)
    fingerprints = {
        name: processes.shared_out(functools.partial(_fingerprints, source), len(source))
        for name, source in sources.items()
    }
    for one, other in itertools.combinations(sources, 2):
        _check_apart(sources, fingerprints, one, other)
    return CheckedSources(fingerprints, camera)


def check_tells_of_nothing(source: DepthSource, processes: Processes) -> None:
    """Some sample says of a pixel that nothing is there; a head that shall tell learns it from nothing else.

    Samples are read until one does.

    Raises:
        DataError: none does.
    """
    if not processes.on_main(lambda: any(bool(np.isposinf(source[i].depth_m).any()) for i in range(len(source)))):
        raise DataError(
            f"the head shall tell where nothing is, and none of the {len(source)} training samples has a pixel of "
            "infinite depth, which says so: it would never learn to. Make the head with empty=False, or train it on "
            "renders that have sky"
        )


def _check_usable(name: str, source: DepthSource, protocol: Protocol, camera: DataCamera, processes: Processes) -> None:
    """Every sample can be scored; each process decodes its share. Log where cameras are not told alike."""

    def looked_at(indices: Sequence[int]) -> Iterator[tuple[str | None, bool]]:
        for index in indices:
            try:
                sample = source[index]
                protocol.check(sample)
                yield None, focal_length_of(sample, protocol, untold=camera.untold) is not None
            except DataError as error:
                yield str(error), False

    found = processes.shared_out(looked_at, len(source))
    bad = [refusal for refusal, _ in found if refusal is not None]
    if bad:
        reasons = "".join(f"\n  {reason}" for reason in bad[:_SHOWN])
        reasons += f"\n  … and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DataError(
            f"{len(bad)} of {len(source)} samples of the {name} source cannot be used; repair them, or leave them out "
            f"with --skip-bad:{reasons}"
        )
    told = sum(has for _, has in found)
    if processes.main and not camera.assumed and told < len(source):
        _logger.warning(
            "%d of %d %s samples have no intrinsics: they are taken to be of the head's camera",
            len(source) - told, len(source), name,
        )  # fmt: skip
    elif processes.main and camera.assumed and told:
        _logger.warning(
            "%d of %d %s samples have intrinsics and no training sample has: the head's metres are brought to their "
            "cameras as if its own had the assumed focal length; give that of the training data (focal_length)",
            told, len(source), name,
        )  # fmt: skip


def _fingerprints(source: DepthSource, indices: Sequence[int]) -> Iterator[str]:
    return (fingerprint(source, index) for index in indices)


def _check_apart(
    sources: Mapping[str, DepthSource], fingerprints: Mapping[str, list[str]], one: str, other: str
) -> None:
    """No photo is in both sources."""
    first, second = sources[one], sources[other]
    places = {photo_of(fingerprint): index for index, fingerprint in enumerate(fingerprints[one])}
    photos = [photo_of(fingerprint) for fingerprint in fingerprints[other]]
    shared = [(index, places[photo]) for index, photo in enumerate(photos) if photo in places]
    if shared:
        names = (second[shared[0][0]].name, first[shared[0][1]].name)
        seeded = [part for part in _parts(second) if isinstance(part, Seeded)]
        remedy = _other_seed(seeded, first) if seeded and names[0] == names[1] else ""
        raise DataError(
            f"{len(shared)} images of the {other} source are in the {one} source too, such as {names[0]} "
            f"({names[1]}): figures on them would say nothing. Take them out of one{remedy}"
        )


def _parts(source: DepthSource) -> list[DepthSource]:
    """The source itself, or all that a mixture is made of."""
    if not isinstance(source, Mixture):
        return [source]
    return [part for whole in source.parts for part in _parts(whole)]


def _other_seed(seeded: Sequence[Seeded], first: DepthSource) -> str:
    """How computed samples that are the same in two sources become different ones."""
    used = {part.seed for part in _parts(first) if isinstance(part, Seeded)} | {part.seed for part in seeded}
    free = next(seed for seed in itertools.count() if seed not in used)
    return f"; they differ with their seed: {seeded[0].named_with(free)}, has others"
