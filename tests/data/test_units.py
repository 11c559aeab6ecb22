from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from exif_files import save

from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.data.units import check_depth_units
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


def test_where_nothing_is_does_not_count() -> None:
    assert check_depth_units(Flat([math.inf, math.inf, math.inf, 3.0]), Indoor()) == 3.0


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
            [
                "median depth of 1 samples from 'flat 0' on is 12.5 m",
                "3.12 m with 4000 (RealSense L515",
                "2.5 m with 5000 (TUM",
                "1.56 m with 8000 (RealSense SR300",
                "1.25 m with 10000",
            ],
        ),
        (2.0 * 100 / 1000, 1000.0, ["is 0.2 m", "2 m with 100 (centimetres)", "0.781 m with 256 (KITTI)"]),
        (20.0 * 256 / 1000, 1000.0, []),
        (
            4000.0,
            1.0,
            [
                "is 4000 m",
                "read with 1 units per metre",
                "4 m with 1000 (millimetres",
                "1 m with 4000",
                "0.5 m with 8000",
            ],
        ),
    ],
)
def test_every_fitting_unit_is_listed_with_its_median(metres: float, units: float, expected: list[str]) -> None:
    source = Flat([metres], units)
    if not expected:
        assert check_depth_units(source, Indoor()) == pytest.approx(metres)
        return
    with pytest.raises(DataError, match=r"expected 0\.5 to 8 m \(protocol 'indoor'\)") as caught:
        check_depth_units(source, Indoor())
    for part in expected:
        assert part in str(caught.value)
    assert "set " not in str(caught.value)  # which unit is right is not known here
    assert "--units-per-metre" in str(caught.value)


def test_depth_that_no_unit_explains_is_refused_with_other_advice() -> None:
    with pytest.raises(DataError, match="no common unit fits; is it depth") as caught:
        check_depth_units(Flat([1e9], 1000.0), Indoor())
    assert "--units-per-metre" not in str(caught.value)


@pytest.mark.parametrize(
    ("metres", "expected"),
    [
        (2000.0, "millimetres (the median would be 2 m: divide by 1000)"),
        (200.0, "centimetres (the median would be 2 m: divide by 100)"),
        (2e6, "micrometres (the median would be 2 m: divide by 1e+06)"),
        (1e9, "no common unit fits: convert its depth"),
        (0.3, "none exceeds 1, as in relative or inverse depth"),
    ],
)
def test_metres_that_are_none_are_told_what_they_look_like(metres: float, expected: str) -> None:
    with pytest.raises(DataError, match="are read as metres, whatever the unit") as caught:
        check_depth_units(Flat([metres]), Indoor())
    assert expected in str(caught.value)
    assert "--units-per-metre" not in str(caught.value)


def listed(folder: Path, maps: dict[str, np.ndarray]) -> DepthList:
    for name, values in maps.items():
        save(folder / f"rgb/{name}.png", np.zeros((*values.shape, 3), np.uint8), None)
        save(folder / f"depth/{name}", values, None)
    (folder / "list.txt").write_text("".join(f"rgb/{name}.png depth/{name}\n" for name in maps))
    return DepthList(folder / "list.txt")


def test_arrays_in_a_list_are_not_sent_to_a_unit(tmp_path: Path) -> None:
    source = listed(tmp_path, {"0.npy": np.full((4, 5), 2500.0, np.float32)})
    assert source.units_per_metre is None
    with pytest.raises(DataError, match=r"millimetres \(the median would be 2\.5 m: divide by 1000\)") as caught:
        check_depth_units(source, Indoor())
    assert "--units-per-metre" not in str(caught.value)


def test_integers_and_metres_of_one_list_are_checked_apart(tmp_path: Path) -> None:
    maps = {f"{i}.png": np.full((4, 5), 2000, np.uint16) for i in range(40)}
    source = listed(tmp_path, {**maps, "40.npy": np.full((4, 5), 2500.0, np.float32)})
    assert source.units_per_metre == 1000.0
    with pytest.raises(DataError, match=r"1 samples from 'list\.txt:41 .*are read as metres"):
        check_depth_units(source, Indoor())
    assert check_depth_units(listed(tmp_path, maps), Indoor()) == 2.0


def test_a_second_unit_within_a_list_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wall = np.rint(np.linspace(2000, 4000, 480)).astype(np.uint16).reshape(20, 24)
    maps = {f"{i}.png": wall if i % 2 else 5 * wall for i in range(8)}
    check_depth_units(listed(tmp_path / "two", maps), get_protocol("nyu-eigen"))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "4 of 8 samples have a median depth of about 15 m" in told[0]
    assert "the others of about 3 m" in told[0]
    caplog.clear()
    check_depth_units(listed(tmp_path / "one", dict.fromkeys(maps, wall)), get_protocol("nyu-eigen"))
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_the_median_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_depth_units(Flat([2.5], 5000.0), Indoor())
    assert "2.5 m, read with 5000 units per metre" in caplog.text


def test_every_part_of_a_mixture_is_checked_alone() -> None:
    good, bad = Flat([2.0] * 900, 1000.0), Flat([2000.0, 2000.0], 1.0)
    with pytest.raises(DataError, match=r"2 samples from 'flat 0' on is 2000 m,.* 2 m with 1000 "):
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
    with pytest.raises(DataError, match=r"35\.8 m with 100 \(centimetres\), or 14 m with 256 \(KITTI\)"):
        check_depth_units(Flat([14.0 * 256 / 5000], 5000.0), kitti)
