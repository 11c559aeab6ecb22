"""The records of robots and their timing are whole, and keep the promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import robot_timing

ROOT = Path(__file__).resolve().parents[2]


def record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_the_safety_filter_keeps_what_true_depth_achieves() -> None:
    rows = {row["depth"]: row for row in record("closed_loop")["rover"]["rows"]}
    assert {row["seeds"] for row in rows.values()} == {50}
    assert rows["predicted"]["collisions"] == 0
    assert rows["predicted"]["successes"] >= 0.96 * rows["true"]["successes"] > 40
    assert rows["none"]["collisions"] > 25


def test_the_arm_reaches_through_predicted_depth() -> None:
    rows = {(row["looks"], row["depth"]): row for row in record("closed_loop")["arm"]["rows"]}
    assert min(rows[3, depth]["reached"] for depth in ("predicted", "steady")) >= 40
    assert max(rows[3, depth]["collisions"] for depth in ("predicted", "steady", "aligned")) <= 2
    assert rows[1, "true"]["reached"] >= 40
    assert rows[1, "predicted"]["collisions"] == 0  # it is unsure, and the hand stays up


def test_every_loop_was_run_over_fifty_seeds() -> None:
    found = record("closed_loop")
    assert list(found) == ["rover", "arm", "two-cameras"]
    for part in found.values():
        assert all(row["seeds"] >= 50 and row["cpu_seconds"] > 0 for row in part["rows"])
        assert part["first_seed"] >= 5_000_000


def test_the_timing_covers_one_two_and_three_cameras() -> None:
    found = record("robot_timing")
    assert {(row["cameras"], row["way"]) for row in found["rows"]} == {
        (cameras, way) for cameras in (1, 2, 3) for way in robot_timing.WAYS
    }
    by_way = {row["way"]: row for row in found["rows"] if row["cameras"] == 1}
    assert by_way["every step"]["mean_age_steps"] == 0
    assert by_way["every third step"]["mean_age_steps"] == 1
