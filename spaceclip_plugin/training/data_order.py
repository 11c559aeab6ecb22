"""Which images a step sees, in which versions, and on which process: a function of seed, epoch and step alone.
So a resumed run, and one on more processes, meets the same images as an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.sources.mixture import Share


@dataclass(frozen=True)
class MicroBatch:
    """What one process decodes before it joins the others."""

    indices: tuple[int, ...]  # images of this process; one that counts for nothing where it has none
    versions: tuple[int, ...]  # which one of each
    sizes: tuple[int, ...]  # how many images of every process count
    weight: float  # their share of the step's images
    last: bool  # whether the step ends with it


@dataclass(frozen=True)
class DataOrder:
    """The order of a run over images that lie share after share."""

    shares: Sequence[Share]  # weights sum to one
    batch_size: int  # images per step, over all processes and micro-batches
    accumulation: int  # micro-batches per step
    versions: int  # of every image
    seed: int

    @property
    def images(self) -> int:
        """How many there are, and how many an epoch has; its last step may be smaller."""
        return sum(share.count for share in self.shares)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that take every image's place once."""
        return -(-self.images // self.batch_size)

    @property
    def smallest_micro_batch(self) -> int:
        """Images, over all processes, of the smallest micro-batch of an epoch."""
        last = self.images % self.batch_size or min(self.batch_size, self.images)
        return max(1, last // self.accumulation)

    def epoch(self, number: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """(indices, versions) of every step of epoch `number` (from 0), over all processes.
        Each part adds images by its weight and goes through all of its own, from epoch to epoch, before it repeats."""
        generator = np.random.default_rng([self.seed, number])
        chosen, first = [], 0
        for part, (share, count) in enumerate(zip(self.shares, self._counts(), strict=True)):
            chosen.append(first + self._passed(part, share.count, number * count, count))
            first += share.count
        order = generator.permutation(np.concatenate(chosen))
        versions = generator.integers(0, self.versions, len(order))
        starts = range(0, len(order), self.batch_size)
        return [(order[i : i + self.batch_size], versions[i : i + self.batch_size]) for i in starts]

    def micro_batches(self, number: int, *, first: int, rank: int, processes: int) -> Iterator[MicroBatch]:
        """What process `rank` of `processes` does in epoch `number`, from its step `first` on."""
        for indices, versions in self.epoch(number)[first:]:
            parts = [part for part in np.array_split(np.arange(len(indices)), self.accumulation) if len(part)]
            for i, part in enumerate(parts):
                split = np.array_split(part, processes)
                mine = split[rank] if len(split[rank]) else part[:1]
                yield MicroBatch(
                    tuple(indices[mine].tolist()),
                    tuple(versions[mine].tolist()),
                    tuple(len(one) for one in split),
                    len(part) / len(indices),
                    i == len(parts) - 1,
                )

    def _counts(self) -> list[int]:
        """Images of each part in an epoch: proportional, rounded so that they sum up (largest remainders)."""
        exact = [share.weight * self.images for share in self.shares]
        counts = [int(number + 1e-9) for number in exact]
        by_remainder = sorted(range(len(exact)), key=lambda part: counts[part] - exact[part])
        for part in by_remainder[: self.images - sum(counts)]:
            counts[part] += 1
        return counts

    def _passed(self, part: int, size: int, start: int, count: int) -> npt.NDArray[np.int64]:
        """Places start … start + count of an endless row of shuffles of `size` images."""
        rounds = range(start // size, -(-(start + count) // size))
        shuffles = [np.random.default_rng([self.seed, part, one, size]).permutation(size) for one in rounds]
        offset = start - rounds.start * size
        joined = np.concatenate(shuffles) if shuffles else np.zeros(0, np.int64)
        return joined[offset : offset + count]
