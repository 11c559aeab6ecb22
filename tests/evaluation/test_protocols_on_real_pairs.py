"""Every protocol on official 16-bit pairs, against its published definition written out once more, in numpy alone."""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from spaceclip_plugin.data.files.depth_formats import read_depth
from spaceclip_plugin.data.files.images import read_rgb
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.evaluation.protocols import PROTOCOLS, get_protocol

pytestmark = pytest.mark.real

NYU_PAIRS = [(f"nyu_16bit/rgb/rgb_{n}.jpg", f"nyu_16bit/depth/sync_depth_{n}.png") for n in ("00000", "00050", "00100")]
KITTI_PAIRS = [(f"kitti/rgb/{n}.png", f"kitti/depth/{n}.png") for n in ("0000000005", "0000000050", "0000000100")]
CASES = [
    *[(name, pair) for name in PROTOCOLS for pair in (KITTI_PAIRS if "kitti" in name else NYU_PAIRS)],
    ("whole-image", KITTI_PAIRS[0]),  # sparse, and of another size
]
each_pair = pytest.mark.parametrize(
    ("name", "pair"), CASES, ids=[f"{name}-{Path(depth).stem}" for name, (_, depth) in CASES]
)

# Top, bottom, left, right as the published evaluations write them.
GARG = ("0.40810811", "0.99189189", "0.03594771", "0.96405229")
EIGEN = ("0.3324324", "0.91351351", "0.0359477", "0.96405229")


@functools.cache
def sample_of(folder: Path, pair: tuple[str, str], units_per_metre: float) -> DepthSample:
    depth_m = read_depth(folder / pair[1], units_per_metre=units_per_metre)
    return DepthSample(read_rgb(folder / pair[0]), depth_m, pair[1])


@functools.cache
def stored(folder: Path, pair: tuple[str, str]) -> npt.NDArray[np.int64]:
    """The integers in the depth PNG."""
    with Image.open(folder / pair[1]) as png:
        return np.asarray(png).astype(np.int64)


def between(fractions: tuple[str, ...], height: int, width: int) -> tuple[int, int, int, int]:
    """First and last + 1 row and column, in exact arithmetic."""
    top, bottom, left, right = (Fraction(text) for text in fractions)
    return math.floor(top * height), math.floor(bottom * height), math.floor(left * width), math.floor(right * width)


@functools.cache
def counted(name: str, folder: Path, pair: tuple[str, str]) -> npt.NDArray[np.bool_]:
    """Where the published evaluation compares, from its description."""
    raw = at_comparison(name, stored(folder, pair))
    height, width = raw.shape
    if name in ("spaceclip-nyu", "whole-image"):
        first_row, end_row, first_column, end_column = 0, height, 0, width
    elif name.startswith("nyu-eigen"):
        first_row, end_row, first_column, end_column = 45, 471, 41, 601
    else:
        fractions = GARG if "garg" in name else EIGEN
        if name.endswith("-crop"):  # of the bottom 352 rows and the centre 1216 columns
            rows_above, columns_before = height - 352, (width - 1216) // 2
            first_row, end_row, first_column, end_column = between(fractions, 352, 1216)
            first_row, end_row = first_row + rows_above, end_row + rows_above
            first_column, end_column = first_column + columns_before, end_column + columns_before
        else:
            first_row, end_row, first_column, end_column = between(fractions, height, width)
    # Strictly between 1 mm and 10 m in millimetres, or 1 mm and 80 m in 1/256 m.
    lowest, highest = (1, 80 * 256 - 1) if "kitti" in name else (2, 10_000 - 1)
    counts = np.zeros(raw.shape, dtype=bool)
    for row in range(first_row, end_row):
        for column in range(first_column, end_column):
            counts[row, column] = lowest <= raw[row, column] <= highest
    return counts


