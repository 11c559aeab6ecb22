"""Files of depth and photos of other kinds: what is read of them, and what is said of those that are not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from exif_files import save
from PIL import Image

from spaceclip_plugin.data.files.depth_formats import read_depth
from spaceclip_plugin.data.files.images import read_rgb
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.errors import DataError

METRES = np.linspace(0.5, 4, 20).reshape(4, 5)


def depth(path: Path, units: float = 1000.0) -> np.ndarray:
    return read_depth(path, units_per_metre=units)


def test_one_channel_is_a_map(tmp_path: Path) -> None:
    """DIODE's depth."""
    np.save(tmp_path / "depth.npy", METRES.astype(np.float32)[..., None])
    np.testing.assert_array_equal(depth(tmp_path / "depth.npy"), METRES.astype(np.float32))
    np.save(tmp_path / "two.npy", np.ones((4, 5, 2), np.float32))
    with pytest.raises(DataError, match=r"two\.npy: .* got shape \(4, 5, 2\)"):
        depth(tmp_path / "two.npy")


@pytest.mark.parametrize("saved", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_one_array_of_an_archive_is_metres(tmp_path: Path, saved: object, dtype: str) -> None:
    values = METRES.astype(dtype)
    saved(tmp_path / "depth.npz", depth=values[..., None])  # type: ignore[operator]
    found = depth(tmp_path / "depth.npz", 5.0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_archives_of_something_else_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", depth=METRES, mask=METRES > 1)
    np.savez(tmp_path / "objects.npz", np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "integers.npz", (1000 * METRES).astype(np.uint16))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:100])
    for name, reason in (
        ("two", r"2 \(depth, mask\)"),
        ("objects", "of object"),
        ("integers", "of uint16.*integers do not say their unit.*float32.*16-bit PNG"),
        ("cut", "cannot be read"),
    ):
        with pytest.raises(DataError, match=rf"{name}\.npz: expected .*{reason}"):
            depth(tmp_path / f"{name}.npz")


def test_archives_that_claim_much_are_refused_unread(tmp_path: Path) -> None:
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": (9000, 9000)})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("depth.npy", header.getvalue())
    with pytest.raises(DataError, match=r"huge\.npz: refused, more than 67108864 pixels"):
        depth(tmp_path / "huge.npz")


def test_a_pgm_is_not_stretched(tmp_path: Path) -> None:
    values = np.array([[1000, 2000], [3000, 0]], dtype=np.uint16)
    (tmp_path / "depth.pgm").write_bytes(b"P5 # a comment\n# another\n2 2\n4095\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(depth(tmp_path / "depth.pgm"), (values / 1000).astype(np.float32))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P5\n2 2\n255\n\0\0\0\0", "largest value is 255; export the depth again as uint16"),
        (b"P2\n2 2\n4095\n1 2 3 4\n", "got another file"),
        (b"P5\n2 2\n4095\n\0\0\0\0", "cut short"),
        (b"P5\n90000 90000\n65535\n\0\0", "refused, more than 67108864 pixels"),
        (b"", "the file is empty"),
    ],
)
def test_other_pgms_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "depth.pgm").write_bytes(content)
    with pytest.raises(DataError, match=rf"depth\.pgm: .*{reason}"):
        depth(tmp_path / "depth.pgm")


@pytest.mark.parametrize("suffix", [".exr", ".pfm", ".h5", ".mat", ".EXR"])
def test_kinds_that_are_not_read_are_told_which_are(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"depth{suffix}").write_bytes(b"something")
    with pytest.raises(DataError, match=rf"depth\{suffix}: .*is not read") as caught:
        depth(tmp_path / f"depth{suffix}")
    for part in (".png", ".pgm", ".npy", ".npz", ".tif", "numpy.save"):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", ["depth", "rgb"])
