"""The record of sharpness is what its own runs say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import metaworld_heads as heads
import pytest
from nyu_heads import check


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(heads.RECORD.read_text())


def test_means_and_spreads_are_those_of_the_runs(record: dict[str, Any]) -> None:
    for row in record["rows"].values():
        assert {look: row[look] for look in heads.LOOKS} == heads.looks(row["runs"])


def test_every_run_is_whole_and_left_the_host_alone(record: dict[str, Any]) -> None:
    for row in record["rows"].values():
        for run in row["runs"]:
            kept = run["run"]
            assert kept["finished"]
            assert kept["host_digest_before"] == kept["host_digest_after"]
            assert kept["validation"]["abs_rel"] == min(epoch["val_abs_rel"] for epoch in run["epochs"])


def test_the_commands_still_mean_what_was_run(record: dict[str, Any]) -> None:
    for row in record["rows"].values():
        for run in row["runs"]:
            program, command, *words = shlex.split(run["command"])
            assert (program, command) == ("spaceclip", "train")
            check(Path("run"), words, run["run"])


def test_the_fine_preset_is_sharper_where_edges_are_exact(record: dict[str, Any]) -> None:
    default, fine = (record["rows"][name] for name in (heads.NEW, "fine"))
    for look in heads.LOOKS:
        assert fine[look]["boundary_f1"]["mean"] > 1.4 * default[look]["boundary_f1"]["mean"]
        assert fine[look]["abs_rel"]["mean"] < 0.95 * default[look]["abs_rel"]["mean"]
