"""What holds for every record of what depth costs, a tiny one and the one that is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import depth_figures as figures

from spaceclip_plugin.head.architectures import ARCHITECTURES

PATH = re.compile(r"(?:^|[\s\"'=:(])(?:[A-Za-z]:\\|~?/\w)|\w+://|\\\\")


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def check(record: dict[str, Any]) -> None:
    """What holds for every record."""
    assert record["new_head"] in ARCHITECTURES
    assert not [text for text in strings(record) if PATH.search(text)]
    for run in record["runs"]:
        assert max(run["differences"].values()) < 1e-3
        for one in run["ratios"]:
            assert one["quartiles"][0] <= one["median"] <= one["quartiles"][1]
        kept = figures.targets(run["ratios"], record["new_head"], record["rival"])
        assert run["targets"] == kept
        for target in run["targets"]:
            value = target["measured"]
            low, high = target.get("at_least", 0), target.get("at_most", float("inf"))
            assert target["met"] == (value is not None and low <= value <= high), target["target"]
