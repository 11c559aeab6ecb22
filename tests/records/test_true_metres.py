"""The record of metres in other cameras is whole, of finished heads, and keeps the promises."""

from __future__ import annotations

from typing import Any

import pytest
import true_metres as benchmark

from spaceclip_plugin._files import read_json_object

IMAGES = {
    benchmark.HOME: 100,
    "NYU, 80% of it": 100,
    "NYU, 60% of it": 100,
    "HoloLens": 45,
    "bin_camera_0": 2,
    "office_render": 5,
    "overhead": 5,
    "wrist_shelf": 15,
    "wrist_tote": 15,
    "KITTI": 3,
}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return read_json_object(benchmark.RECORD)


def test_every_set_was_seen_by_both_heads(record: dict[str, Any]) -> None:
    assert {name: row["images"] for name, row in record["sets"].items()} == IMAGES
    assert all(row["before"] is not None for row in record["sets"].values())
    assert [head["finished"] for head in (record["head"], record["head_before"])] == [True, True]
    assert record["head"]["recipe"] == record["head_before"]["recipe"]
    assert record["head_before"]["focal_length"] is None


def test_every_target_is_met(record: dict[str, Any]) -> None:
    assert [what for what, *_, met in benchmark.targets(record["sets"]) if not met] == []


def test_a_longer_lens_is_read_better_once_it_is_known(record: dict[str, Any]) -> None:
    for name in ("NYU, 80% of it", "NYU, 60% of it", "HoloLens"):
        assert record["sets"][name]["abs_rel_in_camera"] < record["sets"][name]["abs_rel_as_read"]
