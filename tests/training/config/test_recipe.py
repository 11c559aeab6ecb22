"""The recommended and the published recipe, their schedule, and bounds on every field."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe


def test_the_published_settings() -> None:
    assert dataclasses.asdict(RECIPES["published"]) == {
        "epochs": 20,
        "batch_size": 32,
        "accumulation": 1,
        "learning_rate": 1e-4,
        "final_learning_rate": 1e-6,
        "warmup": 0.05,
        "weight_decay": 0.01,
        "gradient_norm": 1.0,
        "ema_decay": 0.996,
        "augmentation": "published-nyu",
        "views": 2,
        "cache": "fp16",
        "target_side": None,
        "loss": "published",
        "precision": "fp32",
        "tower_precision": "own",
        "seed": 0,
    }


def test_recipes_by_name() -> None:
    assert RECIPES["recommended"] == Recipe()
    assert list(RECIPES) == ["recommended", "published", "published-kitti"]
    assert (Recipe().loss, Recipe().augmentation, Recipe().cache) == ("relative", "recommended", "fp16")


def test_kitti_differs_from_nyu_in_batch_and_crop_alone() -> None:
    kitti = dataclasses.replace(RECIPES["published"], batch_size=64, augmentation="published-kitti")
    assert RECIPES["published-kitti"] == kitti


def test_a_step_has_no_more_micro_batches_than_images() -> None:
    assert Recipe(batch_size=3, accumulation=3).accumulation == 3
    with pytest.raises(ConfigError, match=r"accumulation must be at most batch_size.* 4 micro-batches of 3 images"):
        Recipe(batch_size=3, accumulation=4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cache", "fp61", r"cache must be one of fp16, int8, none, got 'fp61' \(did you mean 'fp16'\?\)"),
        ("augmentation", "recomended", r"did you mean 'recommended'"),
        ("loss", ["relative"], r"loss must be one of .* got \['relative'\]"),
        ("precision", {}, r"precision must be one of fp32, bf16, got {}"),
    ],
)
def test_names_that_are_none(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**{field: value})


def test_a_mapping_of_settings() -> None:
    assert Recipe.read("x", {"epochs": 3, "warmup": 0}) == Recipe(epochs=3, warmup=0.0)
    with pytest.raises(ConfigError, match=r"^x: unknown key 'epoch' \(did you mean 'epochs'\?\)"):
        Recipe.read("x", {"epoch": 3})


def test_the_published_schedule() -> None:
    recipe = RECIPES["published"]
    rates = [recipe.learning_rate_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4 / 50)
    assert rates[49] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-4)
    assert rates[525] == pytest.approx((1e-4 + 1e-6) / 2, rel=1e-3)
    assert rates[-1] == pytest.approx(1e-6, rel=0.01)
    assert all(a <= b for a, b in pairwise(rates[:50]))
    assert all(a >= b for a, b in pairwise(rates[50:]))


@pytest.mark.parametrize("recipe", [Recipe(), RECIPES["published"]])
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


@pytest.mark.parametrize(
    ("field", "value"),
    [("views", 0), ("views", 2.0), ("target_side", 0), ("views", True), ("accumulation", 0), ("accumulation", 1.0)],
)
def test_counts_are_whole_and_positive(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Recipe(**{field: value})
