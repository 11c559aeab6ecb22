"""Several sources as one, with a say in how often each is seen."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spaceclip_plugin.data.sample import DepthSample, DepthSource, fingerprint, has_exact_depth
from spaceclip_plugin.errors import ConfigError, DataError


@dataclass(frozen=True)
class Share:
    """The place of one part in a mixture."""

    count: int  # how many samples it has, at least 1
    weight: float  # its share of the samples that training sees, in (0, 1]


class Mixture:
    """A `DepthSource` that is its parts, one after the other.

    Weights change nothing about its samples: they are for whoever draws from it, see `shares`.

    Attributes:
        parts: the sources, in order.
        shares: one of each part, in order; their weights sum to 1.

    Example:
        >>> import numpy as np
        >>> from spaceclip_plugin.data import DepthSample, Mixture
        >>> wall = DepthSample(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 1.5, np.float32), "a wall")
        >>> mixture = Mixture([[wall], [wall, wall]], weights=[3, 1])
        >>> len(mixture), [share.weight for share in mixture.shares]
        (3, [0.75, 0.25])
    """

    parts: tuple[DepthSource, ...]
    shares: tuple[Share, ...]

    def __init__(self, parts: Sequence[DepthSource], *, weights: Sequence[float] | None = None) -> None:
        """Puts the parts together; none of their samples is read.

        Args:
            parts: at least one.
            weights: one of each part, in any unit; None weighs the parts by their size.

        Raises:
            ConfigError: no part, another number of weights than of parts, or one that is not finite and positive.
            DataError: a part without samples.
        """
        counts = [len(part) for part in parts]
        if not counts:
            raise ConfigError("a mixture needs at least one source, got none")
        if 0 in counts:
            raise DataError(f"part {counts.index(0) + 1} of {len(counts)} of a mixture has no samples; leave it out")
        weighed = list(counts if weights is None else weights)
        if len(weighed) != len(counts):
            raise ConfigError(f"a mixture of {len(counts)} sources needs as many weights, got {len(weighed)}")
        if not all(math.isfinite(weight) and weight > 0 for weight in weighed):
            raise ConfigError(f"weights of a mixture must be finite and positive, got {weighed}; leave out what is 0")
        largest = max(weighed)  # keeps the sum of huge weights finite
        total = math.fsum(weight / largest for weight in weighed)
        normalised = [weight / largest / total for weight in weighed]
        if 0.0 in normalised:
            raise ConfigError(f"weights of a mixture are too far apart, got {weighed}; leave out what weighs nothing")
        self.parts = tuple(parts)
        self.shares = tuple(Share(count, weight) for count, weight in zip(counts, normalised, strict=True))
        self._starts = tuple(itertools.accumulate(counts, initial=0))

    @property
    def exact_depth(self) -> bool:
        """Whether the depth of every part is exact; see `DepthSource`."""
        return all(has_exact_depth(part) for part in self.parts)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> DepthSample:
        """Sample `index` of the parts laid end to end, with the name it has there.

        Raises:
            IndexError: not in 0 … len - 1.
            DataError: the part cannot read it.
        """
        part, place = self._located(index)
        return part[place]

    def fingerprint(self, index: int) -> str:
        """That of the part's sample, so that a source has the same fingerprints alone and in a mixture."""
        part, place = self._located(index)
        return fingerprint(part, place)

    def _located(self, index: int) -> tuple[DepthSource, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a mixture of {len(self)}; samples are counted from 0")
        number = bisect.bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]


def shares_of(source: DepthSource) -> tuple[Share, ...]:
    """The shares of a mixture; any other source is a single one."""
    return source.shares if isinstance(source, Mixture) else (Share(len(source), 1.0),)


def parts_of(sources: Sequence[DepthSource]) -> Iterator[DepthSource]:
    """The sources themselves, or all that mixtures are made of."""
    for source in sources:
        if isinstance(source, Mixture):
            yield from parts_of(source.parts)
        else:
            yield source
