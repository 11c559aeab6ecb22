"""The order of images is a function of seed, epoch and step, and of nothing else."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceclip_plugin.data.sources.mixture import Share
from spaceclip_plugin.training.data_order import DataOrder

ONE = (Share(23, 1.0),)


def order(shares: tuple[Share, ...] = ONE, **changes: int) -> DataOrder:
    return DataOrder(shares, **{"batch_size": 8, "accumulation": 1, "versions": 5, "seed": 3, **changes})


def images(of: DataOrder, epoch: int) -> list[int]:
    return [int(i) for indices, _ in of.epoch(epoch) for i in indices]


def test_an_epoch_is_every_image_once_in_another_order() -> None:
    epochs = [images(order(), epoch) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert [len(indices) for indices, _ in order().epoch(0)] == [8, 8, 7]
    assert order().steps_per_epoch == 3


def test_it_depends_on_seed_and_epoch_alone() -> None:
    assert images(order(), 2) == images(order(), 2)
    assert images(order(), 2) == images(order(batch_size=4), 2)
    assert images(order(), 2) != images(order(seed=4), 2)


def test_every_version_is_drawn_about_as_often() -> None:
    versions = [int(v) for epoch in range(200) for _, drawn in order().epoch(epoch) for v in drawn]
    counts = np.bincount(versions, minlength=5)
    assert counts.min() > 0.9 * len(versions) / 5
    assert len(counts) == 5
    assert all(int(v) == 0 for _, drawn in order(versions=1).epoch(0) for v in drawn)


def test_parts_are_seen_by_their_weight_and_every_image_of_one_before_it_is_seen_again() -> None:
    of = order((Share(30, 0.25), Share(10, 0.75)))
    for epoch in range(3):
        first = [i for i in images(of, epoch) if i < 30]
        assert len(first) == 10
        assert len(images(of, epoch)) == 40
        seen = collections.Counter(i for i in images(of, epoch) if i >= 30)
        assert sorted(seen) == list(range(30, 40))
        assert set(seen.values()) == {3}
    three = [i for epoch in range(3) for i in images(of, epoch) if i < 30]
    assert sorted(three) == list(range(30))


def test_parts_that_weigh_as_they_count_are_seen_once() -> None:
    of = order((Share(7, 7 / 23), Share(16, 16 / 23)))
    assert sorted(images(of, 4)) == list(range(23))


@given(
    st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3)
)  # fmt: skip
def test_processes_and_micro_batches_share_every_step_out(
    count: int, batch_size: int, accumulation: int, processes: int, epoch: int
) -> None:
    of = order((Share(count, 1.0),), batch_size=batch_size, accumulation=accumulation)
    plans = [
        list(of.micro_batches(epoch, first=0, rank=rank, processes=processes)) for rank in range(processes)
    ]  # fmt: skip
    steps = of.epoch(epoch)
    done, weight, micros = 0, 0.0, 0
    indices: list[int] = []
    versions: list[int] = []
    for together in zip(*plans, strict=True):
        assert len({(micro.sizes, micro.weight, micro.last) for micro in together}) == 1
        for rank, micro in enumerate(together):
            size = micro.sizes[rank]
            # A process without images decodes one that does not count, so that nobody waits for it.
            assert len(micro.indices) == len(micro.versions) == max(1, size)
            indices += micro.indices[:size]
            versions += micro.versions[:size]
        weight += together[0].weight
        micros += 1
        if together[0].last:
            assert indices == steps[done][0].tolist()
            assert versions == steps[done][1].tolist()
            assert weight == pytest.approx(1)
            assert micros == min(accumulation, len(indices))
            indices, versions, weight, micros = [], [], 0.0, 0
            done += 1
    assert done == len(steps) == of.steps_per_epoch


def test_a_resumed_epoch_is_the_rest_of_it() -> None:
    whole = list(order(accumulation=2).micro_batches(1, first=0, rank=0, processes=1))
    assert list(order(accumulation=2).micro_batches(1, first=2, rank=0, processes=1)) == whole[4:]
