from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from spaceclip_plugin.data.sample import DepthSample, DepthSource, fingerprint
from spaceclip_plugin.data.sources.mixture import Mixture, Share, shares_of
from spaceclip_plugin.errors import ConfigError, DataError


class Numbered:
    """Samples whose pixels and names tell where they come from."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> DepthSample:
        if not 0 <= index < self.count:
            raise IndexError(f"{index} of part {self.first}")
        value = self.first + index
        image = np.full((2, 3, 3), value, dtype=np.uint8)
        return DepthSample(image, np.full((2, 3), value, dtype=np.float32), f"n{value}")


class Printed(Numbered):
    """Knows its fingerprints."""

    def fingerprint(self, index: int) -> str:
        return f"print {self.first + index}"


def test_parts_lie_end_to_end_under_their_own_names() -> None:
    source: DepthSource = Mixture([Numbered(10, 3), Numbered(20, 1), Numbered(30, 2)])
    assert len(source) == 6
    assert [source[i].name for i in range(6)] == ["n10", "n11", "n12", "n20", "n30", "n31"]
    assert [int(source[i].depth_m[0, 0]) for i in range(6)] == [10, 11, 12, 20, 30, 31]


def test_depth_is_exact_where_that_of_all_parts_is() -> None:
    exact, measured = Numbered(0, 1), Numbered(10, 1)
    exact.exact_depth = True  # type: ignore[attr-defined]
    assert Mixture([exact, Mixture([exact])]).exact_depth
    assert not Mixture([exact, measured]).exact_depth
    assert not Mixture([exact, [measured[0]]]).exact_depth


@pytest.mark.parametrize("index", [-1, 6, 100])
def test_there_is_nothing_beyond(index: int) -> None:
    source = Mixture([Printed(10, 3), Printed(20, 3)])
    for read in (source.__getitem__, source.fingerprint):
        with pytest.raises(IndexError, match=f"sample {index} of a mixture of 6"):
            read(index)


def test_parts_weigh_by_size_unless_told_otherwise() -> None:
    parts = [Numbered(0, 3), Numbered(10, 1)]
    assert Mixture(parts).shares == (Share(3, 0.75), Share(1, 0.25))
    assert Mixture(parts, weights=[1, 4]).shares == (Share(3, 0.2), Share(1, 0.8))
    assert Mixture(parts, weights=(0.2, 0.8)).shares == Mixture(parts, weights=(2, 8)).shares
    assert Mixture(parts[:1], weights=[7]).shares == (Share(3, 1.0),)


def test_weights_of_any_size_sum_to_one() -> None:
    parts = [Numbered(0, 1) for _ in range(7)]
    for weights in ([1e308] * 7, [1e-300] * 7, [0.1] * 7, [1, 2, 3, 4, 5, 6, 7.5]):
        shares = Mixture(parts, weights=weights).shares
        assert math.fsum(share.weight for share in shares) == pytest.approx(1.0, abs=1e-15)
        assert shares[6].weight == pytest.approx(weights[6] / max(weights) / sum(w / max(weights) for w in weights))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "a mixture of 2 sources needs as many weights, got 1"),
        ([1.0, 1.0, 1.0], "as many weights, got 3"),
        ([], "as many weights, got 0"),
        ([1.0, 0.0], r"finite and positive, got \[1\.0, 0\.0\]"),
        ([1.0, -1.0], "finite and positive"),
        ([1.0, math.nan], "finite and positive"),
        ([math.inf, 1.0], "finite and positive"),
        ([1e308, 1e-308], "too far apart"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mixture([Numbered(0, 1), Numbered(10, 1)], weights=weights)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one source"):
        Mixture([])
    with pytest.raises(DataError, match="part 2 of 3 of a mixture has no samples"):
        Mixture([Numbered(0, 1), Numbered(10, 0), Numbered(20, 1)])


def test_any_source_has_shares() -> None:
    assert shares_of(Numbered(0, 5)) == (Share(5, 1.0),)
    mixture = Mixture([Numbered(0, 1), Numbered(10, 4)], weights=[1, 1])
    assert shares_of(mixture) == (Share(1, 0.5), Share(4, 0.5))
    assert shares_of(Mixture([mixture, Numbered(20, 5)])) == (Share(5, 0.5), Share(5, 0.5))


def test_fingerprints_are_those_of_the_parts() -> None:
    plain, printed = Numbered(10, 2), Printed(20, 2)
    source = Mixture([plain, printed])
    expected = [fingerprint(plain, 0), fingerprint(plain, 1), "print 20", "print 21"]
    assert [fingerprint(source, i) for i in range(4)] == expected


def test_goes_to_loader_processes() -> None:
    source = pickle.loads(pickle.dumps(Mixture([Numbered(10, 2), Numbered(20, 1)], weights=[1, 3])))
    assert (source[2].name, source.shares) == ("n20", (Share(2, 0.25), Share(1, 0.75)))
