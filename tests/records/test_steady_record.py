"""The record of steady depth is whole, and keeps the promises that it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import steady as benchmark
from steady_clips import HALVES, HEADS_OF, HOLOLENS
from steady_ways import ALONE, BAD, WAYS, WITH, WITHOUT

from spaceclip_plugin._files import read_json_object


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return read_json_object(benchmark.RECORD)


def test_every_clip_was_seen_at_both_strides_in_every_way(record: dict[str, Any]) -> None:
    found = {(entry["clip"], entry["stride"]) for entry in record["clips"]}
    assert found == {(clip, stride) for clip in (*HEADS_OF, *HALVES) for stride in benchmark.STRIDES}
    assert all(list(entry["ways"]) == list(WAYS) for entry in record["clips"])
    seeds = {entry["seed"] for entry in record["clips"] if entry["clip"] == HOLOLENS}
    assert seeds == {0, 1, 2}
    once = [(*benchmark.key(entry), entry["stride"]) for entry in record["clips"]]
    assert len(once) == len(set(once))


def test_wrong_places_of_every_kind_were_told_on_every_clip(record: dict[str, Any]) -> None:
    assert {entry["clip"] for entry in record["bad_places"]} == set(HEADS_OF)
    assert all(list(entry["kinds"]) == list(BAD) for entry in record["bad_places"])


def test_steady_depth_of_the_headset_is_steadier_and_better(record: dict[str, Any]) -> None:
    for entry in record["clips"]:
        if entry["clip"] == HOLOLENS:
            for way in (WITH, WITHOUT):
                assert entry["ways"][way]["flicker"] < 0.5 * entry["ways"][ALONE]["flicker"]
                assert entry["ways"][way]["abs_rel"] < entry["ways"][ALONE]["abs_rel"]


def test_both_ways_were_measured_after_every_cut_and_move(record: dict[str, Any]) -> None:
    assert {entry["cut"] for entry in record["cuts"]} == set(benchmark.CUTS)
    for name in ("cuts", "moved"):
        assert {entry["places"] for entry in record[name]} == {True, False}
        assert all(len(entry["after"]) == benchmark.AFTER for entry in record[name])
