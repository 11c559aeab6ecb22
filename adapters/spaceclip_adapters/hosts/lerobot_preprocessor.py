"""What the preprocessor saved beside a LeRobot policy says of its images: the statistics they are normalised with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from spaceclip_adapters.hosts.hub_files import NotInRepositoryError, fetch
from spaceclip_adapters.hosts.weights import read_safetensors
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.errors import CheckpointError, ConfigError, HostError
from spaceclip_plugin.towers import ImageStatistics

_FILE, _STEP = "policy_preprocessor.json", "normalizer_processor"

logger = logging.getLogger(__name__)


def declare_preprocessor(policy: Any, name: str, folder: Path, *, commit: str | None) -> None:
    """Tell a policy which folder it is of, and have it declare what its preprocessor normalises images with.

    Args:
        policy: a LeRobot policy; its config gets `pretrained_path`, as LeRobot itself sets it, and where images are
            normalised by mean and deviation, the policy gets `image_mean` and `image_std`.
        name: its Hub id or folder.
        folder: with its config.json.
        commit: of the repository; None for a folder.
    """
    policy.config.pretrained_path = folder
    modes = getattr(policy.config, "normalization_mapping", None) or {}
    mode = modes.get("VISUAL")
    try:
        if commit is not None:
            fetch(name, [_FILE], revision=commit, remedies="")
        if getattr(mode, "value", mode) != "MEAN_STD":
            return
        file = _state_file(folder)
        if commit is not None:
            fetch(name, [file.name], revision=commit, remedies="")
        statistics = _statistics(policy.config.image_features, read_safetensors(file, downloaded=commit is not None))
    except (NotInRepositoryError, HostError, CheckpointError, ConfigError) as error:
        logger.warning("what the preprocessor of %s does to images is not known: %s", name, error)
        return
    policy.image_mean, policy.image_std = statistics.mean, statistics.std
    logger.info("%s: images are normalised with %s, as its preprocessor says", name, statistics)


def _state_file(folder: Path) -> Path:
    """That of the normalizer."""
    steps: Any = read_json_object(folder / _FILE).get("steps")
    found = [step for step in steps if step.get("registry_name") == _STEP] if isinstance(steps, list) else []
    files = [folder / Path(str(step["state_file"])).name for step in found if step.get("state_file")]
    if len(files) != 1:
        raise HostError(f"{str(folder / _FILE)!r} has {len(files)} steps {_STEP!r} with statistics, expected one")
    return files[0]


def _statistics(cameras: Mapping[str, object], kept: Mapping[str, Tensor]) -> ImageStatistics:
    """Of all cameras, which must agree. A normalizer leaves images that it keeps nothing of as they are."""
    found = set()
    for camera in cameras:
        mean, std = (kept.get(f"{camera}.{statistic}") for statistic in ("mean", "std"))
        if mean is None or std is None:
            found.add(ImageStatistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
        else:
            red, green, blue = zip(mean.flatten().tolist(), std.flatten().tolist(), strict=True)
            found.add(ImageStatistics(*zip(red, green, blue, strict=True)))
    if len(found) != 1:
        raise HostError(f"its cameras are normalised with {len(found)} different statistics, and its tower has one")
    return found.pop()
