"""Depth for LeRobot's policies as two processor steps: one adds depth to observations, one guards actions by it.

Both read the live policy's own vision tower, and travel with its pipelines: the head's weights are their state.
`README.md` beside this file says how they come into a pipeline.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lerobot.processor import (
    ObservationProcessorStep,
    PolicyActionProcessorStep,
    ProcessorStepRegistry,
    TransitionKey,
)
from torch import Tensor, nn

from spaceclip_plugin import DepthMap, _checks
from spaceclip_plugin.attach.declared import camera_name, checked_cameras
from spaceclip_plugin.bridges.lerobot.actions import ActionsSent, as_chunk
from spaceclip_plugin.bridges.lerobot.format import DEPTH_SUFFIX
from spaceclip_plugin.bridges.lerobot.head import HeadLike, HeadStep
from spaceclip_plugin.bridges.lerobot.link import DepthLink
from spaceclip_plugin.bridges.lerobot.observed import (
    AGE_SUFFIX,
    FAMILIARITY_SUFFIX,
    LENS_SUFFIX,
    UNCERTAINTY_SUFFIX,
    with_depth,
)
from spaceclip_plugin.bridges.lerobot.steadying import places_in
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.depth.depth_map import KNOWN
from spaceclip_plugin.errors import CaptureError, HostError
from spaceclip_plugin.guard import DepthGuard, GuardDecision, GuardLimits
from spaceclip_plugin.head.decoder import predicts_uncertainty

_logger = logging.getLogger(__name__)


@ProcessorStepRegistry.register("spaceclip_depth")
class DepthProcessorStep(HeadStep, ObservationProcessorStep):  # type: ignore[misc]  # lerobot may be absent
    """Adds the depth of every camera to the observation, where images are still as cameras give them.

    For `observation.images.front` (B, 3, H, W) it adds

    - `observation.images.front_depth`: (B, 1, H, W) float32 metres along the optical axis, pixel for pixel that of the
      camera's own image, 0 where there is none. Whatever the policy does to the image for its tower (SmolVLA, pi0 and
      X-VLA pad it) is undone; what it cuts away has no depth;
    - `observation.images.front_depth_age`: (B,) int64 host steps since the tower saw it, -1 where there is none yet.
      With chunks of actions it is the most it can be: as if every action of the last chunk had been executed;
    - where the head tells them, `observation.images.front_depth_uncertainty`: (B, 1, H, W) float32 metres of standard
      deviation, 0 where there is no depth; `observation.images.front_depth_lens_known`: (B,) bool, whether the metres
      are those of the camera (see `intrinsics`); and `observation.images.front_depth_familiarity`: (B,) float32, see
      `DepthMap.familiarity`, -1 where there is no depth yet.

    Policies take the inputs of their config, and these are none of them. A batch of recorded data, which holds the
    actions to learn, passes as it is: nobody acts on it, and `lerobot-train` keeps the step and its head. Where it
    cannot be told which camera an image is of or where its pixels lie in it, or the depth cannot be read, there is
    none, and a log says so.

    With `fresh=False` it tells what the tower saw last, one step ago or more: a policy that queues actions looks once
    per chunk. With `fresh=True` it runs the tower alone on the present images, at every step, which costs one run of
    it. They are prepared as `ImageGeometry.declare` says of the policy, else by the policy's own means where these are
    known (`README.md` beside this file lists them), so that the depth is bit for bit that of the policy's own run, and
    a log names them; elsewhere from images in [0, 1] as those were that
    the head learnt on (`DepthHeadConfig.preparation`), stretched where it does not tell.

    With `steady=True` earlier frames of the episode have a say in the depth, robot by robot (`SteadyDepth`), for the
    guard too; `reset` begins anew, and a scene that changes at once does. Where `observation.camera_to_world.front`,
    (4, 4) or (B, 4, 4), tells where a camera is (rigid, in metres, axes x right, y down, z forward), and `intrinsics`
    are given, motion is taken from there, else from images.

    Example:
        >>> step = DepthProcessorStep(head, fresh=True)
        >>> step.connect(policy)
        >>> step.observation({"observation.images.top": torch.rand(1, 3, 48, 64)})["observation.images.top_depth"].shape
        torch.Size([1, 1, 48, 64])
    """

    def __init__(
        self,
        head: HeadLike,
        *,
        cameras: Sequence[str] | None = None,
        fresh: bool = False,
        allow_untrained: bool = False,
        intrinsics: Mapping[str, Intrinsics | Sequence[float]] | None = None,
        steady: bool = False,
        policy: nn.Module | None = None,
    ) -> None:
        """Check the settings; the policy is met at the first observation.

        Args:
            head: to decode with, its config (the weights then come with the state), or its folder.
            cameras: names as in `observation.images.NAME`; None: those of the policy's config.
            fresh: run the tower alone on the images of this step.
            allow_untrained: take a head with random weights, whose depth means nothing.
            intrinsics: by camera's name, of the camera's own image: `Intrinsics`, or [fx, fy, cx, cy, height, width] as
                files have them. Depth is then in metres of that camera, for the guard too; without them, in those of
                the camera that the head assumes.
            steady: give depth of video that earlier frames have a say in.
            policy: whose tower to read, kept weakly and in no file; None: it is looked for.

        Raises:
            ConfigError: not a head, an untrained one, or camera names or intrinsics that cannot be.
            CheckpointError: the folder holds no head.
            HostError: `policy` is no module.
        """
        super().__init__(head, allow_untrained=allow_untrained, intrinsics=intrinsics, policy=policy)
        self.cameras = None if cameras is None else checked_cameras(cameras)
        self.fresh, self.steady = _checks.truth("fresh", fresh), _checks.truth("steady", steady)
        self._warned = False

    def __call__(self, transition: Any) -> Any:
        """The transition with depth in its observation; as it is where it holds recorded actions."""
        return transition if transition.get(TransitionKey.ACTION) is not None else super().__call__(transition)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation with depth; the images themselves stay as they are.

        Raises:
            HostError: no policy or several to connect to, images that cannot be prepared, or places that are none.
        """
        link = self._linked()
        keys = [key for key in (*link.cameras, *observation) if isinstance(observation.get(key), Tensor)]
        images = {
            key: observation[key]
            for key in keys
            if (key in link.cameras if self.cameras is None else camera_name(key) in self.cameras)
        }
        for key, image in images.items():
            if image.ndim != 4 or image.shape[1] != 3:
                raise HostError(
                    f"{key} must be (B, 3, H, W), got {tuple(image.shape)}; put the depth step behind the one that "
                    "makes batches (to_batch_processor)"
                )
        if images:
            sizes = {name: tuple(observation[key].shape[-2:]) for key, name in link.cameras.items() if key in keys}
            robots = len(next(iter(images.values())))
            places = places_in(observation, link.cameras.values(), robots=robots) if self.steady else {}
            for key, found in self._depth(link, images, sizes, places).items():
                device, none = images[key].device, torch.zeros(1, *images[key].shape[-2:])
                maps = [none if depth is None else depth.depth_m * depth.valid for depth in found]
                ages = [-1 if depth is None else depth.age for depth in found]
                observation[key + DEPTH_SUFFIX] = torch.stack([depth_m.to(device) for depth_m in maps])
                observation[key + AGE_SUFFIX] = torch.tensor(ages, device=device)
                if predicts_uncertainty(self.head.decoder):
                    sds = [none if depth is None else _deviation_m(depth) for depth in found]
                    observation[key + UNCERTAINTY_SUFFIX] = torch.stack([sd_m.to(device) for sd_m in sds])
                if self.head.config.focal_length is not None:
                    known = [depth is not None and depth.lens == KNOWN for depth in found]
                    observation[key + LENS_SUFFIX] = torch.tensor(known, device=device)
                if self.head.config.familiarity is not None:
                    observation[key + FAMILIARITY_SUFFIX] = torch.tensor([*map(_familiarity, found)], device=device)
        return observation

    def transform_features(self, features: Any) -> Any:
        """The features with all that is added to each camera's image.

        LeRobot's loops make a policy's inputs of a data set's or an environment's features, and a data set's of what
        the robot's own pipelines announce: what a policy's preprocessor announces becomes no input of a policy.
        """
        uncertainty = predicts_uncertainty(self.head.decoder)
        return with_depth(features, self.head.config, uncertainty=uncertainty, cameras=self.cameras)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON, the head as its config."""
        return {
            "head": self.head.config.to_dict(),
            "cameras": None if self.cameras is None else [*self.cameras],
            "fresh": self.fresh,
            "allow_untrained": self.allow_untrained,
            **({"steady": True} if self.steady else {}),  # older versions read the others
            **self._saved_intrinsics(),
        }

    def reset(self) -> None:
        """Forget the last episode's depth."""
        self._forget()

    def _adopt(self, link: DepthLink) -> None:
        link.refreshed = link.refreshed or self.fresh
        if self.steady:
            link.keep_steady()

    def _depth(
        self,
        link: DepthLink,
        images: Mapping[str, Tensor],
        sizes: Mapping[str, tuple[int, int]],
        places: Mapping[str, Tensor],
    ) -> dict[str, list[DepthMap | None]]:
        """Of every camera, robot by robot."""
        robots = len(next(iter(images.values())))
        try:
            link.begin_step(robots, sizes)
            if self.steady:
                link.place(places)
            if self.fresh:
                return {key: [*depth] for key, depth in link.refresh(images).items()}
            found = {key: link.newest_of(camera_name(key), image) for key, image in images.items()}
        except CaptureError as error:
            link.forget()
            _logger.warning("no depth: %s", error)
            return {key: [None] * robots for key in images}
        unnamed = any(image.camera is None for newest in link.newest for image in newest.images)
        if not self._warned and unnamed and all(depth is None for each in found.values() for depth in each):
            self._warned = True
            _logger.warning(
                "which camera the policy's image calls are of cannot be told: no depth; fresh=True gives it"
            )
        return found


