"""Demonstrations of Meta-World's scripted policy, and the banks of all their pictures: what `graft_policies.py` learns.

The task is to press the button of a coffee machine that stands at any height over the table, seen by a camera that is
mounted anew, some 6 cm and 3 degrees off, for every episode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cloned_policy import CHUNK, STATE, Policy
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaceclip_plugin import DepthAttachment, DepthMap, Intrinsics
from spaceclip_plugin._files import atomic_path
from spaceclip_plugin.attach.featured_read import read_with_features
from spaceclip_plugin.graft import DepthGraft, GraftConfig
from spaceclip_plugin.graft.bank import Bank
from spaceclip_plugin.towers import TowerFeatures

TASK, CAMERA = "coffee-button-v3", "corner2"
PLACES_M = ((-0.15, 0.75, 0.0), (0.15, 0.9, 0.15))
"""Where the machine may stand, from and to; Meta-World's own is 20 cm across, 10 deep, and on the table."""
MOST_STEPS = 120
EVERY = 4  # steps between pictures of a demonstration

PREDICTED, TRUE, PLANE, RAW, SHUFFLED = "predicted", "true", "plane", "raw", "shuffled"
CONTENTS = (PREDICTED, TRUE, PLANE, RAW, SHUFFLED)
"""What a bank may be made of. Raw taps have no depth: where in the image they are, and 1 m everywhere. Shuffled ones
are those of another picture, with the depth predicted of that."""
PLANE_M = 1.1  # about the median of what the camera sees
FRAMES = {RAW: "image"}  # of the graft; "placed" for all others

_STRAYS = (0.0, 0.3)  # range of deviations of what is added to the expert's actions at every step, and
_HELD = 0.8  # the share of it that stays: it shows how to come back
_KEPT = (PREDICTED, TRUE, PLANE, RAW)


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What was seen and done in one episode, T pictures.

    Attributes:
        images: (T, H, W, 3) uint8.
        depth_m: (T, H, W) exact, infinite where nothing is.
        to_hand: (T, 4, 4) camera to the hand, axes of the world.
        state: (T, STATE).
        actions: (T, CHUNK, 4) of the expert from there on.
        known: (T, CHUNK) bool, False after the end.
    """

    images: Tensor
    depth_m: Tensor
    to_hand: Tensor
    state: Tensor
    actions: Tensor
    known: Tensor


def set_heights(live: Any) -> None:
    """Let the machine of a live task stand where this benchmark has it."""
    space = live.environment._random_reset_space
    live.environment._random_reset_space = type(space)(*map(np.array, PLACES_M), dtype=np.float64)


def state_of(observation: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(STATE,) what a policy is told beside the picture."""
    return observation[:STATE].astype(np.float32)


def to_hand(camera_to_world: npt.NDArray[np.float64], observation: npt.NDArray[np.float64]) -> Tensor:
    """(4, 4) camera to a frame at the hand, with the axes of the world."""
    pose = torch.from_numpy(camera_to_world.copy())
    pose[:3, 3] -= torch.from_numpy(observation[:3])
    return pose.float()


