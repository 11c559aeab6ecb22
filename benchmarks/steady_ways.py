"""What may be made of a clip's depth, frame after frame, and what is told of the camera; for steady.py."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from steady_clips import Seen
from torch import Tensor

from spaceclip_plugin import DepthMap
from spaceclip_plugin.evaluation import depth_metrics
from spaceclip_plugin.steady import SteadyDepth

CONSTANT, ALONE, RUNNING = "constant", "per_frame", "running_mean"
WITHOUT, WITH = "without_places", "with_places"
WAYS = (CONSTANT, ALONE, RUNNING, WITHOUT, WITH)
LEVELS = (0.5, 0.9)
OLD_SHARE = 0.7  # of the running mean of ln depth

Places = Sequence[Tensor | None]


def steadied(seen: Seen, places: Places) -> list[DepthMap]:
    """Every frame as a new `SteadyDepth` gives it."""
    steady = SteadyDepth()
    return [steady.update(*given) for given in zip(seen.depths, seen.looks, places, strict=True)]


def running_mean(alone: Sequence[Tensor]) -> list[Tensor]:
    """Of ln depth, pixel by pixel, wherever its surface has gone."""
    log_depth, found = alone[0].log(), []
    for depth_m in alone:
        log_depth = OLD_SHARE * log_depth + (1 - OLD_SHARE) * depth_m.log()
        found.append(log_depth.exp())
    return found


def figures(seen: Seen) -> dict[str, dict[str, Any]]:
    """Every way's."""
    alone = seen.alone()
    median = seen.truth_m[seen.valid].median()
    found = {
        CONSTANT: _scored(seen, [torch.full_like(one, float(median)) for one in alone]),
        ALONE: _scored(seen, alone) | _covered(seen, seen.depths),
        RUNNING: _scored(seen, running_mean(alone)),
    }
    for way, places in ((WITHOUT, [None] * len(seen)), (WITH, list(seen.places))):
        depths = steadied(seen, places)
        found[way] = _scored(seen, [depth.depth_m[0] for depth in depths]) | _covered(seen, depths) | said(depths)
    return found


def _scored(seen: Seen, depth_m: Sequence[Tensor]) -> dict[str, float]:
    metrics = seen.score(depth_m)
    return {name: round(getattr(metrics, name), 5) for name in ("abs_rel", "flicker", "tae", "co_visible")}


def _covered(seen: Seen, depths: Sequence[DepthMap]) -> dict[str, Any]:
    return {"covered": {str(level): round(seen.covered(depths, level), 4) for level in LEVELS}}


def said(depths: Sequence[DepthMap]) -> dict[str, Any]:
    """In how many frames it began anew and doubted what it was told, after the first, by its words."""
    told = [depth.steady[0] for depth in depths[1:]]
    return {
        "resets": dict(Counter(one.reset for one in told if one.reset is not None)),
        "doubts": dict(Counter(one.doubt for one in told if one.doubt is not None)),
    }


def _inverted(places: Tensor) -> Places:
    return list(torch.linalg.inv(places))


def _in_millimetres(places: Tensor) -> Places:
    scaled = places.clone()
    scaled[:, :3, 3] *= 1000.0
    return list(scaled)


def _frozen(places: Tensor) -> Places:
    return [places[0]] * len(places)


def _late(places: Tensor) -> Places:
    return [places[0], *places[:-1]]


def _at_random(places: Tensor) -> Places:
    generator, found = np.random.default_rng(0), []
    for _ in places:
        place = np.eye(4)
        rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        place[:3, :3] = rotation * np.sign(np.linalg.det(rotation))
        place[:3, 3] = generator.normal(size=3)
        found.append(torch.from_numpy(place))
    return found


def _of_opengl(places: Tensor) -> Places:
    return list(places @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=places.dtype)))


def _every_second(places: Tensor) -> Places:
    return [place if number % 2 == 0 else None for number, place in enumerate(places)]


BAD: dict[str, Callable[[Tensor], Places]] = {
    "inverted (world to camera)": _inverted,
    "in millimetres": _in_millimetres,
    "frozen": _frozen,
    "one frame late": _late,
    "at random": _at_random,
    "of OpenGL's axes": _of_opengl,
    "every second missing": _every_second,
}


def with_bad_places(seen: Seen) -> dict[str, dict[str, Any]]:
    """AbsRel of steady depth that is told wrong places, of every kind, and what it said."""
    found = {}
    for kind, spoilt in BAD.items():
        depths = steadied(seen, spoilt(seen.places))
        errors = [
            depth_metrics(depth.depth_m[0], truth, valid=valid).abs_rel
            for depth, truth, valid in zip(depths, seen.truth_m, seen.valid, strict=True)
        ]
        found[kind] = {"abs_rel": round(statistics.fmean(errors), 5)} | said(depths)
    return found


@dataclass(frozen=True)
class Recovery:
    """How fast depth is as good as the frame's own again.

    Attributes:
        after: by number of frames after it happened, AbsRel over that of the frames alone.
        resets: in which of those frames it began anew, and why.
    """

    after: tuple[float, ...]
    resets: dict[int, str]

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        return {"after": [round(ratio, 4) for ratio in self.after], "resets": self.resets}


def after_a_cut(before: Seen, then: Seen, *, places: bool, frames: int) -> Recovery:
    """Two clips joined: the ratio in each of the first frames of the second."""
    both = [*zip(before.depths, before.looks, before.places, strict=True)]
    both += [*zip(then.depths, then.looks, then.places, strict=True)]
    steady, found = SteadyDepth(), []
    for step, (depth, look, place) in enumerate(both[: len(before) + frames]):
        # One stream: only the images tell of the cut.
        found.append(steady.update(replace(depth, step=step), look, place if places else None))
    ratios, resets = [], {}
    for number, depth in enumerate(found[len(before) :]):
        ratios.append(_over_alone(then, depth, number, then.valid[number]))
        if depth.steady[0].reset is not None:
            resets[number] = depth.steady[0].reset
    return Recovery(tuple(ratios), resets)


def where_things_moved(seen: Seen, *, places: bool, frames: int) -> tuple[list[float], int] | None:
    """Medians over frames in which something moved of the ratio there, in that frame and in the next ones.

    And of how many frames; None where nothing ever moved in enough pixels.
    """
    depths = steadied(seen, list(seen.places) if places else [None] * len(seen))
    ratios: list[list[float]] = [[] for _ in range(frames)]
    for number in range(1, len(seen) - frames + 1):
        where = seen.moved[number]
        for later in range(frames):
            here = where & seen.valid[number + later]
            if int((where & seen.valid[number]).sum()) < FEWEST_MOVED or not bool(here.any()):
                break
            ratios[later].append(_over_alone(seen, depths[number + later], number + later, here))
    if not all(ratios):
        return None
    return [round(statistics.median(found), 4) for found in ratios], len(ratios[-1])


FEWEST_MOVED = 200  # pixels


def _over_alone(seen: Seen, depth: DepthMap, number: int, where: Tensor) -> float:
    truth = seen.truth_m[number]

    def abs_rel(depth_m: Tensor) -> float:
        return float(((depth_m - truth).abs() / truth)[where].mean())

    return abs_rel(depth.depth_m[0]) / abs_rel(seen.depths[number].depth_m[0])
