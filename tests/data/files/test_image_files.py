from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from exif_files import stored
from PIL import Image, TiffImagePlugin

from spaceclip_plugin.data.files.depth_formats import read_depth
from spaceclip_plugin.data.files.images import PhotoHeader, read_header, read_rgb
from spaceclip_plugin.errors import ConfigError, DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEPTH = np.random.default_rng(1).integers(0, 65536, (6, 9), dtype=np.uint16)


def png_claiming(width: int, height: int, *, bits: int = 16) -> bytes:
    """A tiny file whose header promises a huge greyscale image."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_rgb_comes_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(RGB).save(path)
    image = read_rgb(path)
    np.testing.assert_array_equal(image, RGB)
    assert (image.dtype, image.flags.writeable) == (np.uint8, True)
    np.testing.assert_array_equal(read_rgb(str(path)), RGB)


def test_other_8_bit_images_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(RGB[:, :, 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), RGB[:, :, :1].repeat(3, axis=2))
    Image.fromarray(np.dstack([RGB, RGB[:, :, 0]])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), RGB)


def test_an_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to display"
    Image.fromarray(RGB).save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "phone.png"), np.rot90(RGB, k=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGBA", "RGB"])
def test_turned_tiffs_of_every_mode_keep_their_pixels(tmp_path: Path, mode: str, orientation: int) -> None:
    upright = Image.fromarray(RGB).convert(mode)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = orientation
    Image.fromarray(stored(np.array(upright), orientation)).save(tmp_path / "scan.tiff", tiffinfo=tags)
    np.testing.assert_array_equal(read_rgb(tmp_path / "scan.tiff"), np.array(upright.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_turns_nothing(tmp_path: Path, suffix: str) -> None:
    photo = Image.fromarray(np.full((6, 9, 3), 80, np.uint8))
    photo.save(tmp_path / f"photo.{suffix}", exif=b"Exif\0\0no tags")
    assert np.abs(read_rgb(tmp_path / f"photo.{suffix}").astype(int) - 80).max() <= 2
    assert read_header(tmp_path / f"photo.{suffix}") == PhotoHeader((6, 9), 1)


@pytest.mark.parametrize("units", [1000.0, 256.0])
def test_depth_is_units_over_scale_and_zero_stays_zero(tmp_path: Path, units: float) -> None:
    values = DEPTH.copy()
    values[2, 3], values[0, 0], values[1, 1] = 0, 65535, 1
    Image.fromarray(values).save(tmp_path / "depth.png")
    depth_m = read_depth(tmp_path / "depth.png", units_per_metre=units)
    assert (depth_m.dtype, depth_m.flags.writeable) == (np.float32, True)
    known = np.where(values == 65535, 0, values)
    np.testing.assert_array_equal(depth_m, (known / units).astype(np.float32))
    assert depth_m[2, 3] == depth_m[0, 0] == 0.0
    np.testing.assert_array_equal(depth_m == 0, known == 0)


def test_depth_of_another_kind_is_refused(tmp_path: Path) -> None:
    for name, array in (("8bit.png", DEPTH.astype(np.uint8)), ("rgb.png", RGB), ("depth.tiff", DEPTH)):
        Image.fromarray(array).save(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}: .* got (PNG|TIFF) of mode"):
            read_depth(tmp_path / name, units_per_metre=1000.0)


def test_a_depth_map_is_no_photo(tmp_path: Path) -> None:
    Image.fromarray(DEPTH).save(tmp_path / "depth.png")
    with pytest.raises(DataError, match=r"depth.png: expected an 8-bit image .* swapped"):
        read_rgb(tmp_path / "depth.png")


def test_formats_nobody_records_frames_in_are_refused(tmp_path: Path) -> None:
    # Each decoder is a risk of its own with files from strangers.
    Image.fromarray(RGB).save(tmp_path / "frame.gif")
    with pytest.raises(DataError, match=r"frame\.gif: expected an 8-bit image \(JPEG, PNG, BMP, TIFF, WEBP, PPM\)"):
        read_rgb(tmp_path / "frame.gif")


@pytest.mark.parametrize("units", [0.0, -1.0, float("nan"), float("inf")])
def test_units_must_be_finite_and_positive(tmp_path: Path, units: float) -> None:
    with pytest.raises(ConfigError, match="units_per_metre must be finite and positive"):
        read_depth(tmp_path / "unread.png", units_per_metre=units)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "bad checksum"])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "frame.png"
    buffer = io.BytesIO()
    Image.fromarray(DEPTH).save(buffer, "PNG")
    whole = bytearray(buffer.getvalue())
    if kind == "bad checksum":
        whole[-20] ^= 0xFF
    content = {"empty": b"", "text": b"rgb depth 518.8\n", "truncated": whole[: len(whole) * 2 // 3]}
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(content.get(kind, bytes(whole)))
    expected = "no such file" if kind in ("missing", "folder") else "cannot be decoded"
    for read in (read_rgb, lambda p: read_depth(p, units_per_metre=1000.0)):
        with pytest.raises(DataError, match=rf"frame\.png: .*{expected}"):
            read(path)


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (10_000, 10_000), (60_000, 60_000)])
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, width: int, height: int) -> None:
    # Below, within and above the range in which Pillow only warns.
    (tmp_path / "bomb.png").write_bytes(png_claiming(width, height))
    with pytest.raises(DataError, match=r"bomb\.png: refused, more than 67108864 pixels"):
        read_depth(tmp_path / "bomb.png", units_per_metre=1000.0)
    (tmp_path / "bomb8.png").write_bytes(png_claiming(width, height, bits=8))
    with pytest.raises(DataError, match=r"bomb8\.png: refused, more than 67108864 pixels"):
        read_rgb(tmp_path / "bomb8.png")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow may mention the damage before it gives up or goes on
def test_random_corruption_gives_an_image_or_a_data_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path, refused = tmp_path / "noise", 0
    sources = []
    for suffix, array in (("jpeg", RGB), ("png", RGB), ("tiff", RGB), ("bmp", RGB), ("ppm", RGB), ("png", DEPTH)):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, suffix)
        sources.append(buffer.getvalue())
    for turn in range(200):
        content = bytearray(sources[turn % len(sources)])
        for position in generator.integers(0, len(content), 4):
            content[position] = generator.integers(0, 256)
        path.write_bytes(content)
        try:
            image = read_rgb(path)
        except DataError:
            refused += 1
        else:
            assert image.ndim == 3
    assert 40 < refused < 200


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "units", "image_hw", "known", "furthest_m"),
    [("nyu_16bit", 1000.0, (480, 640), (0.6, 0.8), 10.0), ("kitti", 256.0, (375, 1242), (0.15, 0.25), 90.0)],
)
def test_real_pairs_have_plausible_metres(
    real_data: Path,
    folder: str,
    units: float,
    image_hw: tuple[int, int],
    known: tuple[float, float],
    furthest_m: float,
) -> None:
    photos, depths = (sorted((real_data / folder / kind).iterdir()) for kind in ("rgb", "depth"))
    assert len(photos) == len(depths) == 3
    for photo, depth in zip(photos, depths, strict=True):
        image, depth_m = read_rgb(photo), read_depth(depth, units_per_metre=units)
        assert (image.shape, depth_m.shape) == ((*image_hw, 3), image_hw)
        assert image.std() > 20
        assert known[0] < (depth_m > 0).mean() < known[1]
        assert depth_m[depth_m > 0].min() > 0.3
        assert furthest_m / 3 < depth_m.max() < furthest_m


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_npy_depth_is_metres(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(0.25, 8, 54).reshape(6, 9).astype(dtype)
    np.save(tmp_path / "depth.npy", values)
    depth_m = read_depth(tmp_path / "depth.npy", units_per_metre=256.0)
    assert (depth_m.dtype, type(depth_m), depth_m.flags.writeable) == (np.float32, np.ndarray, True)
    np.testing.assert_array_equal(depth_m, values.astype(np.float32))


def test_tiff_depth_is_metres(tmp_path: Path) -> None:
    values = np.linspace(0.25, 8, 54, dtype=np.float32).reshape(6, 9)
    for name in ("depth.tiff", "depth.TIF"):
        Image.fromarray(values).save(tmp_path / name, format="TIFF")
        np.testing.assert_array_equal(read_depth(tmp_path / name, units_per_metre=1000.0), values)


def test_png_depth_has_a_unit(tmp_path: Path) -> None:
    Image.fromarray(DEPTH).save(tmp_path / "depth.PNG", format="PNG")
    depth_m = read_depth(tmp_path / "depth.PNG", units_per_metre=256.0)
    np.testing.assert_array_equal(depth_m, (DEPTH / 256).astype(np.float32))
    with pytest.raises(ConfigError, match="units_per_metre"):
        read_depth(tmp_path / "absent.npy", units_per_metre=0.0)


@pytest.mark.parametrize("suffix", ["npy", "tiff"])
def test_float_depth_that_is_none_is_unknown(tmp_path: Path, suffix: str) -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0, -0.0, 2.5, 1e-30]], dtype=np.float32)
    path = tmp_path / f"depth.{suffix}"
    np.save(path, values) if suffix == "npy" else Image.fromarray(values).save(path)
    depth_m = read_depth(path, units_per_metre=1000.0)
    assert depth_m.tolist() == [[0.0] * 6 + [2.5, pytest.approx(1e-30)]]
    assert not np.signbit(depth_m).any()


def test_doubles_beyond_float32_are_unknown(tmp_path: Path) -> None:
    np.save(tmp_path / "depth.npy", np.array([[1e300, 3.0]]))
    assert read_depth(tmp_path / "depth.npy", units_per_metre=1.0).tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (DEPTH, r"\(6, 9\) of uint16"),
        (DEPTH.astype(np.float32)[None], r"\(1, 6, 9\) of float32"),
        (DEPTH.astype(np.complex64), "of complex64"),
    ],
)
def test_arrays_that_are_no_metres_are_refused(tmp_path: Path, array: np.ndarray, found: str) -> None:
    np.save(tmp_path / "depth.npy", array)
    with pytest.raises(
        DataError, match=rf"depth\.npy: expected a NumPy array \(H, W\) of metres .* got shape .*{found}"
    ):
        read_depth(tmp_path / "depth.npy", units_per_metre=1.0)


def test_pickles_and_archives_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", DEPTH.astype(np.float32))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(DEPTH.astype(np.float32)))
    for name in ("objects", "archive", "pickle"):
        with pytest.raises(DataError, match=rf"{name}\.npy: expected a NumPy array"):
            read_depth(tmp_path / f"{name}.npy", units_per_metre=1.0)


def test_integer_tiffs_and_renamed_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(DEPTH).save(tmp_path / "depth.tiff")
    Image.fromarray(DEPTH).save(tmp_path / "renamed.tiff", format="PNG")
    for name, found in (("depth", "TIFF of mode 'I;16'"), ("renamed", "PNG of mode 'I(;16)?'")):
        with pytest.raises(DataError, match=rf"{name}\.tiff: expected a TIFF of float32 metres, got {found}"):
            read_depth(tmp_path / f"{name}.tiff", units_per_metre=1.0)


@pytest.mark.parametrize("suffix", ["npy", "tiff", "png"])
def test_absent_depth_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=rf"absent\.{suffix}: no such file, expected a"):
        read_depth(tmp_path / f"absent.{suffix}", units_per_metre=1.0)


def test_arrays_that_claim_much_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.npy").open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (9000, 9000)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 2 * 9000 * 9000)  # a hole: takes no place on the disk
    with pytest.raises(DataError, match=r"huge\.npy: refused, more than 67108864 pixels \(9000, 9000\)"):
        read_depth(tmp_path / "huge.npy", units_per_metre=1.0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # NumPy guesses that damaged headers are of Python 2
def test_random_corruption_of_arrays_gives_metres_or_a_data_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "depth.npy", np.full((6, 9), 1.5, dtype=np.float32))
    whole, reasons = (tmp_path / "depth.npy").read_bytes(), []
    for turn in range(400):
        content = bytearray(whole[: generator.integers(1, len(whole))] if turn % 8 == 0 else whole)
        for position in generator.integers(0, min(len(content), 90), 1 + turn % 4):
            content[position] = generator.integers(0, 256)
        (tmp_path / "depth.npy").write_bytes(content)
        try:
            depth_m = read_depth(tmp_path / "depth.npy", units_per_metre=1.0)
        except DataError as error:
            reasons.append(str(error))
        else:
            assert (depth_m.ndim, depth_m.dtype) == (2, np.float32)
    assert 200 < len(reasons) < 400
    assert all("depth.npy" in reason for reason in reasons)


def test_8_bit_depth_stretched_to_16_bits_is_refused(tmp_path: Path) -> None:
    eight = np.random.default_rng(2).integers(0, 256, (6, 9)).astype(np.uint16)
    Image.fromarray(eight * 257).save(tmp_path / "stretched.png")
    with pytest.raises(DataError, match=r"stretched\.png: .*all values are multiples of 257: this was an 8-bit image"):
        read_depth(tmp_path / "stretched.png", units_per_metre=1000.0)
    one_off = eight * 257
    one_off[3, 4] = 1000
    Image.fromarray(one_off).save(tmp_path / "one_off.png")
    assert read_depth(tmp_path / "one_off.png", units_per_metre=1000.0)[3, 4] == 1.0
    Image.fromarray(eight * 256).save(tmp_path / "shifted.png")
    assert read_depth(tmp_path / "shifted.png", units_per_metre=256.0).max() == eight.max()


@pytest.mark.parametrize(("values", "refused"), [((0,), False), ((0, 257, 514), False), ((257, 514, 771), True)])
def test_a_few_multiples_of_257_are_chance(tmp_path: Path, values: tuple[int, ...], refused: bool) -> None:
    array = np.resize(np.array(values, dtype=np.uint16), (6, 9))
    Image.fromarray(array).save(tmp_path / "depth.png")
    if refused:
        with pytest.raises(DataError, match="multiples of 257"):
            read_depth(tmp_path / "depth.png", units_per_metre=1000.0)
    else:
        assert read_depth(tmp_path / "depth.png", units_per_metre=1.0).max() == max(values)