def demonstrate(live: Any, seed: int) -> Demonstration | None:
    """What Meta-World's policy does, led astray a little; None where it fails."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    spread, error = generator.uniform(*_STRAYS), np.zeros(4)
    expert, frames, done = live.expert(), [], []
    live.start(seed)
    while not live.success:
        if live.steps == MOST_STEPS:
            return None
        if live.steps % EVERY == 0:
            frame = live.render()
            place = to_hand(frame.camera_to_world, live.observation)
            frames.append((frame.image, frame.depth_m, place, state_of(live.observation)))
        done.append(np.clip(expert(live.observation), -1.0, 1.0))
        error = _HELD * error + generator.normal(0.0, spread, 4)
        live.step(done[-1] + error)
    images, depth_m, places, states = zip(*frames, strict=True)
    steps = EVERY * np.arange(len(frames))[:, None] + np.arange(CHUNK)
    actions = np.stack(done)[steps.clip(max=len(done) - 1)]
    return Demonstration(
        *(torch.from_numpy(np.stack(each)) for each in (images, depth_m)),
        torch.stack(places),
        torch.from_numpy(np.stack(states)),
        torch.from_numpy(actions).float(),
        torch.from_numpy(steps < len(done)),
    )


def bank(
    what: str,
    seen: Sequence[tuple[DepthMap, TowerFeatures]],
    config: GraftConfig,
    depth_m: Tensor | None,
    place: Tensor,
) -> Bank:
    """Of what one tower call saw, with its own depth or another.

    Args:
        what: one of `CONTENTS` but shuffled.
        seen: as the attachment gave it.
        config: of the graft.
        depth_m: (B, H, W) exact depth, for the true one.
        place: (B, 4, 4) camera to hand.
    """
    [(depth, features)] = seen
    if what != PREDICTED:
        metres = {PLANE: PLANE_M, RAW: 1.0}
        exact = torch.full_like(depth.depth_m, metres[what]) if what in metres else depth_m
        if exact is None:
            raise ValueError("true depth was not given")
        valid = exact.isfinite()
        exact = torch.where(valid, exact, 0)
        depth = dataclasses.replace(depth, depth_m=exact, valid=valid, uncertainty_m=None, empty=None)
    places = {} if what in FRAMES else {CAMERA: place}
    return Bank.of([(depth, features)], dataclasses.replace(config, frame=FRAMES.get(what, "placed")), places, place)


def keep(path: Path, policy: Policy, attachment: DepthAttachment, config: GraftConfig, one: Demonstration) -> None:
    """Write what learning needs of a demonstration: tokens, banks, states, actions; nothing of it is learnt."""
    with torch.no_grad():
        tokens = policy.see(one.images)
        seen = read_with_features(attachment)
        banks = {what: bank(what, seen, config, one.depth_m, one.to_hand) for what in _KEPT}
    tensors = {"tokens": tokens.half(), "look": banks[PREDICTED].look.half()}
    tensors |= {"state": one.state, "actions": one.actions, "known": one.known}
    tensors |= {f"place_{what}": each.place for what, each in banks.items()}
    tensors |= {f"valid_{what}": each.valid for what, each in banks.items()}
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)


def collect(
    live: Any, seeds: Iterable[int], folder: Path, policy: Policy, attachment: DepthAttachment, config: GraftConfig
) -> None:
    """Keep the demonstrations of these seeds that are not there; of a seed whose expert fails there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path = folder / f"{seed:06d}.safetensors"
        if not path.is_file() and (one := demonstrate(live, seed)) is not None:
            keep(path, policy, attachment, config, one)


class Lessons:
    """The pictures of some demonstrations, in memory, as cached."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    @classmethod
    def read(cls, folder: Path, seeds: range, count: int) -> Lessons:
        """Of the first so many seeds that have a demonstration."""
        paths = [path for seed in seeds if (path := folder / f"{seed:06d}.safetensors").is_file()][:count]
        if len(paths) < count:
            raise SystemExit(f"{len(paths)} of {count} demonstrations are in {folder}: run the part collect first")
        files = [load_file(path) for path in paths]
        return cls({name: torch.cat([file[name] for file in files]) for name in files[0]})

    def __len__(self) -> int:
        return len(self._tensors["state"])

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def bank(self, what: str, index: Tensor, generator: torch.Generator) -> Bank:
        """Of these pictures; the generator draws which other ones the shuffled bank is of."""
        if what == SHUFFLED:
            index = torch.randint(len(self), index.shape, generator=generator)
        kind = PREDICTED if what == SHUFFLED else what
        look, place = self["look"][index].float(), self[f"place_{kind}"][index]
        camera = torch.zeros(look.shape[1], dtype=torch.long)
        return Bank(look, place, camera, self[f"valid_{kind}"][index])


def graft_for(what: str, policy: Policy, attachment: DepthAttachment, **options: Any) -> DepthGraft:
    """A fresh graft on all blocks of the expert, for banks of such contents."""
    return DepthGraft.for_policy(policy, attachment, frame=FRAMES.get(what, "placed"), **options)


def lenses(intrinsics: Intrinsics) -> dict[str, Intrinsics]:
    """The cameras to attach the head with."""
    return {CAMERA: intrinsics}
