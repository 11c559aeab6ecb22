"""What `run.json` says of a run, and whether a run that is continued is the one that was begun."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.towers import ImageGeometry
from spaceclip_plugin.training.tower_precision import OWN

MUST_MATCH = (
    "recipe", "protocol", "protocol_settings", "camera", "preparation", "head", "tower", "host_digest_before", "data",
    "shares",
)  # fmt: skip
SHOULD_MATCH = ("device", "torch", "threads")  # the last bits depend on them
_SAID_TWICE = ("format_version", "tower_fingerprint", "preparation")
_FLAGS = {"train": "data", "validation": "val", "test": "test"}
_MAX_SHOWN = 120

_logger = logging.getLogger(__name__)


def code_of(record: Mapping[str, object]) -> str:
    """Which code a run was begun with, in words."""
    version, digest = record.get("spaceclip_plugin"), record.get("code")
    if version is None:
        return "a version of spaceclip_plugin that it does not name"
    return f"spaceclip_plugin {version} (code {str(digest)[:12]}…)"


def comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what says the same in two ways: the fingerprint in the head's config is of the host, whose
    digest is compared, and its last digits may hang on the device; a format only says how the config is written; the
    config's preparation is the record's, and older runs lack it. Runs that name none at all stretched their photos, and
    ran their tower in its own precision."""
    record = {"preparation": ImageGeometry.STRETCH.name, **record}
    if isinstance(record.get("recipe"), Mapping):
        record["recipe"] = {"tower_precision": OWN, **record["recipe"]}
    head = record.get("head")
    if not isinstance(head, Mapping):
        return record
    kept = {key: value for key, value in head.items() if key not in _SAID_TWICE}
    return {**record, "head": kept}


def check_same_run(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that what `run.json` says of an unfinished run is true of the one that would continue it.
    Where code, torch, threads or device differ, which may change the last bits, it is a warning."""
    if begun.get("host_digest_after") not in (None, begun.get("host_digest_before")):
        raise TrainingError(
            f"the run in {str(folder)!r} cannot be continued: its host changed while a head was trained on it. "
            "Find what changed it, then start another run"
        )
    if "camera" not in begun:
        raise TrainingError(
            f"the run in {str(folder)!r} cannot be continued: it was begun with {code_of(begun)}, which did not bring "
            "its data to one camera (run.json names none), and its depth would end up in mixed metres. Finish it with "
            "the code it was begun with, or start another run"
        )
    begun, now = comparable(begun), comparable(json.loads(json.dumps(now)))
    for key in MUST_MATCH:
        if begun.get(key) != now[key]:
            found = _differences(key, begun.get(key), now[key])
            differing = "; ".join(_in_words(name, (old, begun), (new, now)) for name, old, new in found)
            raise TrainingError(
                f"the run in {str(folder)!r} cannot be continued: {differing}. Give what it was started with, "
                "or start another run"
            )
    for key in SHOULD_MATCH:
        if begun.get(key) != now[key]:
            _logger.warning(
                "the run was begun with %s %s and goes on with %s: its last bits may differ from those of an "
                "uninterrupted one", key, begun.get(key), now[key],
            )  # fmt: skip
    if code_of(begun) != code_of(now):
        _logger.warning(
            "the run was begun with %s and goes on with %s: it may end otherwise than an uninterrupted one. "
            "For the same bits resume it with the code it was begun with", code_of(begun), code_of(now),
        )  # fmt: skip


def _differences(name: str, before: object, now: object) -> Iterator[tuple[str, object, object]]:
    """(name, before, now) of every setting within a setting that is not as it was."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        yield name, before, now
        return
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))


def _in_words(name: str, before: tuple[object, Mapping[str, Any]], now: tuple[object, Mapping[str, Any]]) -> str:
    """A difference, from both values and the records they are of."""
    if not name.startswith("data."):
        return f"its {name} was {_shown(before[0], now[0])}, now it is {_shown(now[0], before[0])}"
    source = name.removeprefix("data.")
    lists = [
        f"{record.get('details', {}).get(_FLAGS.get(source)) or 'its source'} with SHA-256 {str(digest)[:12]}…"
        if digest is not None
        else "none"
        for digest, record in (before, now)
    ]
    return f"its {source} data was {lists[0]}, now it is {lists[1]}: other images, depth or order"


def _shown(value: object, other: object) -> str:
    """A value of the record for a message; of a long one, what it has from where it differs from another one."""
    text, theirs = (json.dumps(one, ensure_ascii=False) for one in (value, other))
    pairs = zip(text, theirs, strict=False)
    same = next((i for i, (mine, yours) in enumerate(pairs) if mine != yours), min(len(text), len(theirs)))
    start = 0 if len(text) <= _MAX_SHOWN else max(0, same - 20)
    end = start + _MAX_SHOWN
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