def test_a_folder_says_what_it_does_not_read(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "rgb/0.png", np.zeros((4, 5, 3), np.uint8), None)
    save(tmp_path / "depth/0.png", np.full((4, 5), 2000, np.uint16), None)
    (tmp_path / kind / "0.png").unlink()
    other = "0.exr" if kind == "depth" else "0.heic"
    (tmp_path / kind / other).write_bytes(b"something")
    with pytest.raises(DataError, match=rf"without a .*{other} is not read: photos are \.bmp, \.jpeg.*\.npy"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("dtype", ["<f8", "<f2"])
@pytest.mark.parametrize("compression", [1, 8, 32946])
def test_tiffs_of_doubles_and_halves_are_metres(
    tmp_path: Path, dtype: str, compression: int, orientation: int | None
) -> None:
    values = METRES.astype(dtype)
    (tmp_path / "depth.tiff").write_bytes(tiff(values, {259: compression, 274: orientation}))
    turned = {3: np.rot90(values, 2), 6: np.rot90(values, -1), 8: np.rot90(values)}
    expected = values if orientation is None else turned.get(orientation, values)
    np.testing.assert_array_equal(depth(tmp_path / "depth.tiff", 7.0), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({317: 3}, "64-bit floating point is read in strips"),
        ({259: 5}, "64-bit floating point is read in strips"),
        ({277: 2}, "64-bit floating point is read in strips"),
        ({257: 9}, "expected 360 bytes of 5x9 pixels, got 160"),
        ({256: 9000, 257: 9000}, "refused, more than 67108864 pixels"),
        ({339: 1}, "expected a TIFF of float32 metres"),
    ],
)
def test_other_tiffs_of_doubles_are_named(tmp_path: Path, tags: dict[int, int], reason: str) -> None:
    (tmp_path / "depth.tiff").write_bytes(tiff(METRES, tags))
    with pytest.raises(DataError, match=rf"depth\.tiff: .*{reason}"):
        depth(tmp_path / "depth.tiff")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow may mention the damage
def test_random_corruption_of_tiffs_gives_metres_or_a_data_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    whole = tiff(METRES, {259: 8})
    reasons = []
    for turn in range(300):
        content = bytearray(whole[: generator.integers(1, len(whole))] if turn % 8 == 0 else whole)
        for position in generator.integers(0, len(content), 1 + turn % 4):
            content[position] = generator.integers(0, 256)
        (tmp_path / "depth.tiff").write_bytes(content)
        try:
            depth(tmp_path / "depth.tiff")
        except DataError as error:
            reasons.append(str(error))
    assert 100 < len(reasons) < 300
    assert all("depth.tiff" in reason for reason in reasons)


def tiff(values: np.ndarray, tags: dict[int, int | None]) -> bytes:
    """Floating point in one strip, deflated where the tags say so."""
    data = values.tobytes()
    data = zlib.compress(data) if tags.get(259) in (8, 32946) else data
    height, width = values.shape
    usual = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 339: 3}
    entries = {tag: number for tag, number in {**usual, 279: len(data), **tags}.items() if number is not None}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(entries)) + table + bytes(4)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"


@pytest.mark.parametrize("name", ["photo.jpg", "depth.png", "depth.npy", "depth.npz", "depth.tiff", "depth.pgm"])
@pytest.mark.parametrize(
    ("content", "step"),
    [
        (POINTER, "git lfs pull"),
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"PK\x03\x04 and more", "zip"),
        (b"\x89HDF\r\n", "HDF5"),
    ],
)
def test_what_a_file_really_is_is_said(tmp_path: Path, name: str, content: bytes, step: str) -> None:
    if content.startswith(b"PK") and name.endswith(".npz"):
        step = "cannot be read"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: .*{step}"):
        read_rgb(tmp_path / name) if name.startswith("photo") else depth(tmp_path / name)


@pytest.mark.parametrize("name", ["photo.jpg", "depth.png"])
def test_cut_files_are_told_as_cut(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 60000, (40, 50), dtype=np.uint16)
    Image.fromarray(noise if name.endswith("png") else (noise >> 8).astype(np.uint8)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{name}: .*cut short after {len(whole) // 2} bytes"):
        read_rgb(tmp_path / name) if name.startswith("photo") else depth(tmp_path / name)


def test_a_link_to_nothing_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "depth.npy").symlink_to(tmp_path / "annex")
    with pytest.raises(DataError, match=r"depth\.npy: no such file.*link to .*annex, which is absent"):
        depth(tmp_path / "depth.npy")


def test_a_grey_photo_of_twelve_bits_is_told_what_to_do(tmp_path: Path) -> None:
    save(tmp_path / "photo.png", np.array([[4000, 5]], dtype=np.uint16), None)
    with pytest.raises(DataError, match=r"photo\.png: .*swapped.*12 bits .*4000.*values >> 4, as uint8"):
        read_rgb(tmp_path / "photo.png")


def deep_png(values: np.ndarray) -> bytes:
    """RGB of 16 bits, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_of_twelve_bits_is_not_read_as_black(tmp_path: Path) -> None:
    values = np.full((2, 3, 3), 4000, dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(deep_png(values))
    with pytest.raises(DataError, match=r"deep\.png: .*16 bits a channel"):
        read_rgb(tmp_path / "deep.png")
    (tmp_path / "full.png").write_bytes(deep_png(values << 4))
    np.testing.assert_array_equal(read_rgb(tmp_path / "full.png"), (values << 4 >> 8).astype(np.uint8))
