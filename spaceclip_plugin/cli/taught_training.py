"""What `spaceclip train --teacher` does before it trains: a teacher gives depth to the training data, whatever it has.

Validation and test data stay as they are: a head is judged by what was measured, never by its teacher. Only recordings
in which nothing was measured are validated on the teacher's depth, and the records say so.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.cli.hosts import device_called
from spaceclip_plugin.data import SourceSpec
from spaceclip_plugin.data.sources.registry import source_mapping
from spaceclip_plugin.data.sources.spec import is_recording
from spaceclip_plugin.teaching import DepthTeacher, TaughtData, TeachOptions, load_teacher, teach
from spaceclip_plugin.teaching.record import RECORD_NAME
from spaceclip_plugin.training.config.run_config import RunConfig, WeightedSource
from spaceclip_plugin.training.run.folder import CACHE_NAME, TAUGHT_PREFIX


class RunTeaching:
    """The data of a run, with depth by its teacher where it shall have that; the teacher is loaded once, if at all.

    What it says goes to the run's cache, and stays there until the run is finished; in `config.cache`, for good.
    """

    def __init__(self, config: RunConfig, out: Path) -> None:
        self._config = config
        self._out = out

    def data(self) -> tuple[WeightedSource, ...]:
        """The training data, all of it taught, but for what is already."""
        return self._taught(self._config.data, lambda source: not isinstance(source, TaughtData))

    def validation(self) -> tuple[WeightedSource, ...]:
        """The validation data, in which only recordings that tell no depth are taught."""
        return self._taught(self._config.validation, lambda source: is_recording(source) and not source.tells_depth())

    def _taught(
        self, parts: Sequence[WeightedSource], lacks_depth: Callable[[SourceSpec], bool]
    ) -> tuple[WeightedSource, ...]:
        """The parts, and of those that lack depth what the teacher makes of them, unless it has been asked already."""
        if self._config.teacher is None:
            return tuple(parts)
        return tuple(
            dataclasses.replace(part, source=self._lesson(part)) if lacks_depth(part.source) else part for part in parts
        )

    def _lesson(self, part: WeightedSource) -> TaughtData:
        folder = _folder(self._config, part, self._out)
        if not (folder / RECORD_NAME).is_file():
            teach(part.source, self._teacher, folder, device=self._device, options=_options(self._config))
        return TaughtData(str(folder))

    @functools.cached_property
    def _device(self) -> torch.device:
        return device_called(self._config.device)

    @functools.cached_property
    def _teacher(self) -> DepthTeacher:
        return load_teacher(str(self._config.teacher), device=self._device)


def _folder(config: RunConfig, part: WeightedSource, out: Path) -> Path:
    """Where the depth of one source goes: named by what it is of, so that no other run takes it for its own."""
    options = _options(config)
    kept = (options.range_m, options.units_per_metre, options.skip_bad)
    of = (config.resolved(Path.cwd()).teacher, source_mapping(part.source.resolved(Path.cwd())), kept)
    digest = sha256_of(json.dumps(of))[:16]
    return (config.cache or out / CACHE_NAME) / f"{TAUGHT_PREFIX}{digest}"


def _options(config: RunConfig) -> TeachOptions:
    """As the run reads its data."""
    protocol = config.evaluation
    return TeachOptions(
        range_m=(max(protocol.min_depth_m, 1e-6), protocol.max_depth_m),
        units_per_metre=protocol.depth_scale if config.units_per_metre is None else config.units_per_metre,
        skip_bad=config.skip_bad,
        workers=config.workers,
    )
