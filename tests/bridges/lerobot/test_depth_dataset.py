"""Depth of data sets that lerobot itself wrote: as images and as video, in millimetres and in metres."""

from __future__ import annotations

import math
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData, LeRobotDepth
from spaceclip_plugin.data.sample import fingerprint
from spaceclip_plugin.errors import DataError

WHY = "needs lerobot 0.6 or newer with its data sets: pip install lerobot[dataset]"
pytest.importorskip("lerobot.configs.video", reason=WHY)
for package in ("datasets", "av", "pandas"):
    pytest.importorskip(package, reason=WHY)
LeRobotDataset = pytest.importorskip("lerobot.datasets.lerobot_dataset").LeRobotDataset

KEY = "observation.images.front"
HEIGHT, WIDTH = 48, 64
EPISODES, FRAMES = 2, 3


@dataclass(frozen=True)
class Written:
    """A data set on the disk, and what was put into it.

    Attributes:
        root: its folder.
        images: (N, H, W, 3) uint8.
        depth: (N, H, W) as recorded, uint16 millimetres or float32 metres.
        video: whether photos and depth were kept as video.
    """

    root: Path
    images: np.ndarray
    depth: np.ndarray
    video: bool

    def open(self, **settings: Any) -> LeRobotDepth:
        return LeRobotData(str(self.root), **settings).open(units_per_metre=1.0)

    def metres(self) -> np.ndarray:
        """(N, H, W) float32 of what was recorded, 0 where that is unknown."""
        depth_m = self.depth / np.float32(1000) if self.depth.dtype == np.uint16 else self.depth
        return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.float32(0))


