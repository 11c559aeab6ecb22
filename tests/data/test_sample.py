from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceclip_plugin.data.sample import DepthSample, fingerprint, photo_of
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pairs."""
    for kind in ("rgb", "depth"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index in range(2):
        image = np.full((4, 5, 3), index, dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "rgb" / f"{index}.png")
        Image.fromarray(np.full((4, 5), 1000, dtype=np.uint16)).save(tmp_path / "data" / "depth" / f"{index}.png")
    return tmp_path / "data"


def listed(folder: Path, text: str, name: str = "list.txt", units_per_metre: float = 1000.0) -> DepthList:
    (folder / name).write_text(text)
    return DepthList(folder / name, units_per_metre=units_per_metre)


def pair(index: int, focal: str = "") -> str:
    return f"rgb/{index}.png depth/{index}.png {focal}\n"


def test_a_pair_of_files_has_one_fingerprint_in_every_list_and_folder(folder: Path) -> None:
    one, other = listed(folder, pair(0) + pair(1)), listed(folder, "# head\n" + pair(1), name="other.txt")
    assert fingerprint(one, 1) == fingerprint(other, 0) == fingerprint(ImageFolder(folder), 1)
    assert fingerprint(one, 0) != fingerprint(one, 1)


def test_a_copy_has_the_fingerprint_of_the_original(folder: Path) -> None:
    before = fingerprint(listed(folder, pair(0)), 0)
    for kind in ("rgb", "depth"):
        (folder / kind / "copy.png").write_bytes((folder / kind / "0.png").read_bytes())
    assert fingerprint(listed(folder, "rgb/copy.png depth/copy.png\n"), 0) == before


def test_what_changes_the_meaning_changes_the_fingerprint(folder: Path) -> None:
    plain = fingerprint(listed(folder, pair(0)), 0)
    others = [
        fingerprint(listed(folder, pair(0), units_per_metre=256.0), 0),
        fingerprint(listed(folder, pair(0, "500")), 0),
        fingerprint(listed(folder, pair(0, "500.5")), 0),
        fingerprint(listed(folder, "rgb/1.png depth/0.png\n"), 0),
    ]
    (folder / "intrinsics.json").write_text('{"fx": 500, "fy": 500, "cx": 2.5, "cy": 2.5}')
    others.append(fingerprint(ImageFolder(folder), 0))
    Image.fromarray(np.full((4, 5), 1001, dtype=np.uint16)).save(folder / "depth" / "0.png")
    others.append(fingerprint(listed(folder, pair(0)), 0))
    assert len({plain, *others}) == 7
    assert fingerprint(listed(folder, pair(1), units_per_metre=1000), 0) == fingerprint(listed(folder, pair(1)), 0)


def test_the_unit_says_nothing_about_metres(folder: Path) -> None:
    for index in range(2):
        (folder / "depth" / f"{index}.png").unlink()
        np.save(folder / "depth" / f"{index}.npy", np.full((4, 5), 1.5, dtype=np.float32))
    one, other = ImageFolder(folder, units_per_metre=1000.0), ImageFolder(folder, units_per_metre=256.0)
    assert fingerprint(one, 0) == fingerprint(other, 0) != fingerprint(one, 1)


def test_a_file_that_went_away_is_named(folder: Path) -> None:
    source = listed(folder, pair(0))
    (folder / "depth" / "0.png").unlink()
    with pytest.raises(DataError, match=r"list\.txt:1: cannot read .*depth/0\.png \(No such file"):
        fingerprint(source, 0)


class Single:
    """A source of one sample that knows no fingerprint."""

    def __init__(self, sample: DepthSample) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> DepthSample:
        return self.sample


def test_other_sources_are_known_by_their_arrays() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    depth_m = np.linspace(1, 2, 20, dtype=np.float32).reshape(4, 5)
    camera, other_camera = (Intrinsics(focal, 500.0, 2.5, 2.0, (4, 5)) for focal in (500.0, 501.0))
    changed = image.copy()
    changed[3, 4, 2] += 1
    nudged = depth_m.copy()
    nudged[3, 4] = np.nextafter(nudged[3, 4], np.float32(9))
    samples = [
        DepthSample(image, depth_m, "a"),
        DepthSample(changed, depth_m, "a"),
        DepthSample(image, nudged, "a"),
        DepthSample(image, depth_m, "a", camera),
        DepthSample(image, depth_m, "a", other_camera),
        DepthSample(image.reshape(5, 4, 3), depth_m.reshape(5, 4), "a"),
    ]
    prints = [fingerprint(Single(sample), 0) for sample in samples]
    assert len(set(prints)) == len(samples)
    renamed = DepthSample(np.asfortranarray(image), np.asfortranarray(depth_m), "b")
    assert fingerprint(Single(renamed), 0) == prints[0]


def test_a_photo_is_known_whatever_depth_it_goes_with(folder: Path) -> None:
    one = fingerprint(listed(folder, pair(0)), 0)
    for text, units in ((pair(0, "500"), 1000.0), (pair(0), 256.0), ("rgb/0.png depth/1.png\n", 1000.0)):
        assert photo_of(fingerprint(listed(folder, text, units_per_metre=units), 0)) == photo_of(one)
    assert photo_of(fingerprint(listed(folder, "rgb/1.png depth/0.png\n"), 0)) != photo_of(one)
    image = np.zeros((4, 5, 3), np.uint8)
    samples = [DepthSample(image, np.full((4, 5), depth_m, np.float32), "x") for depth_m in (1, 2)]
    first, second = fingerprint(samples, 0), fingerprint(samples, 1)
    assert first != second
    assert photo_of(first) == photo_of(second)
