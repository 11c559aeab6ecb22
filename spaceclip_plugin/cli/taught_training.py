"""What `spaceclip train --teacher` does before it trains: a teacher gives depth to the training data, whatever it has.

Validation and test data stay as they are: a head is judged by what was measured, never by its teacher. Only recordings
in which nothing was measured are validated on the teacher's depth, and the records say so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.cli.hosts import device_called
from spaceclip_plugin.data.sources.registry import source_mapping
from spaceclip_plugin.data.sources.spec import RecordingSpec
from spaceclip_plugin.teaching import DepthTeacher, TaughtData, TeachOptions, load_teacher, teach
from spaceclip_plugin.teaching.record import RECORD_NAME
from spaceclip_plugin.training.config.run_config import RunConfig, WeightedSource
from spaceclip_plugin.training.run.folder import CACHE_NAME, TAUGHT_PREFIX


def taught_data(config: RunConfig, out: Path) -> tuple[WeightedSource, ...]:
    """The training data of a run, with depth by its teacher, which is asked about what it has not been asked yet.

    What it says goes to the run's cache, and stays there until the run is finished; in `config.cache`, for good.
    """
    if config.teacher is None:
        return config.data
    return _taught([(part, not isinstance(part.source, TaughtData)) for part in config.data], config, out)


def taught_validation(config: RunConfig, out: Path) -> tuple[WeightedSource, ...]:
    """The validation data of a run, in which only recordings that tell no depth have that of its teacher."""
    if config.teacher is None:
        return config.validation
    lacking = [isinstance(part.source, RecordingSpec) and not part.source.tells_depth() for part in config.validation]
    return _taught(list(zip(config.validation, lacking, strict=True)), config, out)


def _taught(parts: Sequence[tuple[WeightedSource, bool]], config: RunConfig, out: Path) -> tuple[WeightedSource, ...]:
    """The parts, and of those that are marked what a teacher makes of them."""
    device = device_called(config.device)
    teacher: DepthTeacher | None = None
    found = []
    for part, marked in parts:
        if not marked:
            found.append(part)
            continue
        folder = _folder(config, part, out)
        if not (folder / RECORD_NAME).is_file():
            teacher = teacher or load_teacher(str(config.teacher), device=device)
            teach(part.source, teacher, folder, device=device, options=_options(config))
        found.append(dataclasses.replace(part, source=TaughtData(str(folder))))
    return tuple(found)


def _folder(config: RunConfig, part: WeightedSource, out: Path) -> Path:
    """Where the depth of one source goes: named by what it is of, so that no other run takes it for its own."""
    options = _options(config)
    kept = (options.range_m, options.units_per_metre, options.skip_bad)
    of = (config.teacher, source_mapping(part.source.resolved(Path.cwd())), kept)
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
