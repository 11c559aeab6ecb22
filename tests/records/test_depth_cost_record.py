"""The record of what depth costs is whole."""

from __future__ import annotations

import json

import depth_cost
from cost_records import check

from spaceclip_plugin.head.architectures import DEFAULT_ARCHITECTURE


def test_is_whole() -> None:
    record = json.loads(depth_cost.RECORD.read_text())
    check(record)
    assert record["new_head"] == DEFAULT_ARCHITECTURE
    assert [run["threads"] for run in record["runs"]] == [1, 2]
    for run in record["runs"]:
        assert not run["left_out"]
        assert all(target["measured"] is not None for target in run["targets"])
