"""Reading LeRobot data sets, on a stand-in for its class; test_depth_dataset.py is on the real one."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_stand_in import KEY, StandIn, save

from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData, LeRobotDepth
from spaceclip_plugin.errors import ConfigError, DataError

DEPTH = f"{KEY}_depth"
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
MILLIMETRES = np.random.default_rng(1).integers(1, 9000, (6, 4, 5)).astype(np.uint16)


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    save(tmp_path / "kitchen", IMAGES, MILLIMETRES)
    return tmp_path / "kitchen"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", SimpleNamespace(LeRobotDataset=StandIn))


def dataset(kitchen: Path, unit: str = "mm") -> StandIn:
    return StandIn("kitchen", kitchen, depth_output_unit=unit)


def as_video(frames: StandIn, values: list[float], info: dict[str, Any] | None = None) -> LeRobotDepth:
    """A source whose frame 0 has these values in its first row, read from a depth video."""
    frames.features[DEPTH] = {"dtype": "video", "info": {"is_depth_map": True, **(info or {})}}
    frames.items[0][DEPTH] = torch.full((1, 4, 5), 10.0 if frames.depth_output_unit == "mm" else 0.01)
    frames.items[0][DEPTH][0, 0] = torch.tensor(values)
    return LeRobotDepth(frames)


@pytest.mark.parametrize("unit", ["mm", "m"])
def test_frames_are_exact_in_either_unit(kitchen: Path, unit: str) -> None:
    source = LeRobotDepth(dataset(kitchen, unit), camera="front")
    assert len(source) == 6
    for index in range(6):
        np.testing.assert_array_equal(source[index].image, IMAGES[index])
        np.testing.assert_array_equal(source[index].depth_m, MILLIMETRES[index] / np.float32(1000))
    assert source[3].name == f"kitchen episode 1 frame 1 {KEY}"
    assert source[3].intrinsics is None


def test_every_so_many_frames(kitchen: Path) -> None:
    source = LeRobotDepth(dataset(kitchen), stride=4)
    assert len(source) == 2
    np.testing.assert_array_equal(source[1].image, IMAGES[4])
    for stride in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="stride must be an integer from 1"):
            LeRobotDepth(dataset(kitchen), stride=stride)  # type: ignore[arg-type]


def test_eight_bit_photos_stay_as_they_are(kitchen: Path) -> None:
    frames = dataset(kitchen)
    frames.items[0][KEY] = torch.from_numpy(IMAGES[0]).permute(2, 0, 1)
    np.testing.assert_array_equal(LeRobotDepth(frames)[0].image, IMAGES[0])


def test_photos_are_rounded_to_the_nearest_value(kitchen: Path) -> None:
    frames = dataset(kitchen)
    frames.items[0][KEY] = torch.linspace(0, 1, 60).reshape(3, 4, 5)
    expected = np.rint(np.linspace(0, 255, 60)).astype(np.uint8).reshape(3, 4, 5)
    np.testing.assert_array_equal(LeRobotDepth(frames)[0].image, expected.transpose(1, 2, 0))


def test_unknown_depth_of_images_is_zero_and_ten_metres_are_ten(kitchen: Path) -> None:
    frames = dataset(kitchen, "m")
    frames.items[0][DEPTH][0, 0] = torch.tensor([math.nan, math.inf, -math.inf, -1.0, 0.0])
    frames.items[0][DEPTH][0, 1] = torch.tensor([0.01, 10.0, 0.009, 65.535, 65.534])
    depth_m = LeRobotDepth(frames)[0].depth_m
    assert depth_m[0].tolist() == [0.0] * 5
    # 65.535 m is what 16-bit millimetres saturate at.
    np.testing.assert_array_equal(depth_m[1], np.array([0.01, 10.0, 0.009, 0.0, 65.534], dtype=np.float32))


def steps_m(low_m: float, high_m: float, shift_m: float | None) -> np.ndarray:
    """Every step of a depth video, in metres: logarithmic with a shift, or linear."""
    if shift_m is None:
        return np.linspace(low_m, high_m, 4096)
    return np.exp(np.linspace(math.log(low_m + shift_m), math.log(high_m + shift_m), 4096)) - shift_m


@pytest.mark.parametrize(
    ("low_m", "high_m", "shift_m"), [(0.01, 10.0, 3.5), (0.3, 2.0, 0.0), (0.2, 4.0, 1.0), (0.01, 10.0, None)]
)
def test_both_ends_of_a_depth_video_are_unknown_and_nothing_else(
    kitchen: Path, low_m: float, high_m: float, shift_m: float | None
) -> None:
    steps = steps_m(low_m, high_m, shift_m)
    info = {"video.depth_min": low_m, "video.depth_max": high_m, "video.shift": shift_m, "video.use_log": True}
    if shift_m is None:
        info["video.use_log"] = False
    elif (low_m, high_m, shift_m) == (0.01, 10.0, 3.5):
        info = {}  # what lerobot takes where nothing is said
    seen = np.array([steps[0], steps[1], steps[2000], steps[-2], steps[-1]], dtype=np.float32)
    depth_m = as_video(dataset(kitchen, "m"), seen.tolist(), info)[0].depth_m
    np.testing.assert_array_equal(depth_m[0], np.where([0, 1, 1, 1, 0], seen, np.float32(0)))
    assert not depth_m[1:].any()


def test_rounding_errors_at_the_ends_decide_nothing(kitchen: Path) -> None:
    ends = [0.01 + 3e-7, 0.01 - 3e-7, 10.0 - 1e-6, 10.0 + 1e-6, 5.0]
    assert as_video(dataset(kitchen, "m"), ends)[0].depth_m[0].tolist() == [0, 0, 0, 0, 5.0]


def test_ends_rounded_to_millimetres_are_unknown_too(kitchen: Path) -> None:
    seen = as_video(dataset(kitchen, "mm"), [10.0, 11.0, 2500.0, 9996.0, 10000.0])[0].depth_m[0]
    np.testing.assert_array_equal(seen, np.array([0, 0.011, 2.5, 9.996, 0], dtype=np.float32))
    # Steps of 0.1 mm: the ends come as 300 and 700 mm, and so do the steps beside them.
    fine = {"video.depth_min": 0.2996, "video.depth_max": 0.7004, "video.use_log": False}
    seen = as_video(dataset(kitchen, "mm"), [300.0, 301.0, 500.0, 699.0, 700.0], fine)[0].depth_m[0]
    np.testing.assert_array_equal(seen, np.array([0, 0.301, 0.5, 0.699, 0], dtype=np.float32))


def test_the_older_spelling_of_the_depth_marker(kitchen: Path) -> None:
    frames = dataset(kitchen)
    frames.features[DEPTH] = {"dtype": "video", "info": {"video.is_depth_map": True}}
    assert LeRobotDepth(frames).camera == KEY


def add_camera(frames: StandIn, name: str, *, photos: bool = True) -> None:
    key = f"observation.images.{name}"
    frames.features[f"{key}_depth"] = dict(frames.features[DEPTH])
    if photos:
        frames.features[key] = dict(frames.features[KEY])
    for item in frames.items:
        item[f"{key}_depth"], item[key] = item[DEPTH] * 2, item[KEY]


def test_one_of_several_cameras_is_chosen(kitchen: Path) -> None:
    frames = dataset(kitchen)
    add_camera(frames, "wrist")
    with pytest.raises(DataError, match="kitchen: 2 cameras have depth; choose one with camera: front, wrist"):
        LeRobotDepth(frames)
    for name in ("wrist", "observation.images.wrist"):
        source = LeRobotDepth(frames, camera=name)
        np.testing.assert_array_equal(source[0].depth_m, MILLIMETRES[0] * 2 / np.float32(1000))
    with pytest.raises(DataError, match=r"no camera 'wrst' with depth \(did you mean 'wrist'\?\); known: front, wrist"):
        LeRobotDepth(frames, camera="wrst")


def test_depth_without_photos_is_no_camera(kitchen: Path) -> None:
    frames = dataset(kitchen)
    add_camera(frames, "lidar", photos=False)
    assert LeRobotDepth(frames).camera == KEY
    del frames.features[KEY]
    with pytest.raises(
        DataError, match=r"kitchen: expected depth of a camera under 'observation\.images\.CAMERA_depth'"
    ):
        LeRobotDepth(frames)
    blind = dataset(kitchen)
    blind.features[DEPTH]["info"] = None
    with pytest.raises(DataError, match=rf"the features are {KEY}, {DEPTH}, action"):
        LeRobotDepth(blind)


def test_depth_of_unknown_unit_is_refused(kitchen: Path) -> None:
    frames = dataset(kitchen)
    frames.features[DEPTH]["info"] = {"is_depth_map": True}
    with pytest.raises(DataError, match=rf'{DEPTH} does not say its unit; add "depth_unit"'):
        LeRobotDepth(frames)
    with pytest.raises(DataError, match="depth is returned in 'cm', expected 'm' or 'mm'"):
        LeRobotDepth(dataset(kitchen, "cm"))


@pytest.mark.parametrize(
    ("key", "values", "reason"),
    [
        (DEPTH, torch.zeros(1, 4, 5), "no pixel of known depth; leave this frame out"),
        (DEPTH, torch.ones(1, 5, 5), r"depth is 5x5 \(HxW\) but the photo is 4x5"),
        (
            DEPTH,
            torch.ones(2, 1, 4, 5),
            r"expected depth of shape \(1, H, W\), got \(2, 1, 4, 5\); open .* without delta",
        ),
        (DEPTH, torch.ones(1, 1, 4, 5), r"expected depth of shape \(1, H, W\), got \(1, 1, 4, 5\)"),
        (KEY, torch.ones(3, 1, 4, 5), r"expected a photo of shape \(3, H, W\), got \(3, 1, 4, 5\)"),
        (DEPTH, torch.ones(3, 4, 5), r"expected depth of shape \(1, H, W\), got \(3, 4, 5\)"),
        (DEPTH, None, r"expected depth of shape \(1, H, W\), got NoneType"),
        (KEY, torch.ones(1, 4, 5), r"expected a photo of shape \(3, H, W\), got \(1, 4, 5\)"),
        (KEY, torch.full((3, 4, 5), 1.01), "expected a photo with values from 0 to 1"),
        (KEY, torch.full((3, 4, 5), -0.01), "expected a photo with values from 0 to 1"),
        (KEY, torch.full((3, 4, 5), math.nan), "expected a photo with values from 0 to 1"),
    ],
)
def test_frames_that_cannot_be_used_are_named_or_dropped(kitchen: Path, key: str, values: Any, reason: str) -> None:
    frames = dataset(kitchen)
    frames.items[2][key] = values
    with pytest.raises(DataError, match=rf"kitchen episode 1 frame 0 {KEY}: {reason}"):
        LeRobotDepth(frames)[2]
    readable = LeRobotDepth(frames, skip_bad=True).validated()
    assert len(readable) == 5
    assert [label for label, _ in readable.skipped] == ["frame 000002"]


def test_what_the_reader_raises_is_a_data_error(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: StandIn, index: int) -> dict[str, Any]:
        raise RuntimeError("moov atom not found")

    monkeypatch.setattr(StandIn, "__getitem__", broken)
    with pytest.raises(DataError, match=r"kitchen: cannot read frame 000001 \(moov atom not found\)"):
        LeRobotDepth(dataset(kitchen))[1]


def test_a_data_set_without_frames_is_refused(kitchen: Path) -> None:
    frames = dataset(kitchen)
    frames.items.clear()
    with pytest.raises(DataError, match="kitchen: expected frames with a photo and depth"):
        LeRobotDepth(frames)


@pytest.mark.usefixtures("installed")
def test_a_folder_is_opened_in_metres_and_by_episode(kitchen: Path) -> None:
    spec = LeRobotData(str(kitchen), camera="front", stride=2, episodes="0,2")
    source = spec.open(units_per_metre=256.0)
    assert (len(source), source.dataset.depth_output_unit) == (2, "m")
    np.testing.assert_array_equal(source[1].image, IMAGES[4])
    np.testing.assert_array_equal(source[1].depth_m, MILLIMETRES[4] / np.float32(1000))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("episodes", "reason"),
    [("1-3", "there is no episode 3; expected numbers from 0 to 2"), ("7", "there is no episode 7;")],
)
def test_episodes_that_are_not_there_are_named(kitchen: Path, episodes: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        LeRobotData(str(kitchen), episodes=episodes).open(units_per_metre=1000.0)


@pytest.mark.parametrize(
    ("episodes", "numbers"),
    [("3", [3]), (3, [3]), ("0-2", [0, 1, 2]), ("4,0-1,1", [0, 1, 4]), ("5-5", [5]), (None, None)],
)
def test_episodes_are_numbers_and_ranges(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch, episodes: Any, numbers: list[int] | None
) -> None:
    seen: list[Any] = []

    def opening(repo_id: str, root: str, episodes: list[int], depth_output_unit: str, return_uint8: bool) -> StandIn:
        seen.append(episodes)
        return StandIn(repo_id, root)

    module = SimpleNamespace(LeRobotDataset=opening)
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", module)
    (kitchen / "meta" / "info.json").write_text("{}")  # does not say how many there are
    spec = LeRobotData(str(kitchen), episodes=episodes)
    assert spec.episodes == (None if episodes is None else str(episodes))
    if numbers is not None and numbers[-1] > 2:
        with pytest.raises(
            DataError, match=f"^{kitchen}: there is no episode {numbers[-1]}; expected numbers from 0 to 2"
        ):
            spec.open(units_per_metre=1000.0)
    else:
        assert len(spec.open(units_per_metre=1000.0)) == 6
    assert seen == [numbers]


@pytest.mark.parametrize("episodes", ["", "-1", "1-", "a", "1:3", "1, 2", "1,", True, 1.0, "9" * 50, "²"])
def test_episodes_that_cannot_be_are_refused(episodes: Any) -> None:
    with pytest.raises(ConfigError, match="episodes must be numbers and ranges, such as 0-39,45"):
        LeRobotData("org/name", episodes=episodes)
    with pytest.raises(ConfigError, match="the range 3-1 ends before it starts"):
        LeRobotData("org/name", episodes="0,3-1")


def test_ids_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert LeRobotData("org/name").resolved(tmp_path) == LeRobotData("org/name")
    assert LeRobotData("./org/name").resolved(tmp_path).path == str(tmp_path / "org" / "name")
    assert LeRobotData("name").resolved(tmp_path).path == str(tmp_path / "name")
    (tmp_path / "configs" / "org" / "name").mkdir(parents=True)
    local = LeRobotData("org/name").resolved(tmp_path / "configs")
    assert local.path == str(tmp_path / "configs" / "org" / "name")
    assert (local.title, LeRobotData("org/name").title) == ("name", "org/name")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("./nothing", "nothing: no such folder, and not the id of a data set on the Hub"),
        ("a/b/c", "a/b/c: no such folder, and not the id"),
        ("org/name", "org/name: cannot be opened .* not on the Hub, .*; nor is it a folder \\(org/name is"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=reason):
        LeRobotData(path).open(units_per_metre=1000.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("installed")
def test_a_folder_of_something_else_is_named(kitchen: Path) -> None:
    (kitchen / "meta" / "info.json").unlink()
    with pytest.raises(DataError, match=r"kitchen: expected a LeRobot data set, but there is no meta/info\.json"):
        LeRobotData(str(kitchen)).open(units_per_metre=1000.0)


def test_without_lerobot_the_message_says_what_to_install(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", None)
    with pytest.raises(DataError, match=r'needs lerobot: pip install "lerobot\[dataset\]>=0\.6"'):
        LeRobotData(str(kitchen)).open(units_per_metre=1000.0)


def test_an_older_lerobot_is_refused(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(repo_id: str, root: str | None = None, episodes: list[int] | None = None) -> StandIn:
        return StandIn(repo_id, root, episodes)

    module = SimpleNamespace(LeRobotDataset=older)
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", module)
    with pytest.raises(DataError, match=r"too old to read depth: pip install .*>=0\.6"):
        LeRobotData(str(kitchen)).open(units_per_metre=1000.0)
