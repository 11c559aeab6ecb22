"""The record of what caching costs keeps its promises."""

from __future__ import annotations

import caching
import pytest

from spaceclip_plugin._files import read_json_object


@pytest.fixture(scope="module")
def record() -> dict:
    return read_json_object(caching.RECORD)


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_tower_in_bfloat16_caches_half_as_fast_again_as_all_did_before(record: dict, count: str) -> None:
    def fastest(part: str, precision: str) -> float:
        ways = record[part][count]["ways"].items()
        return max(way["images_per_second"] for name, way in ways if name.startswith(precision))

    assert fastest("time", "bf16") >= 1.5 * fastest("before", "own")
    assert fastest("time", "own") > fastest("before", "own")


@pytest.mark.parametrize("count", ["1", "2"])
def test_shares_are_of_a_whole(record: dict, count: str) -> None:
    for shares in record["time"][count]["shares"].values():
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.get) == "the tower"


def test_heads_on_either_kind_of_features_are_as_good(record: dict) -> None:
    own, faster = (record["heads"][kind] for kind in ("own", "bf16"))
    assert {**own["recipe"], "tower_precision": "bf16"} == faster["recipe"]
    assert faster["abs_rel"] == pytest.approx(own["abs_rel"], abs=0.003)
