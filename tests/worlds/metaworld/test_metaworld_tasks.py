"""Which tasks there are, and that those of the test split are new to a head."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from spaceclip_worlds.metaworld.tasks import SPLITS, TEST_TASKS, TRAINING_TASKS


def test_ten_of_fifty_tasks_are_held_out() -> None:
    assert (len(TRAINING_TASKS), len(TEST_TASKS)) == (40, 10)
    assert len({*TRAINING_TASKS, *TEST_TASKS}) == 50
    assert SPLITS["validation"] == SPLITS["train"] == TRAINING_TASKS
    assert SPLITS["test"] == TEST_TASKS


@pytest.fixture(scope="module")
def tasks_of_metaworld() -> dict[str, Any]:
    pytest.importorskip("metaworld.env_dict", reason="Meta-World is not installed")
    found: dict[str, Any] = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    return {name.removesuffix("-goal-observable"): make for name, make in found.items()}


@pytest.mark.slow
def test_the_tasks_are_those_of_metaworld(tasks_of_metaworld: dict[str, Any]) -> None:
    assert set(tasks_of_metaworld) == {*TRAINING_TASKS, *TEST_TASKS}


@pytest.mark.slow
def test_what_stands_on_the_tables_of_held_out_tasks_stands_on_no_other(tasks_of_metaworld: dict[str, Any]) -> None:
    meshes = {}
    for name, make in tasks_of_metaworld.items():
        model = make(seed=0).model
        meshes[name] = {model.mesh(index).name for index in range(model.nmesh)}
    everywhere = set.intersection(*meshes.values())
    trained_on = set.union(*(meshes[name] for name in TRAINING_TASKS)) - everywhere
    for name in TEST_TASKS:
        assert meshes[name] - everywhere
        assert meshes[name] & trained_on == set()
