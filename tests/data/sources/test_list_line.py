"""Lines of a list whose names have spaces, accents and other habits in them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from exif_files import save

from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.data.sources.list_line import joined_names, words_of
from spaceclip_plugin.errors import DataError

NFC, NFD = (unicodedata.normalize(form, "küche/é") for form in ("NFC", "NFD"))


def pair(folder: Path, rgb: str, depth: str, millimetres: int = 2000) -> None:
    save(folder / rgb, np.zeros((4, 5, 3), np.uint8), None)
    save(folder / depth, np.full((4, 5), millimetres, np.uint16), None)


def listed(folder: Path, line: str) -> DepthList:
    (folder / "list.txt").write_text(line + "\n", encoding="utf-8")
    return DepthList(folder / "list.txt")


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    pair(tmp_path, "rgb/my photo.png", "depth/my depth.png")
    pair(tmp_path, "rgb/0.png", "depth/0.png", 3000)
    pair(tmp_path, "rgb/bob's #1.png", "depth/bob's #1.png", 4000)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "metres", "focal_px"),
    [
        ('"rgb/my photo.png" "depth/my depth.png" 518.8', 2.0, 518.8),
        ("'rgb/my photo.png' 'depth/my depth.png'", 2.0, None),
        ('"rgb/0.png" depth/0.png 500 # a comment', 3.0, 500.0),
        ("rgb/my photo.png\tdepth/my depth.png\t518.8", 2.0, 518.8),
        ("rgb/my photo.png\tdepth/my depth.png", 2.0, None),
        ("rgb/0.png\tdepth/0.png   518.8", 3.0, 518.8),
        ('"rgb/bob\'s #1.png" "depth/bob\'s #1.png" 7', 4.0, 7.0),
    ],
)
def test_names_with_spaces_are_quoted_or_set_apart_by_tabs(
    kitchen: Path, line: str, metres: float, focal_px: float | None
) -> None:
    sample = listed(kitchen, line)[0]
    assert (sample.depth_m == metres).all()
    assert (None if sample.intrinsics is None else sample.intrinsics.fx_px) == focal_px


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("rgb/my photo.png depth/0.png", '"rgb/my photo.png" depth/0.png'),
        ("rgb/my photo.png depth/my depth.png", '"rgb/my photo.png" "depth/my depth.png"'),
        ("rgb/my photo.png depth/my depth.png 518.8", '"rgb/my photo.png" "depth/my depth.png" 518.8'),
        ("rgb/0.png depth/my depth.png", 'rgb/0.png "depth/my depth.png"'),
        ("rgb/my absent.png depth/0.png", '"my photo.png"'),
        ("rgb/0.png depth/my absent.png", '"my photo.png"'),
    ],
)
def test_a_space_in_a_name_is_told_as_one(kitchen: Path, line: str, advice: str) -> None:
    with pytest.raises(DataError, match=r"list\.txt:1: .*space in a name.*quote it") as caught:
        listed(kitchen, line)
    assert advice in str(caught.value)
    assert "focal length" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("rgb/0.png depth/0.png wide", "expected a positive focal length .* got 'wide'"),
        ("rgb/0.png,depth/0.png", "white space, not by commas"),
        ("rgb\\0.png depth\\0.png", "separated by /"),
    ],
)
def test_other_faults_are_told_as_what_they_are(kitchen: Path, line: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        listed(kitchen, line)
    assert "space in a name" not in str(caught.value)


def test_words_and_names() -> None:
    files = {"a", "b c", "d"}
    assert words_of("  a\t d  #x y", files.__contains__) == ["a", "d"]
    assert words_of("#", files.__contains__) == words_of("", files.__contains__) == []
    assert words_of('"" d', files.__contains__) == ["", "d"]
    assert words_of('it"s d', files.__contains__) == ['it"s', "d"]
    assert joined_names(["b", "c", "a", "5"], files.__contains__) == ['"b c"', "a", "5"]
    assert joined_names(["a", "d"], files.__contains__) is None
    assert joined_names(["x"] * 50, files.__contains__) is None


@pytest.mark.parametrize(("on_disk", "written"), [(NFC, NFD), (NFD, NFC), (NFC, NFC)])
def test_accents_match_composed_or_not(tmp_path: Path, on_disk: str, written: str) -> None:
    pair(tmp_path, f"rgb/{on_disk}.png", f"depth/{on_disk}.png")
    assert (listed(tmp_path, f"rgb/{written}.png depth/{written}.png")[0].depth_m == 2.0).all()


def test_a_name_that_is_spelt_exactly_so_goes_before(tmp_path: Path) -> None:
    for name, millimetres in ((NFC, 2000), (NFD, 3000)):
        pair(tmp_path, f"rgb/{name}.png", f"depth/{name}.png", millimetres)
    assert (listed(tmp_path, f"rgb/{NFD}.png depth/{NFD}.png")[0].depth_m == 3.0).all()


@pytest.mark.parametrize(("photo", "depth"), [(NFC, NFD), (NFD, NFC)])
def test_a_folder_pairs_them(tmp_path: Path, photo: str, depth: str) -> None:
    pair(tmp_path, f"rgb/{photo}.png", f"depth/{depth}.png")
    assert (ImageFolder(tmp_path)[0].depth_m == 2.0).all()


def test_a_folder_given_as_a_list_is_named(kitchen: Path) -> None:
    with pytest.raises(DataError, match=rf"expected a text file .* folder:{kitchen}"):
        DepthList(kitchen)


def test_a_list_that_is_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(DataError, match=r"list\.txt: .*git lfs pull"):
        DepthList(tmp_path / "list.txt")