def seen_by_the_host(name: str, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns: of KITTI the benchmark's crop, and of NYU, where a protocol is "inner", all but 8 pixels."""
    if name == "nyu-eigen-inner":
        return slice(8, height - 8), slice(8, width - 8)
    if name.startswith(("kitti-eigen", "kitti-garg")):
        left = (width - 1216) // 2
        return slice(height - 352, height), slice(left, left + 1216)
    return slice(0, height), slice(0, width)


def at_comparison(name: str, raw: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The stored depth at the size of comparison: nearest pixel centre for the published 352x704, else its own."""
    if name != "spaceclip-kitti":
        return raw
    rows = [(2 * row + 1) * raw.shape[0] // (2 * 352) for row in range(352)]
    columns = [(2 * column + 1) * raw.shape[1] // (2 * 704) for column in range(704)]
    return raw[np.ix_(rows, columns)]


def published_metrics(d: npt.NDArray[np.float64], g: npt.NDArray[np.float64]) -> dict[str, float]:
    """The nine figures of predictions d and truths g, both (n,) metres."""
    n = len(g)
    log_difference = np.log(d) - np.log(g)
    worse = np.where(d > g, d / g, g / d)
    return {
        "abs_rel": np.sum(np.abs(d - g) / g) / n,
        "sq_rel": np.sum((d - g) ** 2 / g) / n,
        "rmse": np.sqrt(np.sum((d - g) ** 2) / n),
        "rmse_log": np.sqrt(np.sum(log_difference**2) / n),
        "log10": np.sum(np.abs(np.log10(d) - np.log10(g))) / n,
        "silog": 100 * np.sqrt(np.sum(log_difference**2) / n - (np.sum(log_difference) / n) ** 2),
        "delta1": np.sum(worse < 1.25) / n,
        "delta2": np.sum(worse < 1.5625) / n,
        "delta3": np.sum(worse < 1.953125) / n,
    }


@each_pair
def test_the_mask_pixel_by_pixel(real_data: Path, name: str, pair: tuple[str, str]) -> None:
    protocol = get_protocol(name)
    raw = at_comparison(name, stored(real_data, pair))
    compared = protocol.compared(torch.ones(1, 4, 4), sample_of(real_data, pair, protocol.depth_scale))
    expected = counted(name, real_data, pair)
    assert 10_000 < expected.sum() < expected.size
    np.testing.assert_array_equal(compared.valid.numpy(), expected)
    np.testing.assert_allclose(compared.target_m.numpy(), raw / (256 if "kitti" in name else 1000), rtol=1e-6)


@each_pair
def test_the_score_is_that_of_the_published_steps(real_data: Path, name: str, pair: tuple[str, str]) -> None:
    protocol = get_protocol(name)
    raw = at_comparison(name, stored(real_data, pair))
    truth_m = (raw / (256 if "kitti" in name else 1000)).astype(np.float32)
    height, width = raw.shape
    # Truth times a smooth field of 0.5 to 1.7, and rows of it far out of the range on both sides, to be clipped.
    rows, columns = np.linspace(0, 6, height)[:, None], np.linspace(0, 9, width)[None]
    prediction_m = (truth_m * (1.1 + 0.6 * np.sin(rows) * np.cos(columns))).astype(np.float32)
    prediction_m[200:204] = 0.0
    prediction_m[210:214] = 300.0

    seen_m = prediction_m[seen_by_the_host(name, height, width)]
    sample = sample_of(real_data, pair, protocol.depth_scale)
    assert protocol.prediction_hw((sample.image.shape[0], sample.image.shape[1])) == seen_m.shape
    score = protocol.score(torch.from_numpy(seen_m.copy()), sample)

    counts = counted(name, real_data, pair)
    clipped_m = np.clip(prediction_m.astype(np.float64), 1e-3, 80 if "kitti" in name else 10)
    expected = published_metrics(clipped_m[counts], truth_m.astype(np.float64)[counts])
    assert expected["abs_rel"] > 0.1
    assert dataclasses.asdict(score) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@each_pair
def test_the_host_sees_the_crop(real_data: Path, name: str, pair: tuple[str, str]) -> None:
    protocol = get_protocol(name)
    sample = sample_of(real_data, pair, protocol.depth_scale)
    with Image.open(real_data / pair[0]) as photo:
        pixels = np.asarray(photo.convert("RGB"))
    expected = pixels[seen_by_the_host(name, *pixels.shape[:2])]
    np.testing.assert_array_equal(protocol.input_image(sample), expected)


@pytest.mark.parametrize(("name", "pair"), [case for case in CASES if case[0] != "whole-image"])
def test_the_median_lies_in_its_range_in_the_right_unit_alone(
    real_data: Path, name: str, pair: tuple[str, str]
) -> None:
    protocol = get_protocol(name)
    raw = stored(real_data, pair)
    median_m = float(np.median(raw[raw > 0])) / protocol.depth_scale
    low_m, high_m = protocol.median_range_m
    assert low_m < median_m < high_m
    assert not low_m < median_m * 1000 < high_m
    assert not low_m < median_m / 100 < high_m
