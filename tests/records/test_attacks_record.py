"""The record of attacks keeps the promises."""

from __future__ import annotations

from typing import Any

import attacks
import pytest

from spaceclip_plugin._files import read_json_object


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    record: dict[str, Any] = read_json_object(attacks.RECORD)
    assert record["command"] == "python benchmarks/attacks.py"
    return dict(record["found"])


def test_nothing_got_through(found: dict[str, Any]) -> None:
    for name in attacks.TITLES:
        tally = found[name]
        assert (tally["loaded_wrong"], tally["refused_otherwise"], tally["executed"]) == (0, 0, 0)
        assert tally["refused"] + tally["loaded_unharmed"] == tally["attacks"]
    assert found["weights"]["refused"] >= 16_000
    assert found["configs"]["refused"] >= 2_000
    assert found["repositories"]["refused"] >= 100
    assert found["extra_peak_bytes"] < 50e6
