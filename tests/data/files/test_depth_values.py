from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exif_files import save
from PIL import Image

from spaceclip_plugin.data.files.depth_formats import read_depth
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.protocols import get_protocol


@pytest.mark.parametrize("units", [1.0, 256.0, 1000.0, 10000.0])
@pytest.mark.parametrize("suffix", [".png", ".pgm"])
def test_the_saturated_value_is_unknown_in_every_unit(tmp_path: Path, units: float, suffix: str) -> None:
    save(tmp_path / f"depth{suffix}", np.array([[65535, 65534], [0, 2000]], dtype=np.uint16), None)
    depth_m = read_depth(tmp_path / f"depth{suffix}", units_per_metre=units)
    np.testing.assert_array_equal(depth_m, np.array([[0, 65534 / units], [0, 2000 / units]], dtype=np.float32))


def test_a_pgm_saturates_at_the_end_of_its_bits(tmp_path: Path) -> None:
    values = np.array([[4095, 4094, 1000]], dtype=np.uint16)
    for largest, first in ((4095, 0.0), (4096, 4.095)):
        (tmp_path / "depth.pgm").write_bytes(b"P5\n3 1\n%d\n" % largest + values.astype(">u2").tobytes())
        depth_m = read_depth(tmp_path / "depth.pgm", units_per_metre=1000.0)
        np.testing.assert_array_equal(depth_m, np.array([[first, 4.094, 1.0]], dtype=np.float32))


def test_a_wide_range_does_not_make_saturated_depth_true(tmp_path: Path) -> None:
    save(tmp_path / "rgb/0.png", np.zeros((4, 6, 3), np.uint8), None)
    values = np.full((4, 6), 2000, dtype=np.uint16)
    values[:, 3:] = 65535
    save(tmp_path / "depth/0.png", values, None)
    sample = ImageFolder(tmp_path)[0]
    wide = get_protocol("whole-image").with_range(0.1, 1e4)
    compared = wide.compared(np_to_tensor(np.full((1, 4, 6), 2.0)), sample)
    assert compared.valid.sum() == 12
    assert wide.score(np_to_tensor(np.full((4, 6), 2.0)), sample).rmse == 0.0


def np_to_tensor(array: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(array.astype(np.float32))


def test_a_map_of_nothing_but_saturated_depth_says_so(tmp_path: Path) -> None:
    save(tmp_path / "rgb/0.png", np.zeros((4, 6, 3), np.uint8), None)
    save(tmp_path / "depth/0.png", np.full((4, 6), 65535, dtype=np.uint16), None)
    with pytest.raises(DataError, match=r"0\.png has no pixel of known depth.*65535"):
        ImageFolder(tmp_path)[0]


@pytest.mark.parametrize("sentinel", [1e6, 1e9, 1e10, 3.4e38])
@pytest.mark.parametrize("suffix", [".npy", ".tiff"])
def test_floats_that_no_camera_measures_are_unknown(tmp_path: Path, sentinel: float, suffix: str) -> None:
    save(tmp_path / f"depth{suffix}", np.array([[sentinel, 3.0, 999.0]], dtype=np.float32), None)
    depth_m = read_depth(tmp_path / f"depth{suffix}", units_per_metre=1.0)
    assert depth_m.tolist() == [[0.0, 3.0, 999.0]]


@pytest.mark.parametrize("saturated", [65.535, 6.5535, 13.107, 65535 / 256, 65504.0])
def test_saturated_integers_brought_into_metres_are_unknown(tmp_path: Path, saturated: float) -> None:
    for values, expected in (
        ([saturated, 3.0, saturated], [0.0, 3.0, 0.0]),
        ([saturated, 3.0, 2.0], [np.float32(saturated), 3.0, 2.0]),  # once is a measurement
    ):
        save(tmp_path / "depth.npy", np.array([values], dtype=np.float32), None)
        assert read_depth(tmp_path / "depth.npy", units_per_metre=1.0).tolist() == [expected]


def test_saturated_integers_are_known_however_they_were_divided(tmp_path: Path) -> None:
    for name, values in (
        ("product", np.array([[65535, 3000, 65535]], np.float32) * np.float32(0.001)),
        ("half", np.array([[65.535, 3.0, 65.535]], np.float16)),
        ("fifth", np.array([[65535, 15000, 65535]], np.float32) * np.float32(1 / 5000)),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        depth_m = read_depth(tmp_path / f"{name}.npy", units_per_metre=1000.0)
        np.testing.assert_allclose(depth_m, [[0.0, 3.0, 0.0]], rtol=1e-6, err_msg=name)


def test_a_value_beyond_the_saturated_one_says_that_it_is_a_measurement(tmp_path: Path) -> None:
    values = np.array([[6.5535, 6.5535, 8.0]], dtype=np.float32)
    np.save(tmp_path / "depth.npy", values)
    np.testing.assert_array_equal(read_depth(tmp_path / "depth.npy", units_per_metre=1.0), values)


def test_real_encodings_lose_nothing(tmp_path: Path) -> None:
    values = np.arange(1, 65535, dtype=np.uint16).reshape(-1, 2)
    Image.fromarray(values).save(tmp_path / "depth.png")
    np.testing.assert_array_equal(
        read_depth(tmp_path / "depth.png", units_per_metre=256.0), (values / 256).astype(np.float32)
    )
