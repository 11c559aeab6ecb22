"""The record of robots that act by depth is whole, and keeps the promises."""

from __future__ import annotations

import json
from typing import Any

import closed_loop
import pytest


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(closed_loop.RECORD.read_text())


def test_the_safety_filter_keeps_what_true_depth_achieves(record: dict[str, Any]) -> None:
    rows = {row["depth"]: row for row in record["rover"]["rows"]}
    assert {row["seeds"] for row in rows.values()} == {50}
    assert rows["predicted"]["collisions"] == 0
    assert rows["predicted"]["successes"] >= 0.96 * rows["true"]["successes"] > 40
    assert rows["none"]["collisions"] > 25


def test_the_arm_reaches_through_predicted_depth(record: dict[str, Any]) -> None:
    rows = {(row["looks"], row["depth"]): row for row in record["arm"]["rows"]}
    assert min(rows[3, depth]["reached"] for depth in ("predicted", "steady")) >= 40
    assert max(rows[3, depth]["collisions"] for depth in ("predicted", "steady", "aligned")) <= 2
    assert rows[1, "true"]["reached"] >= 40
    assert rows[1, "predicted"]["collisions"] == 0  # it is unsure, and the hand stays up


def test_every_loop_was_run_over_fifty_seeds(record: dict[str, Any]) -> None:
    assert list(record) == ["rover", "arm", "two-cameras"]
    for part in record.values():
        assert all(row["seeds"] >= 50 and row["cpu_seconds"] > 0 for row in part["rows"])
        assert part["first_seed"] >= 5_000_000
