"""The source and its files, with a stand-in for the process that draws."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.data import DepthSource
from spaceclip_plugin.data.sample import fingerprint, photo_of
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_worlds.metaworld import kept, key
from spaceclip_worlds.metaworld import order as orders
from spaceclip_worlds.metaworld.episode import FRAMES, VARIED, Episode, Picture
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.order import Order
from spaceclip_worlds.metaworld.source import MetaWorldScenes
from spaceclip_worlds.metaworld.tasks import TRAINING_TASKS

HW = (6, 8)


def painted(episode: Episode, picture: Picture) -> Iterator[Frame]:
    """Frames that are as fast as noise."""
    generator = episode.generator()
    for number in range(FRAMES):
        depth_m = generator.uniform(0.5, 3.0, picture.image_hw).astype(np.float32)
        pose = np.eye(4)
        pose[0, 3] = number
        image = generator.integers(0, 256, (*picture.image_hw, 3), dtype=np.uint8)
        yield Frame(image, depth_m, Intrinsics.from_fovy(1.0, picture.image_hw), picture.cameras[0], pose)


class StandIn:
    """Draws in this process, and counts."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    def carry_out(self, order: Order) -> None:
        self.orders.append(order)
        order.carry_out()


@pytest.fixture
def drawer(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    found = StandIn()
    monkeypatch.setattr(key, "versions", lambda: "metaworld 3.1.1, mujoco 3.3.0")
    monkeypatch.setattr(kept, "studio", lambda: found)
    monkeypatch.setattr(orders, "draw_episode", painted)
    key.picture_key.cache_clear()
    yield found
    key.picture_key.cache_clear()


def scenes(
    folder: Path, *, count: int = 10, seed: int = 0, split: str = "train", camera: str = "corner2"
) -> MetaWorldScenes:
    return MetaWorldScenes(count, seed, split, TRAINING_TASKS, Picture(HW, (camera,), VARIED), folder)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_is_a_depth_source(drawer: StandIn, tmp_path: Path) -> None:
    opened = scenes(tmp_path)
    some: DepthSource = opened
    samples = [some[index] for index in range(len(some))]
    assert len({sample.name for sample in samples}) == 10
    assert samples[5].name.startswith("metaworld ")
    assert samples[5].intrinsics is not None
    assert opened.pose(5)[0, 3] == 1.0
    for index in (-1, 10):
        with pytest.raises(IndexError, match=str(index)):
            opened[index]


def test_an_episode_is_drawn_once(drawer: StandIn, tmp_path: Path) -> None:
    first = [scenes(tmp_path)[index] for index in range(10)]
    assert len(drawer.orders) == 3
    assert len(files(tmp_path)) == 3 * FRAMES
    again = [scenes(tmp_path)[index] for index in (9, 0, 5)]
    assert len(drawer.orders) == 3
    for one, index in zip(again, (9, 0, 5), strict=True):
        np.testing.assert_array_equal(one.image, first[index].image)
        assert one.depth_m.tobytes() == first[index].depth_m.tobytes()
        assert one.intrinsics == first[index].intrinsics


def test_what_decides_a_picture_decides_its_file(drawer: StandIn, tmp_path: Path) -> None:
    others = [scenes(tmp_path, seed=1), scenes(tmp_path, split="validation"), scenes(tmp_path, camera="corner")]
    sources = [scenes(tmp_path), *others]
    for one in sources:
        one[0]
    assert len(drawer.orders) == len(sources)
    assert len({order.file(0) for order in drawer.orders}) == len(sources)
    prints = {fingerprint(one, index) for one in sources for index in range(10)}
    assert len(prints) == len({photo_of(one) for one in prints}) == 10 * len(sources)
    assert fingerprint(scenes(tmp_path, count=1000), 3) == fingerprint(scenes(tmp_path), 3)
    assert len(drawer.orders) == len(sources)


def test_what_is_damaged_is_drawn_again(drawer: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = scenes(tmp_path)[2]
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        again = scenes(tmp_path)[2]
    assert "drawn again" in caplog.text
    assert again.depth_m.tobytes() == whole.depth_m.tobytes()
    assert len(drawer.orders) == 2


def test_what_a_killed_process_left_is_removed(drawer: StandIn, tmp_path: Path) -> None:
    scenes(tmp_path)[0]
    kept, lost = files(tmp_path)[0], files(tmp_path)[1]
    lost.rename(lost.with_name(".000000-1.0123456789ab.tmp.safetensors"))
    scenes(tmp_path)[1]
    assert len(drawer.orders) == 2
    assert len(files(tmp_path)) == FRAMES
    assert {path.name for path in kept.parent.iterdir()} == {".lock", *(path.name for path in files(tmp_path))}


def test_of_two_that_want_an_episode_one_draws(
    drawer: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes(tmp_path)[0]
    [order] = drawer.orders
    monkeypatch.setattr(orders, "draw_episode", lambda *_: pytest.fail("it is there already"))
    order.carry_out()


def test_a_folder_that_cannot_be_is_told(drawer: StandIn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cache:"):
        scenes(tmp_path / "file")[0]


def test_other_seeds_are_named(tmp_path: Path) -> None:
    assert "metaworld:train:varied:10:4" in scenes(tmp_path).named_with(4)
    assert "seed: 4" in scenes(tmp_path).named_with(4)


def test_nothing_to_draw_with_is_told(monkeypatch: pytest.MonkeyPatch, drawer: StandIn, tmp_path: Path) -> None:
    def nothing(*_: object) -> Iterator[Frame]:
        raise ConfigError("MuJoCo cannot draw here")

    monkeypatch.setattr(orders, "draw_episode", nothing)
    with pytest.raises(ConfigError, match="cannot draw"):
        scenes(tmp_path)[0]
    assert files(tmp_path) == []
