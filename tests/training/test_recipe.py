"""The published schedule, and bounds on every field."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.recipe import Recipe


def test_the_published_schedule() -> None:
    recipe = Recipe()
    rates = [recipe.learning_rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4 / 50)
    assert rates[49] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-4)
    assert rates[525] == pytest.approx((1e-4 + 1e-6) / 2, rel=1e-3)
    assert rates[-1] == pytest.approx(1e-6, rel=0.01)
    assert all(a <= b for a, b in pairwise(rates[:50]))
    assert all(a >= b for a, b in pairwise(rates[50:]))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_a_schedule(steps: int) -> None:
    assert all(0 < Recipe().learning_rate_at(step, steps) <= 1e-4 for step in range(steps))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe) if field.name != "mirror"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "x", None])
def test_impossible_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field.replace("_", ".")):
        Recipe(**{field: value})
