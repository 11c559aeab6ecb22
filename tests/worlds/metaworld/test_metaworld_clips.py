"""Clips: what their poses, depth and masks say of each other, and the files that they are kept in."""

from __future__ import annotations

import doctest
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from reprojection import against_before

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_worlds.clip import FRAME_S, ClipFrame
from spaceclip_worlds.metaworld import clip, clip_order, kept, key
from spaceclip_worlds.metaworld.clip import MetaWorldClip
from spaceclip_worlds.metaworld.clip_file import read_clip, write_clip
from spaceclip_worlds.metaworld.clip_order import ClipOrder
from spaceclip_worlds.metaworld.film import MOUNTS, Shot, film
from spaceclip_worlds.metaworld.states import TaskStates

Draw = Callable[..., object]
Filmed = Callable[..., list[ClipFrame]]
HW = (96, 112)


@pytest.fixture(scope="module")
def filmed(draw: Draw) -> Filmed:
    """Clips of a task that no head is trained on, each drawn once in this process."""
    known: dict[Shot, list[ClipFrame]] = {}

    def of(camera: str, *, length: int = 24, seed: int = 2) -> list[ClipFrame]:
        wanted = shot(camera, length=length, seed=seed)
        if wanted not in known:
            known[wanted] = list(film(wanted))
        return known[wanted]

    return of


def arrays(frame: ClipFrame) -> tuple[np.ndarray, ...]:
    return frame.image, frame.depth_m, frame.moved, frame.camera_to_world


def bits(frames: list[ClipFrame] | tuple[ClipFrame, ...]) -> list[tuple[object, ...]]:
    """Everything that a clip holds, for equality."""
    return [(*(array.tobytes() for array in arrays(one)), one.intrinsics, one.time_s) for one in frames]


def shot(camera: str, *, length: int = 24, seed: int = 2) -> Shot:
    return Shot("hammer-v3", camera, length, seed, HW)


def in_camera(frame: ClipFrame, point_m: np.ndarray) -> np.ndarray:
    seen: np.ndarray = np.linalg.inv(frame.camera_to_world) @ [*point_m, 1.0]
    return seen[:3]


def depth_of(frame: ClipFrame, point_m: np.ndarray) -> float:
    return float(in_camera(frame, point_m)[2])


def shown(values: np.ndarray, frame: ClipFrame, point_m: np.ndarray) -> float:
    """The value at the pixel of a point of the world."""
    at = in_camera(frame, point_m)
    column, row = (frame.intrinsics.matrix().numpy() @ (at / at[2]))[:2].astype(int)
    return float(values[row, column])


