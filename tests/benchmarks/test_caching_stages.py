"""What a stage of caching takes is its own: what it calls of another counts there alone."""

from __future__ import annotations

import time
from types import SimpleNamespace

import caching
import pytest


def test_times_are_of_the_innermost_stage_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(caching, "time", SimpleNamespace(process_time=lambda: now, perf_counter=time.perf_counter))
    stages = caching.Stages()
    inner = stages.timed("inner", lambda: work(2.0))

    def outside() -> None:
        work(1.0)
        inner()
        work(4.0)

    outer = stages.timed("outer", outside)
    work(8.0)
    outer()
    work(16.0)
    with stages.watching():
        work(32.0)
    assert stages.seconds == {"outer": 5.0, "inner": 2.0, caching.REST: 8.0 + 32.0}


def test_what_was_watched_is_as_it_was() -> None:
    places = [place for places in caching.STAGES.values() for place in places]
    before = [getattr(owner, word) for owner, word in places]
    with caching.Stages().watching():
        assert not any(getattr(owner, word) is call for (owner, word), call in zip(places, before, strict=True))
    assert [getattr(owner, word) for owner, word in places] == before
