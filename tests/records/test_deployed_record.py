"""What was measured of heads on their policies keeps the promise: figures are worth on the robot what was reported."""

from __future__ import annotations

import json

import deployed

RECORD = json.loads(deployed.RECORD.read_text())


def test_a_head_that_learnt_as_its_policy_prepares_gives_what_was_reported() -> None:
    squashed, own = RECORD["accuracy"]["rows"]
    assert (squashed["trained"], own["trained"]) == deployed.PREPARATIONS
    assert squashed["images"] == own["images"] == 100
    assert abs(own["deployed"]["abs_rel"] / own["reported"]["abs_rel"] - 1) < 0.005
    assert squashed["deployed"]["abs_rel"] / squashed["reported"]["abs_rel"] > 1.03


def test_what_was_extrapolated_is_not_recorded() -> None:
    for run in RECORD.get("first-head", {}).get("runs", []):
        assert run["frames"] <= deployed.WANTED_FRAMES
        assert set(run["seconds"]) == {"teaching", "caching", "training"}