@pytest.mark.slow
class TestWhatIsFilmed:
    @pytest.mark.parametrize("camera", MOUNTS)
    def test_what_has_not_moved_was_where_it_is(self, filmed: Filmed, camera: str) -> None:
        frames = filmed(camera)
        ratios = [against_before(one, other, ~other.moved) for one, other in itertools.pairwise(frames)]
        assert all(np.median(np.abs(ratio - 1.0)) < 1e-4 for ratio in ratios)
        everywhere = np.concatenate(ratios)
        seen = everywhere[everywhere > 0.99]  # the others were hidden
        assert len(seen) > 0.9 * len(everywhere)
        assert np.mean(seen < 1.01) > 0.995  # nothing was seen through

    def test_a_camera_that_stands_sees_all_change_in_what_moved(self, filmed: Filmed) -> None:
        frames = filmed("static")
        for one, other in itertools.pairwise(frames):
            came_nearer = other.depth_m < one.depth_m - 1e-4
            assert not (came_nearer & ~other.moved).any()
        assert any((other.depth_m < one.depth_m - 1e-2).any() for one, other in itertools.pairwise(frames))

    @pytest.mark.parametrize("camera", ["static", "moving"])
    def test_what_the_simulator_moved_is_marked_and_nothing_else(self, filmed: Filmed, camera: str) -> None:
        states = TaskStates("hammer-v3", shot(camera).generator(), errors=(0.0, 0.0))
        bodies, before_m = states.environment.data, None
        for number, frame in enumerate(filmed(camera)):
            states.advance(4 * (number + 1))
            hammer_m, block_m = bodies.body("hammer").xpos.copy(), bodies.body("box").xpos.copy()
            if before_m is not None and np.linalg.norm(hammer_m - before_m) > 0.01:
                assert shown(frame.moved, frame, hammer_m)
                assert abs(shown(frame.depth_m, frame, hammer_m) / depth_of(frame, hammer_m) - 1.0) < 0.06
            assert not shown(frame.moved, frame, block_m)
            before_m = hammer_m

    def test_cameras_move_as_their_names_say(self, filmed: Filmed) -> None:
        places = {name: np.stack([one.camera_to_world for one in filmed(name)]) for name in MOUNTS}
        steps_m = {name: np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1) for name, path in places.items()}
        assert steps_m["static"].max() == 0.0
        assert 0.0 < steps_m["moving"].min() < steps_m["moving"].max() < 0.03
        assert steps_m["wrist"].max() > 0.01
        assert np.linalg.norm(places["moving"][:, :3, 3] - places["static"][:, :3, 3], axis=1).max() < 0.4

    def test_the_same_comes_again(self, filmed: Filmed) -> None:
        again = list(film(shot("moving", length=4)))
        assert bits(again) == bits(filmed("moving")[:4])
        assert not set(bits(again)) & set(bits(list(film(shot("moving", length=4, seed=3)))))

    def test_the_drawing_process_draws_what_this_one_would(
        self, filmed: Filmed, drawing_process: None, tmp_path: Path
    ) -> None:
        wanted = MetaWorldClip("hammer-v3", "wrist", 4, 2, *HW, cache=str(tmp_path))
        assert bits(wanted.frames()) == bits(filmed("wrist")[:4])

    def test_the_longest_clip_fits_into_an_episode(self, draw: Draw) -> None:
        environment = TaskStates("hammer-v3", np.random.default_rng(0)).environment
        assert round(FRAME_S / environment.dt, 6) == 4
        assert environment.max_path_length > 4 * clip._LONGEST

    def test_without_opengl_an_error_names_what_is_missing(
        self, drawing_process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        pytest.importorskip("metaworld.env_dict", reason="Meta-World is not installed")
        kept.studio().close()
        monkeypatch.setenv("MUJOCO_GL", "paint")
        with pytest.raises(ConfigError, match="MUJOCO_GL"):
            MetaWorldClip("hammer-v3", length=1, cache=str(tmp_path)).frames()


def painted(shot: Shot) -> Iterator[ClipFrame]:
    """Frames that are as fast as noise."""
    generator = shot.generator()
    for number in range(shot.length):
        depth_m = generator.uniform(0.5, 3.0, shot.image_hw).astype(np.float32)
        depth_m[0] = np.inf
        pose = np.eye(4)
        pose[:3, 3] = generator.normal(size=3)
        image = generator.integers(0, 256, (*shot.image_hw, 3), dtype=np.uint8)
        moved = generator.random(shot.image_hw) < 0.3
        yield ClipFrame(image, depth_m, moved, Intrinsics.from_fovy(1.0, shot.image_hw), pose, number * FRAME_S)


SHOT = Shot("reach-v3", "static", 3, 0, (9, 11))


class TestFiles:
    def test_the_same_bits_come_back(self, tmp_path: Path) -> None:
        frames = list(painted(SHOT))
        write_clip(tmp_path / "new" / "clip", frames, shows="a reach")
        assert bits(read_clip(tmp_path / "new" / "clip", shows="a reach")) == bits(frames)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip"]

    def test_any_damage_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "clip"
        write_clip(path, list(painted(SHOT)), shows="a reach")
        whole = path.read_bytes()
        for place in range(0, len(whole), 29):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(CheckpointError, match="clip"):
                read_clip(path, shows="a reach")

    def test_a_file_of_something_else_is_an_error(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "clip", list(painted(SHOT)), shows="a reach")
        with pytest.raises(CheckpointError, match=r"'a reach'.*'a push'"):
            read_clip(tmp_path / "clip", shows="a push")


class StandIn:
    """Films in this process, and counts."""

    def __init__(self) -> None:
        self.orders: list[ClipOrder] = []

    def carry_out(self, order: ClipOrder) -> None:
        self.orders.append(order)
        order.carry_out()


@pytest.fixture
def drawer(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    found = StandIn()
    monkeypatch.setattr(key, "versions", lambda: "metaworld 3.1.1, mujoco 3.3.0")
    monkeypatch.setattr(kept, "studio", lambda: found)
    monkeypatch.setattr(clip_order, "film", painted)
    key.clip_key.cache_clear()
    yield found
    key.clip_key.cache_clear()


def small(
    folder: Path, task: str = "reach-v3", camera: str = "static", *, length: int = 3, seed: int = 0
) -> MetaWorldClip:
    return MetaWorldClip(task, camera, length, seed, height_px=9, width_px=11, cache=str(folder))


class TestKeeping:
    def test_a_clip_is_drawn_once(self, drawer: StandIn, tmp_path: Path) -> None:
        first, again = small(tmp_path).frames(), small(tmp_path).frames()
        assert bits(first) == bits(again) == bits(list(painted(SHOT)))
        assert len(drawer.orders) == 1

    def test_what_decides_a_clip_decides_its_file(self, drawer: StandIn, tmp_path: Path) -> None:
        others = [
            small(tmp_path, "push-v3"),
            small(tmp_path, camera="wrist"),
            small(tmp_path, length=4),
            small(tmp_path, seed=1),
            MetaWorldClip("reach-v3", "static", 3, height_px=11, width_px=9, cache=str(tmp_path)),
        ]
        for one in (small(tmp_path), *others):
            one.frames()
        assert len({order.file for order in drawer.orders}) == len({order.shows for order in drawer.orders}) == 6

    def test_what_is_damaged_is_drawn_again(
        self, drawer: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = bits(small(tmp_path).frames())
        [path] = tmp_path.rglob("*.safetensors")
        path.write_bytes(path.read_bytes()[:-1])
        with caplog.at_level(logging.WARNING):
            assert bits(small(tmp_path).frames()) == whole
        assert "drawn again" in caplog.text
        assert len(drawer.orders) == 2

    def test_of_two_that_want_a_clip_one_draws(
        self, drawer: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small(tmp_path).frames()
        monkeypatch.setattr(clip_order, "film", lambda _: pytest.fail("it is there already"))
        drawer.orders[0].carry_out()

    def test_an_order_survives_its_way_to_the_drawing_process(self, drawer: StandIn, tmp_path: Path) -> None:
        small(tmp_path).frames()
        [order] = drawer.orders
        fields = {"shot": {**vars(order.shot), "image_hw": list(order.shot.image_hw)}, "folder": order.folder}
        assert ClipOrder.of({**fields, "key": order.key}) == order

    def test_every_file_that_a_key_leaves_out_is_there(self) -> None:
        folder = Path(key.__file__).parent
        for name in (*key._DRAW_NOTHING, *key._OF_CLIPS):
            assert (folder / name).is_file()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", "hamer-v3", r"task of a metaworld clip .*did you mean 'hammer-v3'"),
        ("camera", "wirst", r"camera of a metaworld clip .*did you mean 'wrist'"),
        ("length", 0, "length of a metaworld clip"),
        ("length", 121, "length of a metaworld clip"),
        ("seed", -1, "seed of a metaworld clip"),
        ("height_px", 7, "height_px of a metaworld clip"),
        ("width_px", 4096, "width_px of a metaworld clip"),
        ("cache", "", "cache of a metaworld clip"),
    ],
)
def test_impossible_clips_are_refused_by_name(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MetaWorldClip(**{"task": "hammer-v3", field: value})  # type: ignore[arg-type]


def test_its_example_runs() -> None:
    assert doctest.testmod(clip).failed == 0
