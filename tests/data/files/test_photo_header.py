"""Size and orientation of a photo from its header agree with its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceclip_plugin.data.files.images import PhotoHeader, read_header, read_rgb
from spaceclip_plugin.errors import DataError


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_the_pixels(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(path, exif=exif)
    header = read_header(path)
    assert header == PhotoHeader((6, 10), orientation)
    assert header.upright_hw == ((10, 6) if orientation >= 5 else (6, 10))
    assert read_rgb(path).shape == (*header.upright_hw, 3)


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_a_number_that_is_no_orientation_turns_nothing(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(path, exif=exif)
    assert read_header(path) == PhotoHeader((6, 10), 1)
    assert read_rgb(path).shape == (6, 10, 3)


def test_no_tag(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(tmp_path / "photo.png")
    assert read_header(tmp_path / "photo.png") == PhotoHeader((6, 10), 1)


@pytest.mark.parametrize("content", [None, b"", b"not a photo", b"\x89PNG\r\n\x1a\n cut"])
def test_what_cannot_be_opened_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"photo\.jpg"):
        read_header(path)
