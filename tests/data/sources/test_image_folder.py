from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError

HEIGHT, WIDTH = 4, 5


def photo(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), value, dtype=np.uint8)).save(path)


def depth(path: Path, millimetres: int = 1000, hw: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(hw, millimetres)
    if path.suffix == ".npy":
        np.save(path, (values / 1000).astype(np.float16))
    else:
        Image.fromarray(values.astype(np.uint16) if path.suffix == ".png" else (values / 1000).astype(np.float32)).save(
            path
        )


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """Four pairs, in folders within folders, of every depth format; names are not in the order of making."""
    folder = tmp_path / "kitchen"
    for value, (stem, photo_suffix, depth_suffix) in enumerate(
        [("b/2", ".png", ".npy"), ("a/c/1", ".jpg", ".tiff"), ("10", ".PNG", ".png"), ("9.5", ".bmp", ".png")]
    ):
        photo(folder / "rgb" / f"{stem}{photo_suffix}", 10 * value)
        depth(folder / "depth" / f"{stem}{depth_suffix}", 1000 * (value + 1))
    return folder


def test_pairs_are_found_by_name_and_sorted(kitchen: Path) -> None:
    source = ImageFolder(kitchen)
    samples = [source[i] for i in range(len(source))]
    assert [sample.name for sample in samples] == ["10.PNG", "9.5.bmp", "a/c/1.jpg", "b/2.png"]
    assert [int(sample.image[0, 0, 0]) for sample in samples] == [20, 30, 10, 0]
    assert [float(sample.depth_m[0, 0]) for sample in samples] == [3.0, 4.0, 2.0, 1.0]
    assert all(sample.depth_m.dtype == np.float32 and sample.intrinsics is None for sample in samples)
    assert source.skipped == ()


def test_units_are_those_of_the_png_alone(kitchen: Path) -> None:
    source = ImageFolder(kitchen, units_per_metre=500.0)
    assert [float(source[i].depth_m[0, 0]) for i in range(4)] == [6.0, 8.0, 2.0, 1.0]
    assert source.units_per_metre == 500.0
    for file in (kitchen / "depth").glob("*.png"):
        file.unlink()
        depth(file.with_suffix(".npy"))
    metres = ImageFolder(kitchen, units_per_metre=500.0)
    assert metres.units_per_metre is None
    with pytest.raises(ConfigError, match="units_per_metre"):
        ImageFolder(kitchen, units_per_metre=0.0)


def test_hidden_and_other_files_are_ignored(kitchen: Path) -> None:
    for name in ("rgb/.hidden.png", "rgb/.cache/3.png", "depth/._10.png", "rgb/notes.txt", "depth/10.json", "top.png"):
        (kitchen / name).parent.mkdir(exist_ok=True)
        (kitchen / name).write_bytes(b"")
    assert len(ImageFolder(kitchen)) == 4


def test_other_folders_may_hold_photos_and_depth(kitchen: Path, tmp_path: Path) -> None:
    (kitchen / "rgb").rename(kitchen / "colour")
    (kitchen / "depth").rename(tmp_path / "teacher")
    source = ImageFolder(kitchen, images="colour", depth=str(tmp_path / "teacher"))
    assert float(source[0].depth_m[0, 0]) == 3.0


def test_linked_folders_are_followed_but_not_in_circles(kitchen: Path, tmp_path: Path) -> None:
    for kind, make in (("rgb", photo), ("depth", depth)):
        make(tmp_path / f"far_{kind}" / "0.png")
        os.symlink(tmp_path / f"far_{kind}", kitchen / kind / "far")
        os.symlink(kitchen / kind, kitchen / kind / "a" / "back")
    source = ImageFolder(kitchen)
    assert [source[i].name for i in range(len(source))] == ["10.PNG", "9.5.bmp", "a/c/1.jpg", "b/2.png", "far/0.png"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rgb/z/7.png", r"z/7: photo without a depth map, expected one of that name in .*kitchen/depth"),
        ("depth/z/7.npy", r"z/7: depth map without a photo, expected one of that name in .*kitchen/rgb"),
    ],
)
def test_what_has_no_partner_is_named_or_dropped(
    kitchen: Path, caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    (photo if name.startswith("rgb") else depth)(kitchen / name)
    with pytest.raises(DataError, match=rf"kitchen: 1 of 5 images cannot be used; repair(.|\n)*{reason}"):
        ImageFolder(kitchen)
    with caplog.at_level(logging.WARNING):
        source = ImageFolder(kitchen, skip_bad=True)
    assert len(source) == 4
    assert [label for label, _ in source.skipped] == ["z/7"]
    assert "1 of 5 images cannot be used and are skipped" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rgb/10.jpg", r"10: 2 photos of one name in .*rgb \(10\.PNG, 10\.jpg\); keep one"),
        ("depth/10.tiff", r"10: 2 depth maps of one name in .*depth \(10\.png, 10\.tiff\); keep one"),
    ],
)
def test_two_files_of_one_name_are_refused(kitchen: Path, name: str, reason: str) -> None:
    (photo if name.startswith("rgb") else depth)(kitchen / name)
    with pytest.raises(DataError, match=reason):
        ImageFolder(kitchen)
    assert len(ImageFolder(kitchen, skip_bad=True)) == 3


def test_many_without_partner_are_counted_and_the_first_shown(kitchen: Path) -> None:
    for index in range(7):
        photo(kitchen / "rgb" / f"x{index}.png")
    with pytest.raises(DataError, match="7 of 11 images") as caught:
        ImageFolder(kitchen)
    message = str(caught.value)
    assert all((f"x{index}: photo without" in message) == (index < 5) for index in range(7))
    assert "and 2 more" in message


