"""Depth for LeRobot's policies as two processor steps: one adds depth to observations, one guards actions by it.

    preprocessor, postprocessor = make_pre_post_processors(policy.config, dataset_stats=stats)
    add_depth(preprocessor, postprocessor, head, guard=DepthGuard(stop_below_m=0.2), actions="velocity")
    preprocessor.save_pretrained(folder), postprocessor.save_pretrained(folder)  # the head travels along

`make_pre_post_processors(config, pretrained_path=folder)` loads them again where this module was imported; LeRobot's
command lines import it by themselves where the distribution `lerobot_policy_spaceclip` is installed. Both steps read
the live policy's own vision tower. They find it at their first call, if it is the one policy of the process that the
head fits; else `connect(policy)` tells them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lerobot.processor import ObservationProcessorStep, PolicyActionProcessorStep, ProcessorStepRegistry
from torch import Tensor, nn

from spaceclip_plugin.depth_guard import HOLD, PASS, SLOW, DepthGuard, GuardDecision
from spaceclip_plugin.depth_map import DepthMap
from spaceclip_plugin.errors import CaptureError, ConfigError, HostError
from spaceclip_plugin.head import fields
from spaceclip_plugin.lerobot_head import HeadLike, HeadStep
from spaceclip_plugin.lerobot_link import DepthLink, camera_name, stacked
from spaceclip_plugin.views import checked_views

DEPTH_SUFFIX, AGE_SUFFIX = "_depth", "_depth_age"
VELOCITY, POSITION = ACTION_KINDS = ("velocity", "position")
"""What an action commands: a motion, of which zero is none (velocities, differences), or a place to go to."""

_BEFORE = "normalizer_processor"
_logger = logging.getLogger(__name__)


@ProcessorStepRegistry.register("spaceclip_depth")
class DepthProcessorStep(HeadStep, ObservationProcessorStep):  # type: ignore[misc]  # lerobot may be absent
    """Adds the depth of every camera to the observation, where images are still as cameras give them.

    For `observation.images.front` (B, 3, H, W) it adds

    - `observation.images.front_depth`: (B, 1, h, w) float32 metres, 0 where there is none, over the image as the
      policy's tower sees it (SmolVLA and pi0 pad it: `ImageMapping` leads back to the camera's pixels);
    - `observation.images.front_depth_age`: (B,) int64 host steps since the tower saw it, -1 where there is none yet.

    Policies take the inputs of their config, and these are none of them.

    This step runs before the policy. With `fresh=False` it tells what the tower saw last, one step ago or more: a
    policy that queues actions looks once per chunk. With `fresh=True` it runs the tower alone on the present images,
    at every step, which costs one run of it. They are prepared by the policy's own function where it has one (SmolVLA,
    pi0 and its family, X-VLA) and takes its images without normalisation, so that the depth is bit for bit that of the
    policy's own run; elsewhere by `data.preparation`, from images in [0, 1].

    Where it cannot be told which camera an image is of, or the depth cannot be read, there is none, and a log says so.
    """

    def __init__(
        self,
        head: HeadLike,
        *,
        cameras: Sequence[str] | None = None,
        fresh: bool = False,
        allow_untrained: bool = False,
    ) -> None:
        """Check the settings; the policy is looked for at the first observation.

        Args:
            head: to decode with, its config (the weights then come with the state), or its folder.
            cameras: names as in `observation.images.NAME`; None: those of the policy's config.
            fresh: run the tower alone on the images of this step.
            allow_untrained: take a head with random weights, whose depth means nothing.

        Raises:
            ConfigError: not a head, an untrained one, or camera names that cannot be.
            CheckpointError: the folder holds no head.
        """
        super().__init__(head, allow_untrained=allow_untrained)
        self.cameras = None if cameras is None else checked_views(cameras)
        self.fresh = fields.truth("fresh", fresh)
        self._told = False

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation with depth; the images themselves stay as they are.

        Raises:
            HostError: no policy or several to connect to, or images that cannot be prepared.
        """
        link = self._linked()
        wanted = [
            key
            for key in (link.cameras if self.cameras is None else observation)
            if isinstance(observation.get(key), Tensor) and (self.cameras is None or camera_name(key) in self.cameras)
        ]
        images = {key: observation[key] for key in wanted}
        for key, image in images.items():
            if image.ndim != 4 or image.shape[1] != 3:
                raise HostError(
                    f"{key} must be (B, 3, H, W), got {tuple(image.shape)}; put the depth step behind the one that "
                    "makes batches (to_batch_processor)"
                )
        if images:
            depth = self._depth(link, images)
            for key, (depth_m, age) in depth.items():
                observation[key + DEPTH_SUFFIX], observation[key + AGE_SUFFIX] = depth_m, age
        return observation

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON, the head as its config."""
        return {
            "head": self.head.config.to_dict(),
            "cameras": None if self.cameras is None else [*self.cameras],
            "fresh": self.fresh,
            "allow_untrained": self.allow_untrained,
        }

    def reset(self) -> None:
        """Forget the last episode's depth."""
        self._forget()

    def _depth(self, link: DepthLink, images: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        robots = len(next(iter(images.values())))
        found: dict[str, list[DepthMap | None]]
        try:
            link.begin_step(robots)
            if self.fresh:
                found = {key: [*depth] for key, depth in link.refresh(images).items()}
            else:
                found = {key: _newest(link, camera_name(key), robots) for key in images}
        except CaptureError as error:
            link.forget()
            _logger.warning("no depth: %s", error)
            found = {key: [None] * robots for key in images}
        if not self.fresh and not self._told and link.newest and not any(map(any, found.values())):
            self._told = True
            _logger.warning(
                "which camera the policy's image calls are of cannot be told: no depth; fresh=True gives it"
            )
        return {key: stacked(depth, link.image_hw, like=images[key]) for key, depth in found.items()}


@ProcessorStepRegistry.register("spaceclip_depth_guard")
class DepthGuardStep(HeadStep, PolicyActionProcessorStep):  # type: ignore[misc]
    """Lets the policy's actions pass, slows them down, or stops the robot, by what the policy's own tower just saw.

    It belongs at the end of the postprocessor, where actions are in the robot's units (behind the unnormalizer and
    what turns relative into absolute ones). Each row of a batch of actions is a robot and is decided by its own images.

    | Reaction | "velocity" actions | "position" actions |
    |---|---|---|
    | pass | the policy's | the policy's |
    | slow | times the factor | from the last one sent, the factor's share of the way |
    | hold | zero | the last one sent |
    | stop | `stop_action`, or zero | `stop_action`, or the last one sent |

    Before the first action of an episode nothing was sent: "position" then needs a `stop_action`, else HostError.

    A policy that queues more actions than the guard's `max_age` is stopped in the midst of every chunk. Give it fewer
    `n_action_steps`, or the guard fresh depth: `DepthProcessorStep(fresh=True)` serves both steps.

    Attributes:
        counts: how often each reaction was given since the step was made, over all robots.
        decisions: the last one of every robot.
    """

    def __init__(
        self,
        head: HeadLike,
        *,
        actions: str,
        guard: DepthGuard | Mapping[str, Any] | None = None,
        stop_action: Sequence[float] | None = None,
    ) -> None:
        """Check the settings; the policy is looked for at the first action.

        Args:
            head: to decode with, its config (the weights then come with the state), or its folder.
            actions: "velocity" or "position"; a wrong word makes a stop a motion.
            guard: its settings; None: the defaults. Without camera names, all of the policy's cameras must be there.
            stop_action: what to send at a stop, in the robot's units.

        Raises:
            ConfigError: not a head, an untrained one that the guard does not allow, or impossible settings.
            CheckpointError: the folder holds no head.
        """
        self.guard = (
            fields.build(DepthGuard, guard, where="guard") if isinstance(guard, Mapping) else guard or DepthGuard()
        )
        super().__init__(head, allow_untrained=self.guard.allow_untrained)
        self.actions = fields.choice("actions", actions, ACTION_KINDS)
        self.stop_action: tuple[float, ...] | None = None
        if stop_action is not None:
            self.stop_action = fields.reals("stop_action", stop_action, -1e6, 1e6, length=len(stop_action))
        self.counts: Counter[str] = Counter()
        self.decisions: tuple[GuardDecision, ...] = ()
        self._sent: Tensor | None = None

    def action(self, action: Tensor) -> Tensor:
        """The action to send, of the same shape; the policy's own bits where every robot may pass.

        Raises:
            HostError: no policy or several to connect to, or a stop before anything was sent.
            ConfigError: `stop_action` is of another length.
        """
        rows = action if action.ndim == 2 else action[None]
        if rows.ndim != 2:
            raise HostError(f"the guard takes actions (B, A), got shape {tuple(action.shape)}")
        before = self.decisions
        self.decisions = self._decided(len(rows))
        self.counts.update(decision.reaction for decision in self.decisions)
        for robot, decision in enumerate(self.decisions):
            if len(before) != len(self.decisions) or before[robot].reaction != decision.reaction:
                _logger.info("depth guard, robot %d: %s (%s)", robot, decision.reaction, decision.reason)
        last = self._sent if self._sent is not None and self._sent.shape == rows.shape else None
        sent = [self._acted(decision, row, None if last is None else last[i])
                for i, (decision, row) in enumerate(zip(self.decisions, rows, strict=True))]  # fmt: skip
        self._sent = torch.stack(sent)
        return self._sent.clone().reshape(action.shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON, the head as its config."""
        guard = dataclasses.asdict(self.guard)
        return {
            "head": self.head.config.to_dict(),
            "actions": self.actions,
            "guard": {name: [*value] if isinstance(value, tuple) else value for name, value in guard.items()},
            "stop_action": None if self.stop_action is None else [*self.stop_action],
        }

    def reset(self) -> None:
        """Another episode begins: nothing was seen, nothing was sent."""
        self.decisions, self._sent = (), None
        self._forget()

    def _decided(self, robots: int) -> tuple[GuardDecision, ...]:
        link = self._linked()
        guard = self.guard
        if not guard.cameras and link.names_images:
            guard = dataclasses.replace(guard, cameras=tuple(link.cameras.values()))
        elif not guard.cameras:
            guard = dataclasses.replace(guard, least_images=max(guard.least_images, len(link.cameras)))
        try:
            link.end_step(robots)
        except HostError as error:
            return (guard.unreadable(error),) * robots
        return tuple(guard.decide(newest.images, repeats=newest.repeats) for newest in link.newest)

    def _acted(self, decision: GuardDecision, row: Tensor, last: Tensor | None) -> Tensor:
        """What to send instead of, or as, one robot's action (A,)."""
        if decision.reaction == PASS:
            return row
        if decision.reaction == SLOW and self.actions == VELOCITY:
            return decision.factor * row
        if decision.reaction == SLOW and last is not None:
            return last + decision.factor * (row - last)
        if decision.reaction != HOLD and self.stop_action is not None:
            if len(self.stop_action) != len(row):
                raise ConfigError(f"stop_action has {len(self.stop_action)} values, the actions have {len(row)}")
            return row.new_tensor(self.stop_action)
        if self.actions == VELOCITY:
            return torch.zeros_like(row)
        if last is None:
            raise HostError(
                f"the guard says {decision.reaction!r} before any position was sent: {decision.reason}. There is no "
                "place to hold; give stop_action, the position to send then"
            )
        return last


def add_depth(
    preprocessor: Any,
    postprocessor: Any,
    head: HeadLike,
    *,
    guard: DepthGuard | None = None,
    actions: str | None = None,
    stop_action: Sequence[float] | None = None,
    cameras: Sequence[str] | None = None,
    fresh: bool = False,
    allow_untrained: bool = False,
    policy: nn.Module | None = None,
) -> None:
    """Put the depth step before a preprocessor's normalizer and, with a guard, the guard step at a postprocessor's end.

    Both pipelines are changed in place; nothing is changed where an error is raised.

    Args:
        preprocessor, postprocessor: of one policy, as `make_pre_post_processors` gives them.
        head: see `DepthProcessorStep`.
        guard: settings of the guard; None: actions are not guarded.
        actions: "velocity" or "position", see `DepthGuardStep`; must be said where there is a guard.
        stop_action: see `DepthGuardStep`.
        cameras: names as in `observation.images.NAME`, for both steps; None: all of the policy's.
        fresh: see `DepthProcessorStep`.
        allow_untrained: for both steps; see there.
        policy: to connect both to; None: they find it.

    Raises:
        ConfigError: impossible settings, `actions` is not said, or the pipelines have such a step already.
        HostError: the preprocessor has no normalizer, or see `connect`.
    """
    before, behind = [*preprocessor.steps], [*postprocessor.steps]
    if any(isinstance(step, HeadStep) for step in before + behind):
        raise ConfigError("these pipelines have a depth or guard step already; make them anew")
    places = [i for i, step in enumerate(before) if getattr(type(step), "_registry_name", None) == _BEFORE]
    if not places:
        raise HostError(
            f"the preprocessor has no {_BEFORE!r} to put depth before: insert DepthProcessorStep by hand, behind every "
            "step that takes all of observation.images for cameras, or use DepthGuardStep alone"
        )
    allowed = allow_untrained or (guard is not None and guard.allow_untrained)
    depth = DepthProcessorStep(head, cameras=cameras, fresh=fresh, allow_untrained=allowed)
    before.insert(places[0], depth)
    added: list[HeadStep] = [depth]
    if guard is not None:
        if actions is None:
            raise ConfigError("say what actions are: actions='velocity' or 'position'; a stop depends on it")
        guard = dataclasses.replace(guard, cameras=depth.cameras or guard.cameras, allow_untrained=allowed)
        added.append(DepthGuardStep(depth.head, actions=actions, guard=guard, stop_action=stop_action))
        behind.append(added[1])
    if policy is not None:
        for step in added:
            step.connect(policy)
    preprocessor.steps, postprocessor.steps = before, behind


def _newest(link: DepthLink, camera: str, robots: int) -> list[DepthMap | None]:
    """A camera's newest depth for each robot; the present step is one later than the last that ended."""
    found: list[DepthMap | None] = []
    for newest in link.newest:
        depth = next((image for image in newest.images if image.view == camera), None)
        found.append(None if depth is None else depth.relabelled(age=depth.age + 1))
    return found if len(found) == robots else [None] * robots
