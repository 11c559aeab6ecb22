"""What is drawn agrees with the simulator, with what LeRobot shows to policies, and with itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spaceclip_worlds.metaworld.easel import Easel
from spaceclip_worlds.metaworld.episode import FRAMES, STANDARD, VARIED, Episode, Picture
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.looks import vary
from spaceclip_worlds.metaworld.states import TaskStates
from spaceclip_worlds.opengl import load_mujoco

pytestmark = pytest.mark.slow

Draw = Callable[..., list[Frame]]
HW = (96, 128)
EVERY = ("corner", "corner2", "corner3", "topview", "gripperPOV")


def setting(task: str, visit: int = 0, *, steps: int = 40) -> TaskStates:
    """A task on its way."""
    states = TaskStates(task, Episode(3, "train", task, visit).generator())
    states.advance(steps)
    return states


def seen(states: TaskStates, camera: str, *, look: str = STANDARD) -> Frame:
    easel = Easel(states.environment, Picture(HW, (camera,), look))
    try:
        return easel.draw(np.random.default_rng(1))
    finally:
        easel.close()


def rays(frame: Frame) -> npt.NDArray[np.float64]:
    """(H, W, 3) in the world, one metre long along the optical axis."""
    height, width = frame.depth_m.shape
    camera = frame.intrinsics
    along = np.ones((height, width, 3))
    along[..., 0] = (np.arange(width) + 0.5 - camera.cx_px) / camera.fx_px
    along[..., 1] = ((np.arange(height) + 0.5 - camera.cy_px) / camera.fy_px)[:, None]
    return along @ frame.camera_to_world[:3, :3].T


def cast(states: TaskStates, frame: Frame, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Depth by MuJoCo's own ray-caster, infinite for a miss; it does not know the marks of goals."""
    mujoco, directions = load_mujoco(), rays(frame)
    shown, which = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.zeros(1, np.int32)
    model, data = states.environment.model, states.environment.data
    found = [
        mujoco.mj_ray(model, data, frame.camera_to_world[:3, 3], directions[row, column], shown, 1, -1, which)
        for row, column in pixels
    ]
    return np.array([np.inf if depth < 0 else depth for depth in found])


@pytest.mark.parametrize("camera", EVERY)
@pytest.mark.parametrize(("task", "look"), [("door-open-v3", VARIED), ("window-open-v3", STANDARD)])
def test_depth_and_pose_agree_with_the_simulators_own_rays(draw: Draw, task: str, look: str, camera: str) -> None:
    states = setting(task)
    frame = seen(states, camera, look=look)
    pixels = np.random.default_rng(0).integers(0, HW, (400, 2))
    drawn, true = frame.depth_m[tuple(pixels.T)], cast(states, frame, pixels)
    near = (true > 0) & (true < 0.03)  # nearer than the renderer draws, as a finger is to the camera between them
    same = np.isclose(drawn, true, rtol=1e-4)[~near]
    assert same.mean() > 0.97  # the others: marks of goals, and rays that graze an edge


def test_a_pane_has_the_depth_of_what_is_behind_it(draw: Draw) -> None:
    states = setting("window-open-v3")
    frame = seen(states, "corner2")
    model, data = states.environment.model, states.environment.data
    [pane, *_] = np.flatnonzero((model.geom_group == 5) & (model.geom_matid >= 0))
    at = np.linalg.inv(frame.camera_to_world) @ [*data.geom_xpos[pane], 1.0]
    column, row = (frame.intrinsics.matrix().numpy() @ (at[:3] / at[2]))[:2].astype(int)
    assert frame.depth_m[row, column] > at[2] + 0.02


