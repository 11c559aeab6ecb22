"""Taking turns is fair, and a ratio of times comes with an interval around it."""

from __future__ import annotations

import itertools

import pytest
import torch
from turns import Case, over, timed, turn_order


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_case_follows_every_other(count: int) -> None:
    orders = [turn_order(count, turn) for turn in range(2 * count)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert len({(place, case) for order in orders for place, case in enumerate(order)}) == count**2
    followed = [pair for order in orders for pair in itertools.pairwise(order)]
    assert all(followed.count(pair) == 2 for pair in set(followed))
    assert len(set(followed)) == count * (count - 1)


def test_all_cases_of_a_round_see_the_same_image() -> None:
    seen: list[tuple[str, int]] = []

    def case(name: str) -> Case:
        return Case(name, lambda which: seen.append((name, which)))

    times = timed([case("a"), case("b")], 6, torch.device("cpu"))
    assert {name: len(found) for name, found in times.items()} == {"a": 6, "b": 6}
    rounds = [dict(seen[start : start + 2]) for start in range(0, 12, 2)]
    assert all(one["a"] == one["b"] for one in rounds)
    assert {one["a"] for one in rounds} == {0, 1}


def test_ratios_are_of_medians_with_an_interval_around_them() -> None:
    found = over([2.0, 2.0, 9.0], [10.0, 10.0, 10.0])
    assert found["ratio"] == 0.2
    assert found["interval"][0] <= 0.2 <= found["interval"][1] <= 0.9
    assert found["of"] == [3, 3]


def test_intervals_narrow_with_more_samples() -> None:
    noise = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    few, many = over(noise[:8], [1.0] * 8), over(noise, [1.0] * 200)
    assert many["interval"][1] - many["interval"][0] < few["interval"][1] - few["interval"][0]
