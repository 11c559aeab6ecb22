"""The record of what depth costs a policy's step: of the default head, and every interval holds its ratio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import policy_step
import pytest
import step_tables as tables

from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return read_json_object(policy_step.RECORD)


def ratios(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "interval" in value:
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from ratios(inner)


def test_is_of_the_default_head_and_of_parts_that_there_are(record: dict[str, Any]) -> None:
    assert set(record) <= set(policy_step.PARTS)
    assert {part["head"] for part in record.values()} <= {DEFAULT_ARCHITECTURE}


def test_every_interval_holds_its_ratio(record: dict[str, Any]) -> None:
    for one in ratios(record):
        assert 0 < one["interval"][0] <= one["ratio"] <= one["interval"][1]


def test_every_policy_has_one_two_and_three_cameras(record: dict[str, Any]) -> None:
    for part in ("tower-alone", "smolvla", "pi0"):
        rows = record[part]["found"]
        threads = {row["threads"] for row in rows}
        assert {(row["threads"], row["cameras"]) for row in rows} == {
            (count, n) for count in threads for n in (1, 2, 3)
        }
        assert all(row["added"][tables.EVERY_THIRD]["ratio"] < row["added"][tables.EVERY_STEP]["ratio"] for row in rows)


def test_a_read_is_a_small_part_of_its_towers_instructions(record: dict[str, Any]) -> None:
    if "instructions" not in record:
        pytest.skip("instructions were not counted yet: python benchmarks/policy_step.py instructions")
    counts = record["instructions"]["found"]
    assert counts[tables.GRID] < counts[tables.SMALL] < counts[tables.FULL] < 0.1 * counts[tables.HOST]
