"""What a new run makes of a robot's recordings: fewer frames, and validation data where none is named."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from spaceclip_plugin.data import SourceSpec
from spaceclip_plugin.data.sources.spec import RecordingSpec, is_recording
from spaceclip_plugin.training.config.run_config import SOURCES_OF_A_RUN, RunConfig, WeightedSource

HELD_OUT = 0.1
"""Share of the episodes that is kept for validation."""

_logger = logging.getLogger(__name__)


def of_recordings(parts: Sequence[WeightedSource]) -> bool:
    """Whether there is data, and all of it is recordings."""
    return bool(parts) and all(is_recording(part.source) for part in parts)


def with_recordings(config: RunConfig) -> RunConfig:
    """The config of a new run, with everything about its recordings written out, for the run's folder.

    Of recordings without a stride about two frames a second are taken. Where no validation data is named and all
    training data is recordings, a tenth of the episodes of each is held out for it.

    Raises:
        DataError: data that cannot be opened, or a recording of one episode, which cannot be split.
    """
    changes: dict[str, Any] = {
        name: tuple(dataclasses.replace(part, source=thinned(part.source)) for part in getattr(config, name))
        for name in SOURCES_OF_A_RUN
    }
    if not config.validation and of_recordings(config.data):
        learnt, judged = [], []
        for part in changes["data"]:
            kept, held = held_out(part.source)
            learnt.append(dataclasses.replace(part, source=kept))
            judged.append(WeightedSource(held))
        changes |= {"data": tuple(learnt), "validation": tuple(judged)}
    return dataclasses.replace(config, **changes)


def thinned(spec: SourceSpec) -> SourceSpec:
    """The data, if it is a recording without a stride with one that leaves about two frames a second."""
    if not is_recording(spec) or spec.stride is not None:
        return spec
    fewer = spec.thinned()
    _logger.info("%s: one frame in %d is taken, about two a second; a stride says otherwise", spec.title, fewer.stride)
    return fewer


def held_out(spec: RecordingSpec) -> tuple[RecordingSpec, RecordingSpec]:
    """The episodes of a recording to learn from, and those to validate on."""
    learnt, judged = spec.split(HELD_OUT)
    _logger.info("%s: held out for validation: episodes %s", spec.title, judged.episodes)
    return learnt, judged


def told_of_recordings(data: Mapping[str, Sequence[object]]) -> dict[str, list[dict[str, Any]]]:
    """For the run's record: which frames of which recordings a run reads, by what they are for."""
    return {
        name: [
            {"title": spec.title, "camera": spec.camera, "stride": spec.stride, "episodes": spec.episodes}
            for spec in specs
            if is_recording(spec)
        ]
        for name, specs in data.items()
    }