def test_the_fingers_are_where_the_simulator_has_them(draw: Draw) -> None:
    states = setting("reach-v3", steps=0)
    frame = seen(states, "corner2", look=VARIED)
    for finger in ("leftEndEffector", "rightEndEffector"):
        at = np.linalg.inv(frame.camera_to_world) @ [*states.environment.data.site(finger).xpos, 1.0]
        column, row = (frame.intrinsics.matrix().numpy() @ (at[:3] / at[2]))[:2].astype(int)
        assert at[2] - 0.03 < frame.depth_m[row, column] < at[2]  # the mark lies within the finger


@pytest.mark.parametrize("camera", ["corner", "corner2", "corner3"])
def test_pictures_are_upright(draw: Draw, camera: str) -> None:
    frame = seen(setting("reach-v3"), camera, look=VARIED)
    heights = frame.camera_to_world[2, 3] + rays(frame)[..., 2] * frame.depth_m
    table = np.abs(heights) < 0.01
    above = (heights > 0.15) & np.isfinite(heights)
    assert np.nonzero(table)[0].mean() > np.nonzero(above)[0].mean() + 5  # rows are counted from the top


def test_policies_see_the_same_in_lerobot(draw: Draw) -> None:
    """As lerobot/envs/metaworld.py of LeRobot 0.6 does it: corner2 is moved, its pictures are flipped both ways."""
    states = setting("drawer-open-v3")
    ours = seen(states, "corner2")
    mujoco, model = load_mujoco(), states.environment.model
    camera = model.camera("corner2").id
    assert camera == 2
    model.cam_pos[camera], model.cam_fovy[camera] = [0.75, 0.075, 0.7], 60.0
    mujoco.mj_camlight(model, states.environment.data)
    with mujoco.Renderer(model, *HW) as renderer:
        option = mujoco.MjvOption()
        option.geomgroup[5] = 1
        renderer.update_scene(states.environment.data, "corner2", option)
        theirs = np.flip(renderer.render(), (0, 1))
    difference = np.abs(ours.image.astype(int) - theirs.astype(int))
    assert (difference <= 2).mean() > 0.98  # edges are sampled on the other side
    assert difference.mean() < 1.0


@pytest.mark.parametrize("task", ["drawer-open-v3", "coffee-pull-v3"])
def test_other_looks_change_no_depth(draw: Draw, task: str) -> None:
    plain, changed = setting(task), setting(task)
    before = plain.environment.model.tex_data.copy()
    vary(changed.environment.model, np.random.default_rng(4))
    assert (changed.environment.model.tex_data != before).any()
    one, other = seen(plain, "corner2"), seen(changed, "corner2")
    assert one.depth_m.tobytes() == other.depth_m.tobytes()
    assert np.abs(one.image.astype(int) - other.image.astype(int)).mean() > 10


def test_an_episode_does_not_depend_on_what_was_drawn_before(draw: Draw) -> None:
    def bits(frames: list[Frame]) -> list[Any]:
        return [(f.image.tobytes(), f.depth_m.tobytes(), f.camera_to_world.tobytes(), f.camera) for f in frames]

    first = bits(draw("stick-pull-v3", visit=1, cameras=EVERY))
    draw("stick-pull-v3", visit=2)
    draw("sweep-v3")
    assert bits(draw("stick-pull-v3", visit=1, cameras=EVERY)) == first
    assert len(first) == len(set(first)) == FRAMES
    assert bits(draw("stick-pull-v3", visit=1, split="validation", cameras=EVERY)) != first


def test_where_nothing_is_depth_is_infinite(draw: Draw) -> None:
    frame = seen(setting("reach-v3"), "corner")
    nothing = np.isinf(frame.depth_m)
    assert 0.05 < nothing.mean() < 0.6
    assert frame.image[nothing].std(axis=0).max() < 10 < frame.image[~nothing].std(axis=0).max()  # the sky is plain
    assert frame.depth_m[~nothing].max() < 10.0


def test_large_pictures_are_drawn_too(draw: Draw) -> None:
    [frame, *_] = draw(image_hw=(500, 700))
    assert frame.image.shape == (500, 700, 3)
