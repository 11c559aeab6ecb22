"""What robots and their timing are said to do: the tables of the worlds' guide are those of the recorded runs."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "examples" / "README.md").read_text()


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for module in (name, "host_overhead", "turns"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module(name)


def record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", GUIDE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(("script", "name"), [("closed_loop", "closed-loop"), ("robot_timing", "robot-timing")])
def test_the_table_is_that_of_the_record(script: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert block(name) == benchmark(script, monkeypatch).table(record(script))


def test_the_safety_filter_keeps_what_true_depth_achieves() -> None:
    rows = {row["depth"]: row for row in record("closed_loop")["rover"]["rows"]}
    assert {row["seeds"] for row in rows.values()} == {50}
    assert rows["predicted"]["collisions"] == 0
    assert rows["predicted"]["successes"] >= 0.9 * rows["true"]["successes"] > 40
    assert rows["none"]["collisions"] > 25


def test_every_loop_was_run_over_fifty_seeds() -> None:
    found = record("closed_loop")
    assert list(found) == ["rover", "arm", "two-cameras"]
    for part in found.values():
        assert all(row["seeds"] >= 50 and row["wall_seconds"] > 0 for row in part["rows"])
        assert part["first_seed"] >= 5_000_000


def test_alignment_is_told_as_recorded() -> None:
    found = record("alignment")
    spoilt, table, head = (
        found[f"{name}"] for name in ("nyu_spoilt_depth", "tabletop_spoilt_depth", "nyu_trained_head")
    )
    for rows, name in ((spoilt, "10 ranges"), (spoilt, "10 ranges, 40% wrong"), (table, "table plane")):
        assert f"{rows[name]['abs_rel_after']:.3f}" in GUIDE
    for name in ("1 ranges", "3 ranges", "10 ranges", "30 ranges"):
        assert f"{head[name]['abs_rel_after']:.3f}" in GUIDE


def test_the_timing_covers_one_two_and_three_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    timing, found = benchmark("robot_timing", monkeypatch), record("robot_timing")
    assert {(row["cameras"], row["way"]) for row in found["rows"]} == {
        (cameras, way) for cameras in (1, 2, 3) for way in timing.WAYS
    }
    by_way = {row["way"]: row for row in found["rows"] if row["cameras"] == 1}
    assert by_way["every step"]["mean_age_steps"] == 0
    assert by_way["every third step"]["mean_age_steps"] == 1
