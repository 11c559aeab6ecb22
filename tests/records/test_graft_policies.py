"""The record of grafts on policies is whole, and its page claims a gain only where it is one."""

from __future__ import annotations

import json
from pathlib import Path

import graft_policies as benchmark
from graft_table import gains, was_rolled

RECORD = json.loads(benchmark.RECORD.read_text())
COUNTS = RECORD["demonstrations"]
GUIDE = Path(__file__).resolve().parents[2] / "spaceclip_plugin" / "graft" / "README.md"
ROLLED = [rows for rows in COUNTS.values() if all(was_rolled(runs) for runs in rows.values())]


def test_every_row_learnt_with_the_same_seeds() -> None:
    assert [*COUNTS] == ["20", "50", "200"]
    for rows in COUNTS.values():
        assert [*rows] == [*benchmark.ROWS]
        assert all([run["seed"] for run in runs] == [*benchmark.SEEDS] for runs in rows.values())


def test_episodes_are_those_of_all_rows_and_of_no_demonstration() -> None:
    assert len(ROLLED) == len(COUNTS)
    for rows in ROLLED:
        assert {len(run["successes"]) for runs in rows.values() for run in runs} == {benchmark.EPISODES}
    first = RECORD["first_episode"]
    for seeds in (benchmark.LEARN, benchmark.AGAIN, benchmark.VALIDATE, benchmark.TEST):
        assert not {*range(first, first + benchmark.EPISODES)} & {*seeds}


def test_an_empty_bank_left_every_bit_of_a_policy() -> None:
    assert all(run["off_is_none"] for rows in COUNTS.values() for run in rows["predicted"])


def test_what_is_compared_is_of_one_size() -> None:
    for rows in COUNTS.values():
        [size] = {run["parameters"] for name in ("predicted", "true", "plane", "raw", "shuffled") for run in rows[name]}
        assert all(abs(run["parameters"] / size - 1) < 0.05 for run in rows["lora"])


def test_the_guide_says_that_no_gain_is_shown_unless_one_is() -> None:
    several = [rows for rows in ROLLED if len(rows["predicted"]) > 1]
    shown = any(all(gains(rows, by_success=True).values()) for rows in several)
    assert ("No gain is shown" in GUIDE.read_text()) == (not shown)
