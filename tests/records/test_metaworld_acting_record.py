"""The record of acting from depth is whole, and its intervals are those of its counts."""

from __future__ import annotations

import math
from typing import Any

import metaworld_acting as benchmark
import numpy as np
import pytest
from closed_loop import wilson

from spaceclip_plugin._files import read_json_object
from spaceclip_worlds.metaworld.acting import DEPTH_TASKS
from spaceclip_worlds.metaworld.tasks import TEST_TASKS, TRAINING_TASKS


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return read_json_object(benchmark.RECORD)


def test_every_task_was_done_with_every_source_from_all_seeds(record: dict[str, Any]) -> None:
    acting = record["acting"]
    assert (acting["seeds"], acting["first_seed"]) == (benchmark.SEEDS, benchmark.FIRST_SEED)
    assert set(acting["tasks"]) == set(DEPTH_TASKS)
    for name, task in acting["tasks"].items():
        assert task["trained_on"] == (name in TRAINING_TASKS)
        assert set(task["rows"]) == set(benchmark.ROWS)
        for row in task["rows"].values():
            assert (row["low"], row["high"]) == pytest.approx(wilson(row["successes"], benchmark.SEEDS))


def test_a_task_shows_something(record: dict[str, Any]) -> None:
    """True depth does on most seeds what the state does, and an empty table does it hardly ever."""
    for task in record["acting"]["tasks"].values():
        rows = {name: row["successes"] for name, row in task["rows"].items()}
        assert rows["true"] >= 0.8 * rows["state"] >= 0.6 * benchmark.SEEDS
        assert rows["none"] <= 0.1 * benchmark.SEEDS


def test_all_kinds_of_unseen_pictures_were_scored(record: dict[str, Any]) -> None:
    pictures = record["unseen"]["pictures"]
    assert set(pictures) == set(benchmark.UNSEEN)
    assert pictures["standard"]["pictures"] == pictures["varied"]["pictures"] == 120
    assert set(pictures["standard"]["abs_rel_of_tasks"]) == set(TEST_TASKS)
    assert np.mean([*pictures["standard"]["abs_rel_of_tasks"].values()]) == pytest.approx(
        pictures["standard"]["abs_rel"]
    )
    assert all(row["pictures"] == 40 for name, row in pictures.items() if name not in ("standard", "varied"))


@pytest.mark.parametrize(
    ("successes", "low", "high"), [(0, 0.0, 0.0713), (25, 0.3664, 0.6336), (47, 0.8378, 0.9794), (50, 0.9287, 1.0)]
)
def test_intervals_are_wilsons(successes: int, low: float, high: float) -> None:
    assert wilson(successes, 50) == pytest.approx((low, high), abs=1e-4)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)


def test_a_camera_elsewhere_looks_at_the_same_middle_from_the_same_height() -> None:
    pose = np.eye(4)
    pose[:3, :3] = [[1.0, 0.0, 0.0], [0.0, -0.6, 0.8], [0.0, -0.8, -0.6]]
    pose[:3, 3] = (0.1, -0.4, 0.6)
    carried = benchmark.turned(pose, 100.0)
    assert np.linalg.norm(benchmark.turned(pose, 20.0)[:3, 3] - pose[:3, 3]) == pytest.approx(
        1.6 * math.sin(math.radians(10))
    )
    np.testing.assert_allclose(carried[:3, :3] @ carried[:3, :3].T, np.eye(3), atol=1e-12)
    assert carried[2, 3] == pytest.approx(0.6)
    for one in (pose, carried):
        middle = one[:3, 3] + one[:3, 2] * one[2, 3] / -one[2, 2]
        np.testing.assert_allclose(middle, [0.1, 0.4, 0.0], atol=1e-12)
    assert np.linalg.norm(carried[:3, 3] - pose[:3, 3]) > 1.0
