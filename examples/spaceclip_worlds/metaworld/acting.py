"""Tasks of Meta-World done from depth: what a scripted policy needs to know of each, and where it is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceclip_worlds.metaworld.belief import GOAL, OBJECT, SLOTS, Array, Belief, Sight, sight
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.live import LiveTask
from spaceclip_worlds.opengl import load_mujoco
from spaceclip_worlds.orbit import Orbit

MOST_STEPS = 125
"""Every scripted policy is done by then, or will not be."""
LOOKS_AT_START = 5
_APART = 6  # frames of the orbit from one look to the next: some 6 cm and 4 degrees
_TABLE_M = 0.0
_GRAZING = 0.1
_SITE = "site "
_OFF_PX = 0.5
_STILL = 10  # steps after which things lie on the table: Meta-World begins with some of them a little within it


@dataclass(frozen=True)
class Part:
    """What shows how far a place is.

    Attributes:
        names: bodies of Meta-World's model, and "site NAME" for marks.
        behind_m: the place is so much farther along the optical axis than the median of what is seen of these near it:
            the median over tuning seeds with true depth, for every source of depth the same.
    """

    names: tuple[str, ...]
    behind_m: float


@dataclass(frozen=True)
class DepthTask:
    """A task whose policy is told places that depth says.

    Attributes:
        parts: of `SLOTS` those that the policy reads.
        touch_m: see `Belief`.
        higher: see `LiveTask`.
    """

    parts: Mapping[str, Part]
    touch_m: tuple[float, float, float] | None = None
    higher: tuple[int, float] | None = None


_GOAL = Part((_SITE + "goal",), 0.014)
_UP_TO_10_CM = (2, 0.1)

DEPTH_TASKS = {
    "reach-v3": DepthTask({GOAL: _GOAL}),
    "pick-place-v3": DepthTask({OBJECT: Part(("obj",), 0.013), GOAL: _GOAL}),
    "pick-place-wall-v3": DepthTask({OBJECT: Part(("obj",), 0.013), GOAL: _GOAL}),
    "drawer-open-v3": DepthTask({OBJECT: Part(("drawer_link",), -0.049)}, (0.0, -0.02, 0.0), _UP_TO_10_CM),
    "button-press-topdown-wall-v3": DepthTask(
        {OBJECT: Part(("button", _SITE + "buttonStart"), 0.009)}, (0.0, -0.05, 0.034), _UP_TO_10_CM
    ),
    "button-press-v3": DepthTask(
        {OBJECT: Part(("button", _SITE + "buttonStart"), 0.009)}, (0.0, -0.042, -0.068), _UP_TO_10_CM
    ),
    "shelf-place-v3": DepthTask({OBJECT: Part(("obj",), 0.012), GOAL: Part((_SITE + "goal",), 0.012)}),
    "assembly-v3": DepthTask({OBJECT: Part(("asmbly_peg",), 0.013), GOAL: Part((_SITE + "pegTop",), 0.004)}),
}
"""In Meta-World's buttons and drawers are always at one height; here they stand up to 10 cm higher."""


@dataclass(frozen=True, eq=False)
class LookAt:
    """One look at the beginning of an episode.

    Attributes:
        frame: with the truth.
        sights: by slot.
    """

    frame: Frame
    sights: Mapping[str, Sight]


def looks_at(live: LiveTask, task: DepthTask, count: int = LOOKS_AT_START, *, seed: int | None = None) -> list[LookAt]:
    """Looks from where the camera is mounted, and from places it is then carried to while nothing moves.

    Args:
        live: as it starts. It is left where things lie still.
        task: what is looked for.
        count: of looks.
        seed: of where in the pictures things are taken to be: half a pixel off, as a segmentation may be; None: exactly
            where they are.

    Raises:
        DataError: a place is not in a picture.
    """
    for _ in range(_STILL):
        live.step(np.zeros(4))
    truth = {slot: live.observation[SLOTS[slot]].copy() for slot in task.parts}
    start = live.pose()
    orbit = Orbit.over(start, _TABLE_M, generator=np.random.default_rng(0))
    back = np.linalg.inv(orbit.pose(0)) @ start
    found, generator = [], None if seed is None else np.random.default_rng(seed)
    for number in range(count):
        frame = live.render(orbit.pose(_APART * number) @ back)
        shown, sights = live.parts(frame.camera_to_world), {}
        for slot, part in task.parts.items():
            right, down = (0.0, 0.0) if generator is None else generator.normal(0.0, _OFF_PX, 2).tolist()
            where = _seen(live, shown, part.names)
            sights[slot] = sight(
                truth[slot], where, frame.intrinsics, frame.camera_to_world, misjudged_px=(right, down)
            )
        found.append(LookAt(frame, sights))
    return found


def table_m(frame: Frame) -> npt.NDArray[np.float64]:
    """(H, W) depth of a table with nothing on it: what can be known without depth."""
    rows, columns = np.indices(frame.depth_m.shape) + 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    rays = pixels @ np.linalg.inv(frame.intrinsics.matrix().numpy()).T
    down = -(rays @ frame.camera_to_world[2, :3])
    height_m = frame.camera_to_world[2, 3] - _TABLE_M
    return np.asarray(height_m / np.maximum(down, _GRAZING))


def place_of(slot: str, task: DepthTask, seen: Sight, depth_m: npt.NDArray[np.floating]) -> Array:
    """(3,) of the world, where depth of a look puts a place.

    Raises:
        DataError: see `Sight.distance_m`.
    """
    return seen.place(seen.distance_m(depth_m) + task.parts[slot].behind_m)


def attempt(
    live: LiveTask,
    seed: int,
    task: DepthTask,
    places: Mapping[str, Array] | None,
    *,
    watch: Callable[[], object] | None = None,
) -> bool:
    """Start a task again and let its scripted policy try it: whether Meta-World calls it done.

    Args:
        live: the task.
        seed: of its start.
        task: what its policy is told.
        places: what it is told of them; None: the simulator's state, at every step.
        watch: called before every step, and at the end.
    """
    live.start(seed)
    expert, effort = live.expert(), 0.0
    belief = None if places is None else Belief(dict(places), task.touch_m)
    while not live.success and live.steps < MOST_STEPS:
        if watch is not None:
            watch()
        action = expert(live.observation if belief is None else belief.told(live.observation, effort))
        effort = float(action[3])
        live.step(action)
    if watch is not None:
        watch()
    return live.success


def _seen(live: LiveTask, shown: npt.NDArray[np.int32], names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(H, W) bool: where any of the parts of these names is seen."""
    kinds, model = load_mujoco().mjtObj, live.environment.model
    number, kind = shown[..., 0], shown[..., 1]
    seen = np.zeros(number.shape, dtype=bool)
    for name in names:
        if name.startswith(_SITE):
            seen |= (kind == kinds.mjOBJ_SITE) & (number == model.site(name.removeprefix(_SITE)).id)
        else:
            geoms = np.flatnonzero(model.geom_bodyid == model.body(name).id)
            seen |= (kind == kinds.mjOBJ_GEOM) & np.isin(number, geoms)
    return seen
