"""A guard between a policy's action and its robot: the newest depth decides whether the action may pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spaceclip_plugin import _checks
from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.depth.depth_map import KNOWN, UNFAMILIAR
from spaceclip_plugin.errors import ConfigError

__all__ = ["MAX_AGE", "DepthGuard", "GuardDecision", "GuardLimits", "NewestDepth"]

PASS, SLOW, HOLD, STOP = REACTIONS = ("pass", "slow", "hold", "stop")
"""From the mildest to the gravest."""

MAX_AGE = 10
"""Host steps after which depth is too old where a guard does not say: a third of a second at 30 steps a second."""

_FARTHEST_M = 1000.0
_MAX_STEPS = 10**6
_IN_FILES = {
    "min_valid": "least_valid",
    "min_factor": "least_factor",
    "max_uncertainty": "most_uncertain",
    "min_images": "least_images",
}
"""Fields of `GuardLimits` that saved steps call by other names."""


@dataclass(frozen=True)
class GuardDecision:
    """What is to become of the policy's action.

    Example:
        >>> DepthGuard().decide(None)
        GuardDecision(reaction='stop', factor=0.0, reason='there is no depth yet')

    Attributes:
        reaction: "pass": as it is; "slow": `factor` of it; "hold": stay where you are; "stop": stop.
        factor: share of the motion that is let through: 1 for "pass", 0 for "hold" and "stop".
        reason: in words, for a log.
    """

    reaction: str
    factor: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class GuardLimits:
    """What is too near, too old or too little to act on.

    Every share is of the depth map that is given.

    Example:
        >>> GuardLimits.from_dict({"stop_below_m": 0.3, "cameras": ["wrist"]}).cameras
        ('wrist',)

    Attributes:
        stop_below_m, slow_below_m: near distances in metres, the second not below the first.
        near_share: share of the region's valid pixels; 0 is the nearest pixel alone, which noise decides.
        region: (top, left, bottom, right) as shares of the image's height and width; None is all of it.
        max_age: host steps; None: `MAX_AGE`. A policy that serves queued actions sees nothing meanwhile: LeRobot's
            steps refuse one that queues more than that, until someone says a `max_age`.
        min_valid: share of the region's pixels that must be valid.
        min_factor: of a motion that is slowed down, at `stop_below_m`; it grows to 1 at `slow_below_m`.
        max_uncertainty: standard deviation over depth, median of the pixels within the near distance; None: any.
        when_uncertain: "slow" (by `min_factor`), "hold" or "stop".
        min_familiarity: share of the training's images that must look stranger than this one (`DepthMap.familiarity`);
            None: any. Heads that do not tell it are not held to it.
        when_unfamiliar: as `when_uncertain`.
        need_lens: metres must be those of the robot's own camera (`DepthMap.lens` is "known"): near distances of a
            camera that the head assumes are off by the ratio of the focal lengths.
        frozen_after: image calls; None where pictures have no noise, as in simulation, and a robot may stand still.
        cameras: names of those that must be there, and no others count; empty: all that are there count.
        min_images: how many images must be there, counted without names.
        allow_untrained: take the depth of random weights for depth, as tests do.

    Raises:
        ConfigError: a value out of bounds, naming the field.
    """

    stop_below_m: float = 0.25
    slow_below_m: float = 0.6
    near_share: float = 0.02
    region: tuple[float, float, float, float] | None = None
    max_age: int | None = None
    min_valid: float = 0.5
    min_factor: float = 0.2
    max_uncertainty: float | None = None
    when_uncertain: str = STOP
    min_familiarity: float | None = UNFAMILIAR
    when_unfamiliar: str = STOP
    need_lens: bool = False
    frozen_after: int | None = 10
    cameras: tuple[str, ...] = ()
    min_images: int = 1
    allow_untrained: bool = False

    def __post_init__(self) -> None:
        for name in ("stop_below_m", "slow_below_m"):
            _checks.real(name, getattr(self, name), 0.0, _FARTHEST_M)
        for name in ("near_share", "min_valid", "min_factor"):
            _checks.real(name, getattr(self, name), 0.0, 1.0)
        if self.slow_below_m < self.stop_below_m:
            raise ConfigError(
                f"slow_below_m must not be below stop_below_m, got {self.slow_below_m} and {self.stop_below_m}"
            )
        for name, low, high in (("max_age", 0, _MAX_STEPS), ("frozen_after", 1, _MAX_STEPS)):
            if getattr(self, name) is not None:
                _checks.whole(name, getattr(self, name), low, high)
        _checks.whole("min_images", self.min_images, 1, 1000)
        for name, most in (("max_uncertainty", 1000.0), ("min_familiarity", 1.0)):
            if getattr(self, name) is not None:
                _checks.real(name, getattr(self, name), 0.0, most)
        for name in ("when_uncertain", "when_unfamiliar"):
            _checks.choice(name, getattr(self, name), REACTIONS[1:])
        for name in ("need_lens", "allow_untrained"):
            _checks.truth(name, getattr(self, name))
        if self.region is not None:
            region = _checks.reals("region", self.region, 0.0, 1.0, length=4)
            if region[0] >= region[2] or region[1] >= region[3]:
                raise ConfigError(f"region is (top, left, bottom, right) with top < bottom, left < right, got {region}")
            object.__setattr__(self, "region", region)
        if not isinstance(self.cameras, (list, tuple)) or len(set(map(str, self.cameras))) != len(self.cameras):
            raise ConfigError(f"cameras must be a list of different names, got {_checks.shown(self.cameras)}")
        object.__setattr__(self, "cameras", tuple(_checks.text("cameras", name) for name in self.cameras))

    @property
    def oldest_allowed(self) -> int:
        """Host steps: `max_age`, or `MAX_AGE` where that is not said."""
        return MAX_AGE if self.max_age is None else self.max_age

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it."""
        values = dataclasses.asdict(self)
        return {
            _IN_FILES.get(name, name): [*value] if isinstance(value, tuple) else value for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GuardLimits:
        """From JSON; what is missing has its default.

        Raises:
            ConfigError: an unknown key, or a value out of bounds.
        """
        names = {_IN_FILES.get(field.name, field.name): field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in names:
                raise _checks.unknown_key(key, [*names], where="guard")
        return cls(**{names[key]: value for key, value in values.items()})


@dataclass(frozen=True)
class DepthGuard:
    """Decides by the newest depth whether an action may pass.

    | Case | Reaction |
    |---|---|
    | no depth yet, a camera missing, or fewer images than `min_images` | stop |
    | the depth could not be read (`unreadable`) | stop |
    | a head that was not trained, unless `allow_untrained` | stop |
    | metres of no known camera, where `need_lens` | stop |
    | older than `max_age` host steps | stop |
    | a black or blank image, or one without a valid pixel in the region | stop |
    | a smaller share of the region valid than `min_valid` | stop |
    | the very same depth in more than `frozen_after` image calls in a row: a frozen camera | stop |
    | the near distance below `stop_below_m` | stop |
    | the near distance below `slow_below_m` | slow, the nearer the slower |
    | uncertainty at the near distance above `max_uncertainty` | `when_uncertain` |
    | an uncertainty asked for that the head does not give | stop |
    | an image less familiar to the head than `min_familiarity`, where it tells | `when_unfamiliar` |
    | none of these | pass |

    The near distance is the depth within which `near_share` of the region's valid pixels lie. Of several images the
    gravest reaction counts. NaN is no case: no `DepthMap` holds any, reading raises CaptureError instead.

    Where a host pads its camera's image, give depth over the camera's (`DepthMap.in_camera`): in the tower's, the
    region and `min_valid` would be shares of the padding too.

    Example:
        >>> import torch
        >>> from spaceclip_plugin import DepthGuard, DepthMap
        >>> from spaceclip_plugin.guard import GuardLimits
        >>> guard = DepthGuard(GuardLimits(stop_below_m=0.3, slow_below_m=1.0))
        >>> for near_m in (0.2, 0.65, 3.0):
        ...     depth_m = torch.full((1, 4, 6), near_m)
        ...     depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(4, 6), trained=True)
        ...     decision = guard.decide([depth])
        ...     print(f"{decision.reaction} {decision.factor:.1f}")
        stop 0.0
        slow 0.6
        pass 1.0

    Attributes:
        limits: what is too near, too old or too little; the names in the table are its fields.
    """

    limits: GuardLimits = GuardLimits()

    def decide(self, depths: Sequence[DepthMap] | None, *, repeats: Sequence[int] = ()) -> GuardDecision:
        """The gravest reaction to the newest depth of every camera; see the table.

        Args:
            depths: with their ages by now, as `NewestDepth.images` gives them; None or empty: there is none.
            repeats: for each of them, image calls before it that had the very same depth; none given: not looked at.

        Raises:
            ConfigError: `repeats` are given, but not one for each depth.
        """
        if repeats and len(repeats) != len(depths or ()):
            raise ConfigError(f"give one of repeats for each depth, got {len(repeats)} for {len(depths or ())}")
        limits = self.limits
        counted = [*zip(depths or (), repeats or [0] * len(depths or ()), strict=True)]
        if not counted:
            return _stop("there is no depth yet")
        if limits.cameras:
            unnamed = sum(depth.camera is None for depth, _ in counted)
            for camera in limits.cameras:
                if all(depth.camera != camera for depth, _ in counted):
                    return _stop(f"no depth of camera {camera!r} ({unnamed} image(s) without a name)")
            counted = [(depth, count) for depth, count in counted if depth.camera in limits.cameras]
        images = sum(len(depth) for depth, _ in counted)
        if images < limits.min_images:
            return _stop(f"{images} image(s), {limits.min_images} expected: a camera is missing")
        decisions = [self._of_image(depth[i], count) for depth, count in counted for i in range(len(depth))]
        return _gravest(decisions)

    def decide_chunk(
        self, depths: Sequence[DepthMap] | None, rows: int, *, repeats: Sequence[int] = ()
    ) -> tuple[GuardDecision, ...]:
        """The reaction to every row of a chunk of actions, which are executed one host step after another.

        All rows are decided by the same depth, which is a step older at each: from the row on at which it is older
        than `max_age`, the robot stops.

        Args:
            depths, repeats: as for `decide`, at the first row.
            rows: actions in the chunk.

        Returns:
            One decision for each row.

        Raises:
            ConfigError: see `decide`, or no row.
        """
        _checks.whole("rows", rows, 1, _MAX_STEPS)
        first = self.decide(depths, repeats=repeats)
        if not depths or first.reaction == STOP:
            return (first,) * rows
        oldest = max(depth.age for depth in depths)
        young = max(1, min(rows, self.limits.oldest_allowed - oldest + 1))
        late = [
            self.decide([depth.relabelled(age=depth.age + row) for depth in depths], repeats=repeats)
            for row in range(young, rows)
        ]
        return (first,) * young + tuple(late)

    def unreadable(self, error: Exception) -> GuardDecision:
        """The reaction to depth that could not be read, as `CaptureError` tells."""
        return _stop(f"the depth could not be read: {error}")

    def _of_image(self, depth: DepthMap, repeats: int) -> GuardDecision:
        limits = self.limits
        whose = "the image" if depth.camera is None else f"camera {depth.camera!r}"
        if not depth.trained and not limits.allow_untrained:
            return _stop("the head was not trained: its depth means nothing")
        if limits.need_lens and depth.lens != KNOWN:
            return _stop(f"{whose}: metres of no known camera (lens {depth.lens!r}); attach the head with cameras=")
        if depth.age > limits.oldest_allowed:
            return _stop(
                f"{whose}: the depth is {depth.age} host steps old, at most {limits.oldest_allowed} are allowed"
            )
        valid = self._in_region(depth.valid)
        count = int(valid.sum())
        if count == 0 or count < limits.min_valid * valid.numel():
            blank = " (a black or blank image?)" if count == 0 else ""
            return _stop(f"{whose}: {count} of {valid.numel()} pixels have depth{blank}")
        if limits.frozen_after is not None and repeats >= limits.frozen_after:
            return _stop(f"{whose}: the very same depth {repeats + 1} times in a row: is the camera frozen?")
        depth_m = self._in_region(depth.depth_m)[valid]
        near_m = float(depth_m.kthvalue(max(1, math.ceil(limits.near_share * count))).values)
        found = (self._unfamiliar(depth, whose), self._near(near_m, whose), self._uncertain(depth, near_m, whose))
        return _gravest([decision for decision in found if decision is not None])

    def _unfamiliar(self, depth: DepthMap, whose: str) -> GuardDecision | None:
        least = self.limits.min_familiarity
        if least is None or depth.familiarity is None or (share := float(depth.familiarity)) >= least:
            return None
        reason = f"{whose}: unlike the training images (familiarity {share:.2f}, below {least})"
        return self._when(self.limits.when_unfamiliar, reason)

    def _near(self, near_m: float, whose: str) -> GuardDecision:
        limits = self.limits
        if near_m < limits.stop_below_m:
            return _stop(f"{whose}: {near_m:.3f} m, below {limits.stop_below_m} m")
        if near_m < limits.slow_below_m:
            share = (near_m - limits.stop_below_m) / (limits.slow_below_m - limits.stop_below_m)
            factor = limits.min_factor + (1.0 - limits.min_factor) * share
            return GuardDecision(SLOW, factor, f"{whose}: {near_m:.3f} m, below {limits.slow_below_m} m")
        return GuardDecision(PASS, 1.0, f"{whose}: {near_m:.3f} m")

    def _uncertain(self, depth: DepthMap, near_m: float, whose: str) -> GuardDecision | None:
        most = self.limits.max_uncertainty
        if most is None:
            return None
        if depth.uncertainty_m is None:
            return _stop(f"{whose}: the head gives no uncertainty; train one that does, or set max_uncertainty=None")
        depth_m = self._in_region(depth.depth_m)
        within = self._in_region(depth.valid) & (depth_m <= near_m)
        relative = float((self._in_region(depth.uncertainty_m)[within] / depth_m[within]).median())
        reason = f"{whose}: {near_m:.3f} m, uncertain by {relative:.0%}, above {most:.0%}"
        return None if relative <= most else self._when(self.limits.when_uncertain, reason)

    def _when(self, reaction: str, reason: str) -> GuardDecision:
        return GuardDecision(reaction, self.limits.min_factor if reaction == SLOW else 0.0, reason)

    def _in_region(self, values: Tensor) -> Tensor:
        top, left, bottom, right = self.limits.region or (0.0, 0.0, 1.0, 1.0)
        height, width = values.shape[-2:]
        rows = slice(math.floor(top * height), math.ceil(bottom * height))
        return values[..., rows, math.floor(left * width) : math.ceil(right * width)]


class NewestDepth:
    """The newest depth of every camera of one robot, image by image, with its age and how often it came again.

    Example:
        >>> from spaceclip_plugin import DepthMap
        >>> newest = NewestDepth()
        >>> depth_m = torch.ones(1, 4, 6)
        >>> newest.end_step([DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(4, 6), trained=True)])
        >>> newest.end_step([])  # a queued action: the tower saw nothing new
        >>> newest.images[0].age
        1
        >>> DepthGuard().decide(newest.images, repeats=newest.repeats).reaction
        'pass'

    Attributes:
        images: one depth map of one image each, with its age in host steps by now.
        repeats: for each of them, image calls in a row before it that had the very same depth.
    """

    images: tuple[DepthMap, ...]
    repeats: tuple[int, ...]

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """There is no depth any more: another episode begins, or the last could not be read."""
        self.images, self.repeats = (), ()

    def end_step(self, depths: Iterable[DepthMap], *, steps: int = 1) -> None:
        """End a host step with the depth it left; without any, what there is grows older.

        Depth that came late, of more steps than one, is that of the last of them.

        Args:
            depths: as `DepthAttachment.read` gives them.
            steps: host steps since the last call: as many as the chunk of actions had rows that was given then.
        """
        found = list(depths)
        if not found:
            self.images = tuple(image.relabelled(age=image.age + steps) for image in self.images)
            return
        last = max(depth.step for depth in found)
        # Ages are counted here from now on: those of an attachment's depth would count the same steps once more.
        newest = [depth.relabelled(age=int(depth.age)) for depth in found if depth.step == last]
        images = [depth[i] for depth in newest for i in range(len(depth))]
        if [image.camera for image in images] == [image.camera for image in self.images]:
            pairs = zip(images, self.images, self.repeats, strict=True)
            self.repeats = tuple(count + 1 if _is_again(image, old) else 0 for image, old, count in pairs)
        else:
            self.repeats = (0,) * len(images)
        self.images = tuple(images)


def _is_again(image: DepthMap, old: DepthMap) -> bool:
    """Whether it is the very same depth; where it is steady, by what frames alone say: the same image moves all."""
    one, other = (each.steady[0].alone_m if each.steady else each.depth_m for each in (image, old))
    return torch.equal(one, other) and torch.equal(image.valid, old.valid)


def _gravest(decisions: Sequence[GuardDecision]) -> GuardDecision:
    """Of several that are as grave, the first."""
    return max(decisions, key=lambda one: (REACTIONS.index(one.reaction), -one.factor))


def _stop(reason: str) -> GuardDecision:
    return GuardDecision(STOP, 0.0, reason)
