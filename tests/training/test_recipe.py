"""The recommended and the published recipe, their schedule, and bounds on every field."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.recipe import RECIPES, Recipe


def test_the_published_settings() -> None:
    assert dataclasses.asdict(Recipe.published()) == {
        "epochs": 20,
        "batch_size": 32,
        "learning_rate": 1e-4,
        "final_learning_rate": 1e-6,
        "warmup": 0.05,
        "weight_decay": 0.01,
        "gradient_norm": 1.0,
        "ema_decay": 0.996,
        "views": 2,
        "target_side": None,
        "loss": "published",
        "precision": "fp32",
        "seed": 0,
    }


def test_recipes_by_name() -> None:
    assert RECIPES["recommended"]() == Recipe()
    assert RECIPES["published"]() == Recipe.published()
    assert Recipe().loss == "relative"


def test_any_setting_of_the_published_recipe_may_be_another() -> None:
    changed = Recipe.published(epochs=3, views=1, loss="relative")
    assert changed == dataclasses.replace(Recipe.published(), epochs=3, views=1, loss="relative")
    with pytest.raises(ConfigError, match=r"unknown key 'epoch' \(did you mean 'epochs'\?\)"):
        Recipe.published(epoch=3)


def test_the_published_schedule() -> None:
    recipe = Recipe.published()
    rates = [recipe.learning_rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4 / 50)
    assert rates[49] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-4)
    assert rates[525] == pytest.approx((1e-4 + 1e-6) / 2, rel=1e-3)
    assert rates[-1] == pytest.approx(1e-6, rel=0.01)
    assert all(a <= b for a, b in pairwise(rates[:50]))
    assert all(a >= b for a, b in pairwise(rates[50:]))


@pytest.mark.parametrize("recipe", [Recipe(), Recipe.published()])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_a_schedule(recipe: Recipe, steps: int) -> None:
    assert all(0 < recipe.learning_rate_at(step, steps) <= recipe.learning_rate for step in range(steps))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "x", None])
def test_impossible_values_are_refused_by_name(field: str, value: object) -> None:
    if (field, value) == ("target_side", None):
        return
    with pytest.raises(ConfigError, match=field.replace("_", ".")):
        Recipe(**{field: value})


@pytest.mark.parametrize(("field", "value"), [("views", 0), ("views", 2.0), ("target_side", 0), ("views", True)])
def test_counts_are_whole_and_positive(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Recipe(**{field: value})
