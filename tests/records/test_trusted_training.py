"""The record of what training can be trusted with keeps the promises."""

from __future__ import annotations

import pytest
import trusted_training

from spaceclip_plugin._files import read_json_object


@pytest.fixture(scope="module")
def record() -> dict:
    return read_json_object(trusted_training.RECORD)


def test_no_kill_left_an_unreadable_checkpoint(record: dict) -> None:
    found = record["kills"]["found"]
    assert (found["kills"], found["unreadable"]) == (200, 0)
    assert found["temporaries_left"] > 20  # kills that came too early or too late prove nothing


def test_memory_is_flat(record: dict) -> None:
    found = record["memory"]["found"]
    assert found["images"] == 10_000
    assert found["growth_bytes"] < 0.05 * found["peak_bytes_at_1000"]
    assert found["cache_bytes"] > 20 * found["growth_bytes"]


@pytest.mark.parametrize("features", ["fp16", "int8"])
def test_a_head_sees_its_host_as_it_saw_the_cache(record: dict, features: str) -> None:
    found = record["cached"]["found"][features]
    assert found["abs_rel"] == pytest.approx(found["abs_rel_live_host"], abs=2e-3)