def test_places_that_are_no_such_folder_are_named(kitchen: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: no such folder; expected photos in .*nothing/rgb and depth maps"):
        ImageFolder(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"kitchen/colour: no such folder"):
        ImageFolder(kitchen, images="colour")
    with pytest.raises(DataError, match=r"kitchen/teacher: no such folder"):
        ImageFolder(kitchen, depth="teacher")
    (tmp_path / "bare" / "rgb").mkdir(parents=True)
    (tmp_path / "bare" / "depth").mkdir()
    with pytest.raises(DataError, match=r"bare: expected photos, each with a depth map .* no usable one"):
        ImageFolder(tmp_path / "bare", skip_bad=True)


@pytest.mark.parametrize(("images", "depths"), [(".", "depth"), ("rgb", "."), ("rgb", "rgb"), ("rgb/a", "rgb")])
def test_photos_and_depth_are_kept_apart(kitchen: Path, images: str, depths: str) -> None:
    with pytest.raises(DataError, match="one lies in the other"):
        ImageFolder(kitchen, images=images, depth=depths)


def test_intrinsics_are_those_of_every_depth_map(kitchen: Path) -> None:
    (kitchen / "intrinsics.json").write_text(json.dumps({"fx": 525, "fy": 524.5, "cx": 2.25, "cy": 1.5}))
    source = ImageFolder(kitchen)
    assert {source[i].intrinsics for i in range(4)} == {Intrinsics(525.0, 524.5, 2.25, 1.5, (HEIGHT, WIDTH))}


@pytest.mark.parametrize("scale", [1, 4])
def test_intrinsics_may_tell_of_which_size_they_are(kitchen: Path, scale: int) -> None:
    camera = {"fx": 525, "fy": 524.5, "cx": 2.25, "cy": 1.5, "width": WIDTH, "height": HEIGHT}
    (kitchen / "intrinsics.json").write_text(json.dumps({key: value * scale for key, value in camera.items()}))
    source = ImageFolder(kitchen)
    assert {source[i].intrinsics for i in range(4)} == {Intrinsics(525.0, 524.5, 2.25, 1.5, (HEIGHT, WIDTH))}


def test_intrinsics_of_another_shape_are_refused(kitchen: Path) -> None:
    camera = {"fx": 525, "fy": 524.5, "cx": 2.25, "cy": 1.5, "width": 10 * HEIGHT, "height": 10 * WIDTH}
    (kitchen / "intrinsics.json").write_text(json.dumps(camera))
    with pytest.raises(DataError, match=f"images of {10 * WIDTH}x{10 * HEIGHT}"):
        ImageFolder(kitchen)[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not valid JSON"),
        ("[525, 525]", "expected an object"),
        ('{"fx": 1, "fy": 1, "cx": 1}', r"intrinsics\.json: cy must be a number"),
        ('{"fx": 0, "fy": 1, "cx": 1, "cy": 1}', r"intrinsics\.json: fx must be a number from 0\.001"),
        ('{"fx": "1", "fy": 1, "cx": 1, "cy": 1}', "fx must be a number .* got '1'"),
        (
            '{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "distortion_model": "fisheye"}',
            "distortion_model 'fisheye'.*Undistort",
        ),
        (
            '{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "distortion_coefficients": [0.1, 0, 0, 0]}',
            r"\[0\.1, 0, 0, 0\].*Undistort",
        ),
        ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "width": 5}', "width and height go together"),
        ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "width": 5, "height": 0}', "width and height must be an integer"),
        ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "cz": 1}', r"unknown key 'cz' \(did you mean"),
    ],
)
def test_intrinsics_that_cannot_be_are_refused(kitchen: Path, content: str, reason: str) -> None:
    (kitchen / "intrinsics.json").write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        ImageFolder(kitchen)
    assert "intrinsics.json" in str(caught.value)
    assert "expected fx, fy, cx and cy in pixels of the depth maps" in str(caught.value)


def test_bad_content_is_found_on_reading_and_dropped_on_request(kitchen: Path) -> None:
    depth(kitchen / "depth" / "b" / "2.npy", hw=(HEIGHT, WIDTH + 1))
    depth(kitchen / "depth" / "10.png", 0)
    np.save(kitchen / "depth" / "b" / "2.npy", np.full((HEIGHT, WIDTH + 1), 1.0))
    source = ImageFolder(kitchen)
    with pytest.raises(DataError, match=r"kitchen: .*10\.png has no pixel of known depth"):
        source[0]
    with pytest.raises(DataError, match=r"kitchen: .*2\.npy is 4x6 \(HxW\) but .*2\.png is 4x5"):
        source[3]
    with pytest.raises(DataError, match="2 of 4 images cannot be used"):
        source.validated()
    readable = ImageFolder(kitchen, skip_bad=True).validated()
    assert [readable[i].name for i in range(len(readable))] == ["9.5.bmp", "a/c/1.jpg"]
    assert [label for label, _ in readable.skipped] == ["10.PNG", "b/2.png"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "c":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"a/c: cannot list this folder \(Permission denied\)"):
        ImageFolder(kitchen)


@pytest.mark.real
def test_a_real_folder(real_data: Path) -> None:
    source = ImageFolder(real_data / "kitti", units_per_metre=256.0).validated()
    assert (len(source), source.units_per_metre) == (3, 256.0)
    for index in range(3):
        depth_m = source[index].depth_m
        assert (depth_m > 0).mean() > 0.15
        assert 5.0 < np.median(depth_m[depth_m > 0]) < 30.0
