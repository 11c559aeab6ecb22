"""What `spaceclip train --teacher` does before it trains: a teacher gives depth to the training data, whatever it has.

Validation and test data stay as they are: a head is judged by what was measured, never by its teacher.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.cli.data import parts_of
from spaceclip_plugin.cli.hosts import device_called
from spaceclip_plugin.data import DepthSource
from spaceclip_plugin.data.sources.registry import source_mapping
from spaceclip_plugin.teaching import DepthTeacher, TaughtData, TaughtDepth, TeachOptions, load_teacher, teach
from spaceclip_plugin.teaching.record import RECORD_NAME
from spaceclip_plugin.training.config.run_config import RunConfig, WeightedSource
from spaceclip_plugin.training.run.folder import CACHE_NAME, TAUGHT_PREFIX

_logger = logging.getLogger(__name__)


def taught_data(config: RunConfig, out: Path) -> tuple[WeightedSource, ...]:
    """The training data of a run, with depth by its teacher, which is asked about what it has not been asked yet.

    What it says goes to the run's cache, and stays there until the run is finished; in `config.cache`, for good.
    """
    if config.teacher is None:
        return config.data
    device = device_called(config.device)
    teacher: DepthTeacher | None = None
    parts = []
    for part in config.data:
        if isinstance(part.source, TaughtData):
            parts.append(part)
            continue
        folder = _folder(config, part, out)
        if not (folder / RECORD_NAME).is_file():
            teacher = teacher or load_teacher(config.teacher, device=device)
            teach(part.source, teacher, folder, device=device, options=_options(config))
        parts.append(dataclasses.replace(part, source=TaughtData(str(folder))))
    return tuple(parts)


def told_of_teachers(train: DepthSource, validation: DepthSource) -> dict[str, Any]:
    """For the run's record: who taught, on which terms, and whether validation is on depth that was measured."""
    teachers: list[dict[str, Any]] = []
    for part in parts_of([train, validation]):
        if isinstance(part, TaughtDepth):
            teachers += [card for card in part.teachers if card not in teachers]
    by_teacher = any(isinstance(part, TaughtDepth) for part in parts_of([validation]))
    if by_teacher:
        _logger.warning(
            "validation is on depth that a teacher gave: its figures say how well the head follows the teacher, not "
            "how far it is from the truth"
        )
    return {"teachers": teachers, "validated_on": "a teacher's depth" if by_teacher else "the data's own depth"}


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
