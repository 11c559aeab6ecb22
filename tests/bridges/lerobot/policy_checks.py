"""What each of LeRobot's policies is tried for, with small random weights; as a script, JSON of what came of it.

`benchmarks/policies.py` keeps the record, and a test sees that it still holds. Each check is of the commands and calls
that a user would run.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lerobot
import numpy as np
import torch
import transformers
from acting_policies import batch_of, loaded, saved, tower_input
from hosted_policies import HOSTED, HostedPolicy
from recorded_sets import record, record_measured
from step_world import act, head_for
from torch import nn

from spaceclip_adapters.hosts.lerobot_types import NO_TOWER, RELEASES
from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import load_host
from spaceclip_plugin.towers.registry import find_tower

TRAINING = (
    "--camera", "front", "--depth-range", "0.1,12", "--epochs", "1", "--views", "1", "--features", "none",
    "--device", "cpu",
)  # fmt: skip
PHOTO_HW = (48, 64)


class LackingError(Exception):
    """What the package does not do for a policy, without any error of its own."""


@dataclass
class Tried:
    """A policy as LeRobot built it, the folder it was saved in, and where the data and the runs lie."""

    hosted: HostedPolicy
    policy: nn.Module
    folder: Path
    place: Path

    @functools.cached_property
    def loaded(self) -> Any:
        """The policy of that folder, able to act."""
        return loaded(self.hosted, self.folder)

    @property
    def name(self) -> str:
        """As a command line names the host."""
        return f"lerobot:{self.folder}"


def _host(tried: Tried) -> None:
    """From the folder, with its own weights, and the tower that is meant."""
    with tried.hosted.sizes():
        host = load_host(tried.name)
    weights = host.state_dict()
    if any(not torch.equal(weights[name], value) for name, value in tried.policy.state_dict().items()):
        raise LackingError("other weights than those that were saved")
    spec = find_tower(host).spec
    if (spec.adapter, spec.path) != (tried.hosted.adapter, tried.hosted.path):
        raise LackingError(f"another tower: {spec}")


def _preparation(tried: Tried) -> None:
    """Photos reach the tower alone as the bits that the policy shows it when it acts on them."""
    photo = np.random.default_rng(0).integers(0, 256, (*PHOTO_HW, 3), np.uint8)
    policy = tried.loaded
    acted_on = tower_input(policy, lambda: act(policy, batch_of(tried.hosted, policy, photo)))
    with attach_depth_head(policy, head_for(policy)) as attachment:
        prepared = attachment.preparation([photo])
        if not attachment.preparation.name.startswith(f"{type(policy).__name__}."):
            raise LackingError("how it prepares images is not known: photos are stretched, which a warning says")
        alone = tower_input(policy, lambda: attachment.refresh(prepared))
    if not torch.equal(alone, acted_on[: len(alone)]):
        raise LackingError("other pixels than those that it acts on")


def _mapping(tried: Tried) -> None:
    """Depth that comes while the policy acts lies over its cameras' own images."""
    policy = tried.loaded
    photo = np.random.default_rng(1).integers(0, 256, (*PHOTO_HW, 3), np.uint8)
    with attach_depth_head(policy, head_for(policy)) as attachment:
        act(policy, batch_of(tried.hosted, policy, photo))
        for depth in attachment.read():
            if depth.mapping is None:
                raise LackingError("nor where its cameras' pixels lie in its tower's images")
            if depth.in_camera().image_hw != PHOTO_HW:
                raise LackingError(f"depth over an image of {depth.in_camera().image_hw}")


def _train(tried: Tried) -> None:
    """One command from recordings with depth to a head."""
    data, out = f"lerobot:{tried.place / 'measured'}", tried.place / f"run-{tried.hosted.kind}"
    with tried.hosted.sizes():
        command("train", "--host", tried.name, "--data", data, "--out", str(out), *TRAINING)


def _annotate(tried: Tried) -> None:
    """One command from that head to recordings with its depth."""
    data, head = f"lerobot:{tried.place / 'plain'}", tried.place / f"run-{tried.hosted.kind}" / "head"
    words = ("--camera", "front", "--device", "cpu", "--out", str(tried.place / f"rich-{tried.hosted.kind}"))
    with tried.hosted.sizes():
        command("annotate", "--host", tried.name, "--head", str(head), "--data", data, *words)


CHECKS: Mapping[str, Callable[[Tried], None]] = {
    "host": _host,
    "preparation": _preparation,
    "mapping": _mapping,
    "train": _train,
    "annotate": _annotate,
}


def command(name: str, *words: str) -> Result:
    """What a command of spaceclip gives; its errors are raised, where the command line would only say them."""
    module: Any = importlib.import_module(f"spaceclip_plugin.cli.{name}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    found: Result = module.run(parser.parse_args([*words]))
    return found


def outcomes(hosted: HostedPolicy, place: Path) -> dict[str, Any]:
    """Of every check of a policy, None where it holds, else the class and the words of the error.

    ImportError where the policy needs a library that is not installed.
    """
    folder = place / hosted.kind
    folder.mkdir()
    tried = Tried(hosted, saved(hosted, folder), folder, place)
    return {name: _tried(check, tried) for name, check in CHECKS.items()}


def without_a_tower(kind: str, place: Path) -> dict[str, Any]:
    """What is said of a policy that sees without a vision transformer; nothing else can be tried."""
    folder = place / kind
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"type": kind}))
    try:
        load_host(f"lerobot:{folder}")
    except HostError as error:
        return {"host": said(error, folder)}
    return {"host": None}


def _tried(check: Callable[[Tried], None], tried: Tried) -> dict[str, str] | None:
    try:
        check(tried)
    except ImportError:
        raise
    except Exception as error:
        return said(error, tried.place)
    return None


def said(error: Exception, place: Path) -> dict[str, str]:
    """An error's class and first line, no place of this machine in it."""
    line = str(error).strip().partition("\n")[0]
    return {"error": type(error).__name__, "says": line.replace(f"{place}{os.sep}", "").replace(str(place), place.name)}


def lay(place: Path) -> None:
    """The recordings that the checks train on and annotate."""
    record_measured(place / "measured", range(10))
    record(place / "plain", video=False)


def main() -> None:
    """Try every policy of the installed LeRobot."""
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = Path(folder)
        lay(place)
        for hosted in HOSTED:
            sys.stderr.write(f"{hosted.kind}\n")
            try:
                found[hosted.kind] = outcomes(hosted, place)
            except ImportError as error:
                found[hosted.kind] = {"not tried": str(error)}
        known = set().union(*(types for version, types in RELEASES.items() if version == lerobot.__version__))
        found |= {kind: without_a_tower(kind, place) for kind in sorted(NO_TOWER.keys() & (known or NO_TOWER.keys()))}
    versions = {"lerobot": lerobot.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    sys.stdout.write(json.dumps({**versions, "policies": found}) + "\n")


if __name__ == "__main__":
    main()