def _deviation_m(depth: DepthMap) -> Tensor:
    return torch.zeros_like(depth.depth_m) if depth.uncertainty_m is None else depth.uncertainty_m * depth.valid


def _familiarity(depth: DepthMap | None) -> float:
    return -1.0 if depth is None or depth.familiarity is None else float(depth.familiarity)


@ProcessorStepRegistry.register("spaceclip_depth_guard")
class DepthGuardStep(HeadStep, PolicyActionProcessorStep):  # type: ignore[misc]
    """Lets the policy's actions pass, slows them down, or stops the robot, by what the policy's own tower just saw.

    It belongs at the end of the postprocessor, where actions are in the robot's units (behind the unnormalizer and
    what turns relative into absolute ones). It takes one action (A,) of a robot, (B, A) of B robots, each decided by
    its own images, and chunks (B, T, A), as real-time chunking and `predict_action_chunk` give them.

    | Reaction | "velocity" actions | "position" actions |
    |---|---|---|
    | pass | the policy's | the policy's |
    | slow | times the factor | from the last one sent, the factor's share of the way |
    | hold | zero | the last one sent |
    | stop | `stop_action`, or zero | `stop_action`, or the last one sent |

    Before the first action of an episode nothing was sent: "position" then needs a `stop_action`, else HostError.

    All rows of a chunk are decided by the same depth, and row t is executed t host steps later (hand over those rows
    that will be executed, and no more): from the row on at which the depth is older than the guard's `max_age`, the
    robot stops. The last one sent is the row before; before the first row it is the last row of the chunk before, or,
    where real-time chunking is on and a chunk ends early, that row of it which is nearest to the first of the new.
    Real-time chunking plans on with what the policy wanted, not with what was sent: behind a stop it may leap.

    A policy that acts longer on one look than the guard's `max_age`, where nobody said a `max_age`, is refused when
    the step meets it: a robot that goes for eleven steps and stops for thirty-nine was never meant. Remedies are a
    depth step with `fresh=True`, which serves both and must be connected first, fewer `n_action_steps`, or an explicit
    `max_age`, of which a warning tells how many actions are stops. Real-time chunking needs the explicit one.

    Attributes:
        guard: its settings.
        counts: how often each reaction was given since the step was made, over all robots and rows.
        decisions: the last one of every robot; of a chunk, that of its first row.

    Example:
        >>> step = DepthGuardStep(head, actions="velocity", guard=DepthGuard(GuardLimits(stop_below_m=0.2)))
        >>> step.connect(policy)
        >>> step.action(torch.ones(1, 6)).tolist(), step.decisions[0].reason  # the policy has not looked yet
        ([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], 'there is no depth yet')
    """

    def __init__(
        self,
        head: HeadLike,
        *,
        actions: str,
        guard: DepthGuard | Mapping[str, Any] | None = None,
        stop_action: Sequence[float] | None = None,
        intrinsics: Mapping[str, Intrinsics | Sequence[float]] | None = None,
        policy: nn.Module | None = None,
    ) -> None:
        """Check the settings; the policy is met at the first action.

        Args:
            head: to decode with, its config (the weights then come with the state), or its folder.
            actions: "velocity" or "position"; a wrong word makes a stop a motion.
            guard: its settings; None: the defaults. Without camera names, all of the policy's cameras must be there.
            stop_action: what to send at a stop, in the robot's units.
            intrinsics: as for `DepthProcessorStep`; beside one that has them, none are needed here.
            policy: whose tower to read, kept weakly and in no file; None: it is looked for.

        Raises:
            ConfigError: not a head, an untrained one that the guard does not allow, or impossible settings.
            CheckpointError: the folder holds no head.
            HostError: `policy` is no module.
        """
        if isinstance(guard, Mapping):  # as saved
            guard = DepthGuard(GuardLimits.from_dict(guard))
        self.guard = guard or DepthGuard()
        untrained = self.guard.limits.allow_untrained
        super().__init__(head, allow_untrained=untrained, intrinsics=intrinsics, policy=policy)
        self._actions = ActionsSent(actions, stop_action)
        self.counts: Counter[str] = Counter()
        self.decisions: tuple[GuardDecision, ...] = ()
        self._warned = False

    @property
    def actions(self) -> str:
        """What actions command: "velocity" or "position"."""
        return self._actions.kind

    @property
    def stop_action(self) -> tuple[float, ...] | None:
        """What is sent at a stop, in the robot's units; None: zero, or the last one sent."""
        return self._actions.stop_action

    def action(self, action: Tensor) -> Tensor:
        """The action or actions to send, of the same shape; the policy's own bits where every robot may pass.

        Raises:
            HostError: no policy or several to connect to, another shape, or a stop before anything was sent.
            ConfigError: `stop_action` is of another length, or the policy acts on one look for too long.
        """
        chunk = as_chunk(action)
        robots, rows = chunk.shape[:2]
        before, along = self.decisions, self._along(robots, rows)
        self.decisions = tuple(decided[0] for decided in along)
        self.counts.update(decision.reaction for decided in along for decision in decided)
        for robot, decision in enumerate(self.decisions):
            if len(before) != len(self.decisions) or before[robot].reaction != decision.reaction:
                _logger.info("depth guard, robot %d: %s (%s)", robot, decision.reaction, decision.reason)
        overlapping = rows > 1 and self._linked().chunks.overlapping
        return self._actions.send(chunk, along, overlapping=overlapping).reshape(action.shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON, the head as its config."""
        return {
            "head": self.head.config.to_dict(),
            "actions": self.actions,
            "guard": self.guard.limits.to_dict(),
            "stop_action": None if self.stop_action is None else [*self.stop_action],
            **self._saved_intrinsics(),
        }

    def reset(self) -> None:
        """Another episode begins: nothing was seen, nothing was sent."""
        self.decisions = ()
        self._actions.forget()
        self._forget()

    def _adopt(self, link: DepthLink) -> None:
        link.chunks.check(self.guard.limits, fresh=link.refreshed)

    def _along(self, robots: int, rows: int) -> list[tuple[GuardDecision, ...]]:
        """What is decided for every row of a chunk of actions, robot by robot."""
        link, limits = self._linked(), self.guard.limits
        if not limits.cameras and link.names_images:
            limits = dataclasses.replace(limits, cameras=tuple(link.cameras.values()))
        elif not limits.cameras:
            limits = dataclasses.replace(limits, min_images=max(limits.min_images, len(link.cameras)))
        guard = DepthGuard(limits)
        try:
            link.end_step(robots, rows=rows)
        except HostError as error:
            return [(guard.unreadable(error),) * rows] * robots
        along = [guard.decide_chunk(newest.images, rows, repeats=newest.repeats) for newest in link.newest]
        oldest = max((image.age for newest in link.newest for image in newest.images), default=0) + rows - 1
        if not self._warned and oldest > limits.oldest_allowed:  # nothing is near, and the robot stops all the same
            self._warned = True
            _logger.warning(
                "the guard stops the robot because its depth is up to %d host steps old when an action is executed, "
                "and max_age is %d: have it refreshed at every step (fresh=True), execute fewer actions of each chunk "
                "(%s), or say a larger max_age",
                oldest, limits.oldest_allowed, f"{rows} were given at once" if rows > 1 else "they came one by one",
            )  # fmt: skip
        return along
