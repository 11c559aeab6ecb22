"""Which LeRobot policy is meant, where a wrapper holds it or none is told.

LeRobot's command lines tell processor steps no policy, and it keeps no list of its policies: then one is guessed.
"""

from __future__ import annotations

import gc
import sys

from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import HostError, SpaceClipError
from spaceclip_plugin.towers import registry


def guessed_policy(head: DepthHead) -> nn.Module:
    """The one LeRobot policy alive in this process whose tower the head fits, found among all objects there are."""
    base = _policy_class()
    gc.collect()  # one that was dropped may wait to be collected
    alive: list[nn.Module] = [] if base is None else [each for each in gc.get_objects() if issubclass(type(each), base)]
    misfits = {id(policy): _misfit(policy, head) for policy in alive}
    fitting = [policy for policy in alive if not misfits[id(policy)]]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(type(policy).__name__ for policy in fitting or alive)) or "none"
    if fitting:
        problem = f"{len(fitting)} LeRobot policies alive in this process have a tower that this head fits: {listed}"
    else:
        problem = f"no LeRobot policy alive in this process has a tower that this head fits (alive: {listed})"
        problem += "".join(f"; {reason}" for reason in dict.fromkeys(misfits.values()))
    raise HostError(f"{problem}; call connect(policy) of both steps with the one that acts")


def policy_inside(module: object) -> nn.Module:
    """The LeRobot policy that a wrapper holds (PEFT, DDP, torch.compile), if it holds one; else the module itself."""
    if not isinstance(module, nn.Module):
        raise HostError(f"connect takes the live policy, a torch.nn.Module, got {type(module).__name__}")
    base = _policy_class()
    if base is None or isinstance(module, base):
        return module
    held = [part for part in module.modules() if isinstance(part, base)]
    return held[0] if len(held) == 1 else module


def _policy_class() -> type[nn.Module] | None:
    """The class of all LeRobot's policies; None where it was never imported, and so none can be alive."""
    return getattr(sys.modules.get("lerobot.policies.pretrained"), "PreTrainedPolicy", None)


def _misfit(policy: nn.Module, head: DepthHead) -> str:
    """Why the head does not fit this policy; empty where it does."""
    try:
        return "; ".join(head.config.mismatches(registry.find_tower(policy).spec))
    except SpaceClipError as error:
        return str(error)
