"""What a run's record says of the teachers behind its data."""

from __future__ import annotations

import logging
from typing import Any

from spaceclip_plugin.data import DepthSource
from spaceclip_plugin.data.sources.mixture import parts_of
from spaceclip_plugin.teaching.taught import TaughtDepth

_logger = logging.getLogger(__name__)


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
