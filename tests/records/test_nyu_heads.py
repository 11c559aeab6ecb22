"""The record of accuracy is what its own runs say."""

from __future__ import annotations

import json
import shlex
import statistics
from pathlib import Path
from typing import Any

import nyu_heads as heads
import pytest

from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(heads.RECORD.read_text())


def test_means_and_spreads_are_those_of_the_runs(record: dict[str, Any]) -> None:
    for name, row in record["rows"].items():
        for forwards in ("one_forward", "two_forwards"):
            for metric, shown in row[forwards].items():
                values = [run[forwards][metric] for run in row["runs"]]
                assert shown["mean"] == pytest.approx(statistics.fmean(values)), name
                assert (shown["low"], shown["high"]) == (min(values), max(values))


def test_every_run_is_whole_and_of_its_own_seed(record: dict[str, Any]) -> None:
    for name, row in record["rows"].items():
        assert len({run["seed"] for run in row["runs"]}) == len(row["runs"])
        for run in row["runs"]:
            kept = run["run"]
            assert kept["finished"], name
            assert kept["recipe"]["seed"] == run["seed"]
            assert kept["host_digest_before"] == kept["host_digest_after"]
            assert len(run["epochs"]) == kept["recipe"]["epochs"]
            assert kept["validation"]["abs_rel"] == min(epoch["val_abs_rel"] for epoch in run["epochs"])
            # Cached features are float16: a little less than what the live tower gives.
            assert run["one_forward"]["abs_rel"] == pytest.approx(kept["validation"]["abs_rel"], rel=5e-3)


def test_the_commands_still_mean_what_was_run(record: dict[str, Any]) -> None:
    for row in record["rows"].values():
        for run in row["runs"]:
            program, command, *words = shlex.split(run["command"])
            assert (program, command) == ("spaceclip", "train")
            heads.check(Path("run"), words, run["run"])


def test_the_default_head_is_better_than_the_published_one(record: dict[str, Any]) -> None:
    rows = record["rows"]
    assert len(rows[DEFAULT_ARCHITECTURE]["runs"]) >= 3
    published = min(
        row["one_forward"]["abs_rel"]["mean"] for name, row in rows.items() if name.startswith("space-clip")
    )
    assert rows[DEFAULT_ARCHITECTURE]["one_forward"]["abs_rel"]["mean"] <= 0.93 * published


def test_the_page_tells_of_other_image_sizes(record: dict[str, Any]) -> None:
    page = " ".join((ROOT / "benchmarks" / "README.md").read_text().split())
    [seed] = {one["seed"] for one in record["other_sizes"]}
    [run] = [run for run in record["rows"][DEFAULT_ARCHITECTURE]["runs"] if run["seed"] == seed]
    own, wide, large = (scores["one_forward"]["abs_rel"] for scores in (run, *record["other_sizes"]))
    assert [one["image_size"] for one in record["other_sizes"]] == ["192,256", "240,320"]
    assert f"of seed {seed} scores AbsRel {own:.3f} on them, {wide:.3f} at 192x256 and {large:.3f} at 240x320" in page


def test_its_intervals_hold_within_three_points(record: dict[str, Any]) -> None:
    found = [run["run"]["uncertainty"]["cross_checked"] for run in record["rows"][DEFAULT_ARCHITECTURE]["runs"]]
    for level in ("0.5", "0.9"):
        assert statistics.fmean(one[level] for one in found) == pytest.approx(float(level), abs=0.03)
