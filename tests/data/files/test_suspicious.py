"""Maps that are no depth are told from it, whatever unit would make their median plausible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exif_files import save

from spaceclip_plugin.data.files.depth_formats import read_stored_depth
from spaceclip_plugin.data.files.suspicious import float_looks_like, looks_like
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.data.units import check_depth_units
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.protocols import get_protocol

Damage = Callable[[np.ndarray], np.ndarray]
UNITS = [1.0, 100.0, 256.0, 1000.0, 4000.0, 5000.0, 8000.0, 10000.0]


def room_mm() -> np.ndarray:
    """A slanted wall from 1.2 to 4 m with some noise, a window to 9 m, a box and some unknown pixels."""
    generator = np.random.default_rng(0)
    depth = np.linspace(1200, 4000, 48)[None, :] + np.linspace(0, 150, 36)[:, None] + generator.normal(0, 3, (36, 48))
    depth[10:20, 10:20] = 900 + generator.normal(0, 3, (10, 10))
    depth[25:29, 30:34] = 9000 + generator.normal(0, 3, (4, 4))
    depth[:2, :5] = 0
    return np.rint(depth).astype(np.uint16)


def shifted_eight(values: np.ndarray) -> np.ndarray:
    return (np.rint(values / 9500 * 255).astype(np.uint16) << 8).astype(np.uint16)


def min_max(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.rint((values - low) / (high - low) * 65535).astype(np.uint16)


def inverse(values: np.ndarray) -> np.ndarray:
    return min_max(1.0 / np.maximum(values, 850))


def rotated(values: np.ndarray) -> np.ndarray:
    return ((values << 3) | (values >> 13)).astype(np.uint16)


def too_fine(values: np.ndarray) -> np.ndarray:
    return np.minimum(values.astype(np.int64) * 50, 65535).astype(np.uint16)


DAMAGES: list[tuple[Damage, list[str]]] = [
    (lambda v: v.byteswap(), ["bytes are swapped", "byteswap"]),
    (rotated, ["SUN RGB-D", "(d >> 3) | (d << 13)"]),
    (lambda v: (v // 3 << 4).astype(np.uint16), ["multiples of 16", "d >> 4"]),
    (shifted_eight, ["multiples of 256", "8-bit"]),
    (min_max, ["65535", "stretched"]),
    (inverse, ["65535", "stretched"]),
    (too_fine, ["65535", "saturated"]),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGES)
@pytest.mark.parametrize("units", UNITS)
def test_it_is_named_whatever_the_unit(damage: Damage, named: list[str], units: float) -> None:
    said = looks_like([damage(room_mm())], units_per_metre=units)
    assert said is not None
    for part in named:
        assert part in said


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("factor", [0.1, 0.256, 1.0, 4.0, 5.0, 8.0, 10.0])
def test_depth_in_any_unit_is_none(units: float, factor: float) -> None:
    generator = np.random.default_rng(1)
    metres = room_mm() + generator.random((36, 48)) * (room_mm() > 0)
    values = np.rint(metres * factor).astype(np.uint16)
    assert looks_like([values] * 4, units_per_metre=units) is None


@pytest.mark.parametrize("units", UNITS)
def test_an_8_bit_picture_in_16_bits_is_named(units: float) -> None:
    said = looks_like([min_max(room_mm()) >> 8] * 3, units_per_metre=units)
    assert said is not None
    assert "255" in said


FLOATS = [
    (lambda v: min_max(v) / 65535, "every map is 1,"),
    (lambda v: (min_max(v) / 65535).astype(np.float16), "every map is 1,"),
    (lambda v: min_max(v) / 257, "every map is 255,"),
    (lambda v: inverse(v) / 65535, "every map is 1,"),
    (lambda v: min_max(v).astype(np.float32), "every map is 65535,"),
    (lambda v: np.rint(v / 40).astype(np.float32), "whole numbers up to 255"),
]


@pytest.mark.parametrize(("damage", "named"), FLOATS)
def test_pictures_in_floating_point_are_named(tmp_path: Path, damage: Damage, named: str) -> None:
    """Their median of half a metre, or of 60, would pass in one protocol or another."""
    for index in range(3):
        save(tmp_path / f"rgb/{index}.png", np.zeros((36, 48, 3), np.uint8), None)
        save(tmp_path / f"depth/{index}.npy", damage(room_mm()), None)
    with pytest.raises(DataError, match=f"this is no depth: .*{named}"):
        check_depth_units(ImageFolder(tmp_path), get_protocol("whole-image").with_range(1e-3, 1e4))


@pytest.mark.parametrize(("damage", "named"), [(DAMAGES[0][0], "bytes are swapped"), (rotated, "SUN RGB-D")])
def test_damage_of_some_maps_of_a_source_is_named(damage: Damage, named: str) -> None:
    sound = [room_mm()] * 6
    found = looks_like([*sound, damage(room_mm()), damage(room_mm())], units_per_metre=1000.0)
    assert found is not None
    assert found.startswith("in at least 2 of them")
    assert named in found


def test_floats_that_are_clipped_before_they_are_stretched_are_named() -> None:
    depth_m = room_mm() / 1000
    low, high = np.percentile(depth_m[depth_m > 0], (2, 98))
    found = float_looks_like([np.clip((depth_m - low) / (high - low), 0, 1).astype(np.float32)] * 3)
    assert found is not None
    assert "the furthest pixel of every map is 1" in found


def test_metres_are_metres() -> None:
    metres = room_mm() / 1000
    assert float_looks_like([metres] * 3) is None
    assert float_looks_like([np.where(metres > 0, metres, np.nan)]) is None
    assert float_looks_like([np.minimum(metres, 1.0)]) is None  # cut off at 1 m
    assert float_looks_like([np.full((36, 48), 2.0)]) is None
    assert float_looks_like([]) is None


def test_flat_maps_are_told_what_they_could_be_besides(tmp_path: Path) -> None:
    for value, also in (
        (2000 << 8 & 65535 | 2000 >> 8, "2 m with its bytes swapped"),
        (2500 << 3, "2.5 m with its bits"),
    ):
        save(tmp_path / "rgb/0.png", np.zeros((4, 5, 3), np.uint8), None)
        save(tmp_path / "depth/0.png", np.full((4, 5), value, np.uint16), None)
        with pytest.raises(DataError, match=f"too few different values.*{also}"):
            check_depth_units(ImageFolder(tmp_path), get_protocol("nyu-eigen"))


def test_shifted_millimetres_are_right_in_a_shifted_unit() -> None:
    near = np.minimum(room_mm(), 8000)
    assert looks_like([near << 3], units_per_metre=8000.0) is None
    # Beyond 8.19 m the highest bits come round, and no unit is right.
    assert looks_like([rotated(room_mm())], units_per_metre=8000.0) is not None


@pytest.mark.parametrize("value", [1000, 2048, 53255])
def test_flat_maps_prove_nothing(value: int) -> None:
    assert looks_like([np.full((36, 48), value, dtype=np.uint16)], units_per_metre=1000.0) is None
    assert looks_like([], units_per_metre=1000.0) is None


def test_steps_of_centimetres_are_depth() -> None:
    assert looks_like([room_mm() // 40 * 40], units_per_metre=1000.0) is None


def test_a_sentinel_behind_a_gap_is_depth() -> None:
    values = room_mm()
    values[:, -1] = 65535
    assert looks_like([values] * 4, units_per_metre=1000.0) is None


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES])
@pytest.mark.parametrize("units", UNITS)
def test_obeying_no_advice_about_units_lets_it_pass(tmp_path: Path, damage: Damage, units: float) -> None:
    for index in range(3):
        save(tmp_path / f"rgb/{index}.png", np.zeros((36, 48, 3), np.uint8), None)
        save(tmp_path / f"depth/{index}.png", damage(room_mm()), None)
    (tmp_path / "list.txt").write_text("".join(f"rgb/{i}.png depth/{i}.png\n" for i in range(3)))
    source = DepthList(tmp_path / "list.txt", units_per_metre=units)
    with pytest.raises(DataError, match="this is no depth") as caught:
        check_depth_units(source, get_protocol("nyu-eigen"))
    assert "list.txt" in str(caught.value)
    assert "units_per_metre" not in str(caught.value)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "units"),
    [
        ("nyu", 1000.0),
        ("nyu_16bit", 1000.0),
        ("kitti", 256.0),
        ("hololens", 1000.0),
        *((f"cameras/{name}", 1000.0) for name in ("bin_camera_0", "office_render", "overhead", "wrist_shelf")),
    ],
)
def test_real_depth_is_depth_and_its_damage_is_seen(real_data: Path, folder: str, units: float) -> None:
    files = sorted((real_data / folder / "depth").iterdir())[:6]
    maps = [read_stored_depth(file).values for file in files]
    assert looks_like(maps, units_per_metre=units) is None
    for values in maps:
        assert looks_like([values], units_per_metre=units) is None
        assert "swapped" in str(looks_like([values.byteswap()], units_per_metre=units))
    if units == 1000.0:
        assert "SUN RGB-D" in str(looks_like([rotated(values) for values in maps], units_per_metre=units))
        furthest = [np.rint(values / values.max() * 65535).astype(np.uint16) for values in maps]
        assert "stretched" in str(looks_like(furthest, units_per_metre=units))
