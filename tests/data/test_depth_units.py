from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from spaceclip_plugin.data.depth_units import check_depth_units
from spaceclip_plugin.data.mixture import Mixture
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation.protocols import get_protocol


@dataclass(frozen=True)
class Indoor:
    """What the check needs of a protocol."""

    name: str = "indoor"
    median_range_m: tuple[float, float] = (0.5, 8.0)


class Flat:
    """Sample i is everywhere at metres[i]; remembers what was read."""

    def __init__(self, metres: list[float], units_per_metre: float | None = None) -> None:
        self.metres = metres
        self.read: list[int] = []
        if units_per_metre is not None:
            self.units_per_metre = units_per_metre

    def __len__(self) -> int:
        return len(self.metres)

    def __getitem__(self, index: int) -> DepthSample:
        self.read.append(index)
        depth_m = np.full((4, 5), self.metres[index], dtype=np.float32)
        return DepthSample(np.zeros((4, 5, 3), dtype=np.uint8), depth_m, f"flat {index}")


def test_a_plausible_median_is_returned() -> None:
    assert check_depth_units(Flat([1.0, 2.0, 7.0]), Indoor()) == 2.0
    assert check_depth_units(Flat([0.5]), Indoor()) == 0.5
    assert check_depth_units(Flat([8.0]), Indoor()) == 8.0


def test_unknown_pixels_do_not_count() -> None:
    source = Flat([0.0, 0.0, 0.0, 3.0])
    assert check_depth_units(source, Indoor()) == 3.0
    with pytest.raises(DataError, match="flat 0: none of 3 samples has a pixel of known depth"):
        check_depth_units(Flat([0.0] * 3), Indoor())


def test_a_few_samples_are_read_evenly_spread() -> None:
    source = Flat([2.0] * 1000)
    check_depth_units(source, Indoor())
    assert len(source.read) == 24
    assert (source.read[0], source.read[-1]) == (0, 999)
    assert set(np.diff(source.read)) <= {43, 44}
    few = Flat([2.0] * 5)
    check_depth_units(few, Indoor())
    assert few.read == [0, 1, 2, 3, 4]
    one = Flat([2.0] * 9)
    check_depth_units(one, Indoor(), samples=1)
    assert one.read == [0]


@pytest.mark.parametrize(
    ("metres", "units", "expected"),
    [
        # Millimetres read as KITTI's 1/256 m, TUM's 1/5000 m as millimetres, centimetres as millimetres.
        (2.0 * 1000 / 256, 256.0, []),
        (
            2.5 * 5000 / 1000,
            1000.0,
            ["median depth of 1 samples from 'flat 0' on is 12.5 m", "looks like 5000 or 10000"],
        ),
        (
            2.0 * 100 / 1000,
            1000.0,
            [
                "is 0.2 m",
                "looks like 100 or 256;",
                "set units_per_metre of the source to 100 (`spaceclip train` reads it in a --config)",
            ],
        ),
        (20.0 * 256 / 1000, 1000.0, []),
        (4000.0, 1.0, ["is 4000 m", "read with 1 units per metre", "looks like 1000 or 5000"]),
    ],
)
def test_the_fitting_unit_is_named(metres: float, units: float, expected: list[str]) -> None:
    source = Flat([metres], units)
    if not expected:
        assert check_depth_units(source, Indoor()) == pytest.approx(metres)
        return
    with pytest.raises(DataError, match=r"expected 0\.5 to 8 m \(protocol 'indoor'\)") as caught:
        check_depth_units(source, Indoor())
    for part in expected:
        assert part in str(caught.value)


def test_depth_that_no_unit_explains_is_refused_with_other_advice() -> None:
    with pytest.raises(DataError, match="no common unit fits; is it depth") as caught:
        check_depth_units(Flat([1e9], 1000.0), Indoor())
    assert "set units_per_metre" not in str(caught.value)
    with pytest.raises(DataError, match="the source gives metres: convert its depth"):
        check_depth_units(Flat([2000.0]), Indoor())


def test_every_part_of_a_mixture_is_checked_alone() -> None:
    good, bad = Flat([2.0] * 900, 1000.0), Flat([2000.0, 2000.0], 1.0)
    with pytest.raises(DataError, match=r"2 samples from 'flat 0' on is 2000 m,.* looks like 1000 or 256"):
        check_depth_units(Mixture([good, Mixture([good, bad])]), Indoor())
    assert check_depth_units(Mixture([Flat([1.0] * 3), Flat([3.0] * 7)]), Indoor()) == 3.0


def test_large_maps_weigh_no_more_than_a_few_pixels() -> None:
    class Large(Flat):
        def __getitem__(self, index: int) -> DepthSample:
            side = 1024 if index == 0 else 256
            depth_m = np.full((side, side), self.metres[index], dtype=np.float32)
            return DepthSample(np.zeros((side, side, 3), dtype=np.uint8), depth_m, f"large {index}")

    assert check_depth_units(Large([7.0, 2.0, 2.0]), Indoor()) == 2.0


def test_nothing_to_check_is_an_error() -> None:
    with pytest.raises(DataError, match="the source is empty"):
        check_depth_units(Flat([]), Indoor())
    with pytest.raises(ConfigError, match="at least 1 sample, got 0"):
        check_depth_units(Flat([1.0]), Indoor(), samples=0)


def test_published_protocols_know_their_data() -> None:
    nyu, kitti = get_protocol("nyu-eigen"), get_protocol("kitti-eigen")
    assert check_depth_units(Flat([2.7], nyu.depth_scale), nyu) == pytest.approx(2.7)
    with pytest.raises(DataError, match="depth looks like 256 or 100; set units_per_metre of the source to 256"):
        check_depth_units(Flat([14.0 * 256 / 5000], 5000.0), kitti)