def recorded(root: Path, *, video: bool, dtype: type[np.generic]) -> Written:
    kind = "video" if video else "image"
    features = {
        KEY: {"dtype": kind, "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]},
        f"{KEY}_depth": {
            "dtype": kind,
            "shape": (HEIGHT, WIDTH, 1),
            "names": ["height", "width", "channels"],
            "info": {"is_depth_map": True},
        },
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    }
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 255, WIDTH)[None, :, None] * np.array([1.0, 0.5, 0.0])
    images = [np.broadcast_to(ramp, (HEIGHT, WIDTH, 3)).astype(np.uint8) // (i + 1) for i in range(EPISODES * FRAMES)]
    depths = []
    for _ in images:
        depth = generator.integers(1, 12000, (HEIGHT, WIDTH))
        depth[0, :6] = [0, 10, 11, 9990, 10000, 12000]
        depth = depth.astype(dtype)
        if dtype is np.float32:
            depth = (depth / 1000).astype(np.float32)
            depth[1, :3] = [math.nan, math.inf, -1.0]
        depths.append(depth)
    dataset = LeRobotDataset.create("someone/kitchen", fps=10, root=root, features=features, use_videos=video)
    still = np.zeros(2, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lerobot casts NaN to integers when it packs depth for a video
        for index, (image, depth) in enumerate(zip(images, depths, strict=True)):
            frame = {KEY: image, f"{KEY}_depth": depth[..., None], "observation.state": still, "action": still}
            dataset.add_frame({**frame, "task": "look"})
            if index % FRAMES == FRAMES - 1:
                dataset.save_episode(parallel_encoding=False)
        dataset.finalize()
    return Written(root, np.stack(images), np.stack(depths), video)


@pytest.fixture(
    scope="module",
    params=[(False, np.uint16), (False, np.float32), (True, np.uint16), (True, np.float32)],
    ids=["images-mm", "images-m", "video-mm", "video-m"],
)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    video, dtype = request.param
    return recorded(tmp_path_factory.mktemp("data") / "kitchen", video=video, dtype=dtype)


def quantised(depth_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lerobot's default video depth leaves of metres: 4096 logarithmic steps; 0 on the first and the last.

    And where that is certain: not halfway between two steps, where rounding errors choose.
    """
    steps = np.exp(np.linspace(math.log(3.51), math.log(13.5), 4096)) - 3.5
    place = (np.log(depth_m.astype(np.float64) + 3.5) - math.log(3.51)) / math.log(13.5 / 3.51) * 4095
    code = np.clip(np.rint(place), 0, 4095).astype(int)
    certain = np.abs(place - np.floor(place) - 0.5) > 0.01
    return np.where((code == 0) | (code == 4095), 0.0, steps[code]), certain


def test_every_frame_has_its_depth(written: Written) -> None:
    source = written.open()
    assert len(source) == EPISODES * FRAMES
    for index in range(len(source)):
        depth_m, truth_m = source[index].depth_m, written.metres()[index]
        assert depth_m.dtype == np.float32
        if not written.video:
            np.testing.assert_array_equal(depth_m, truth_m)
            continue
        expected, certain = quantised(truth_m)
        assert certain.mean() > 0.9
        np.testing.assert_array_equal((depth_m > 0)[certain], (expected > 0)[certain])
        np.testing.assert_allclose(depth_m[certain], expected[certain], atol=3e-6)
        assert np.abs(depth_m - truth_m)[depth_m > 0].max() < 0.0023  # half of the widest step


def test_what_is_unknown_is_zero(written: Written) -> None:
    first = written.open()[0].depth_m
    if written.video:
        assert (first[0, :6] > 0).tolist() == [False, False, True, True, False, False]
    else:
        np.testing.assert_array_equal(first[0, :6], np.array([0, 0.01, 0.011, 9.99, 10, 12], dtype=np.float32))
    if written.depth.dtype == np.float32:
        assert first[1, :3].tolist() == [0.0, 0.0, 0.0]


def test_photos_belong_to_their_depth(written: Written) -> None:
    source = written.open(camera="front")
    for index in range(len(source)):
        image = source[index].image
        assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
        if written.video:
            assert np.abs(image.astype(int) - written.images[index]).mean() < 6  # lossy; frames differ by far more
        else:
            np.testing.assert_array_equal(image, written.images[index])


def test_millimetres_give_the_same_metres(written: Written) -> None:
    opened = LeRobotDataset("someone/kitchen", root=written.root)
    assert opened.depth_output_unit == "mm"
    in_mm, in_m = LeRobotDepth(opened), written.open()
    for index in (0, 5):
        one, other = in_mm[index], in_m[index]
        np.testing.assert_array_equal(one.depth_m > 0, other.depth_m > 0)
        np.testing.assert_allclose(one.depth_m, other.depth_m, atol=0.00051 if written.video else 1e-6)
        np.testing.assert_allclose(one.image.astype(int), other.image.astype(int), atol=1)


def test_episodes_and_stride(written: Written) -> None:
    names = [written.open(episodes="1", stride=2)[i].name for i in range(2)]
    assert names == [f"kitchen (local) episode 1 frame {frame} {KEY}" for frame in (0, 2)]
    np.testing.assert_array_equal(written.open(episodes="1")[1].depth_m, written.open()[4].depth_m)
    with pytest.raises(DataError, match="there is no episode 2; expected numbers from 0 to 1"):
        written.open(episodes="1-2")


def test_the_contract_of_a_source(written: Written) -> None:
    source = written.open()
    copied = pickle.loads(pickle.dumps(source))
    prints = [fingerprint(source, index) for index in range(len(source))]
    assert prints == [fingerprint(copied, index) for index in range(len(source))]
    assert len(set(prints)) == len(source)
    np.testing.assert_array_equal(copied[2].depth_m, source[2].depth_m)
    with pytest.raises(IndexError):
        source[len(source)]
    assert len(written.open().validated()) == len(source)


@pytest.mark.parametrize("damage", ["cut", "absent", "no video"])
def test_a_damaged_data_set_is_an_error_and_not_fetched_from_the_hub(tmp_path: Path, damage: str) -> None:
    root = recorded(tmp_path / "kitchen", video=damage == "no video", dtype=np.uint16).root
    for file in list(root.rglob("*.mp4" if damage == "no video" else "data/**/*.parquet")):
        content = file.read_bytes()
        file.unlink()
        if damage == "cut":
            file.write_bytes(content[:200])
    with pytest.raises(DataError, match="kitchen: cannot be opened as a LeRobot data set, files are missing") as caught:
        LeRobotData(str(root)).open(units_per_metre=1.0)
    assert not any(word in str(caught.value) for word in ("a test tried", "offline", "huggingface.co"))


def test_a_damaged_video_is_an_error_of_its_frame(tmp_path: Path) -> None:
    written = recorded(tmp_path / "kitchen", video=True, dtype=np.uint16)
    source = written.open()
    for file in written.root.rglob("*.mp4"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"kitchen \(local\): cannot read frame 000002"):
        source[2]
