"""What the preprocessor saved beside a policy says of its steps; nothing of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.bridges.lerobot.families.family import setting
from spaceclip_plugin.errors import CheckpointError, HostError

_FILE = "policy_preprocessor.json"


def saved_step(policy: nn.Module, name: str) -> dict[str, Any]:
    """The settings of the step of that name, in the preprocessor in the folder that the policy's config names.

    HostError where there is none.
    """
    folder = setting(policy, "pretrained_path")
    if folder is None:
        raise HostError(
            f"how its images are prepared stands in the step {name!r} of its preprocessor, and the policy does not "
            "say which folder it is of; load it by name (lerobot:FOLDER), or set policy.config.pretrained_path to it"
        )
    path = Path(folder) / _FILE
    try:
        steps: Any = read_json_object(path)["steps"]
        return dict(next(step["config"] for step in steps if step.get("registry_name") == name))
    except (CheckpointError, KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        raise HostError(f"{str(path)!r} has no step {name!r}, which prepares this policy's images") from error
