"""What a transformers host declares of its images, as the image processor beside it says: statistics and geometry."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from spaceclip_adapters.hosts.hub_files import NotInRepositoryError, fetch
from spaceclip_adapters.hosts.image_processors import (
    FILES,
    image_size_of_processor,
    read_processor,
    statistics_of_processor,
)
from spaceclip_adapters.hosts.processor_geometry import geometry_of_processor
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import ImageStatistics
from spaceclip_plugin.towers.image_geometry import say_host_geometry

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)


def declare_processor(
    model: nn.Module, name: str, config: PretrainedConfig, *, commit: str | None, said: ImageStatistics | None
) -> None:
    """Have a host declare what its image processor does, as open_clip's models do.

    Args:
        model: the host, which gets `image_mean`, `image_std` and an `ImageGeometry` where a processor is found.
        name: its Hub id or folder.
        config: its config.
        commit: of the repository; None for a folder, or where it is not known.
        said: what the user says of the statistics; a processor whose own are not understood is then passed over.

    Raises:
        HostError: a processor that is damaged or not understood, and nothing said instead.
    """
    try:
        found = _processor(name, config, commit, quiet=said is not None)
        if found is None:
            return
        values, source = found
        geometry = geometry_of_processor(
            values, source=source, tower_hw=_declared_size(config), model_type=config.model_type
        )
        if geometry is not None:
            say_host_geometry(model, geometry)
        statistics = statistics_of_processor(values, source=source)
    except HostError as error:
        if said is None:
            raise
        logger.warning("the image processor of %s is passed over for what was said: %s", name, error)
        return
    model.image_mean, model.image_std = statistics.mean, statistics.std  # type: ignore[assignment]
    logger.info("%s: images are normalised with %s, as %s says", name, statistics, source)
    fed, built = image_size_of_processor(values), _declared_size(config)
    if fed is not None and built is not None and fed != built:
        logger.warning(
            "%s makes images of %dx%d pixels, the config of %s declares %dx%d; images are prepared at the declared "
            "size, and a host that runs at the other gives other features",
            source, *fed, name, *built,
        )  # fmt: skip


def _processor(
    name: str, config: PretrainedConfig, commit: str | None, *, quiet: bool
) -> tuple[Mapping[str, Any], str] | None:
    """The settings of the image processor beside a checkpoint, and where they stand; a warning where there is none."""
    folder = Path(name)
    unknown = "none lies beside its weights"
    for filename in FILES:
        if folder.is_dir():
            path = folder / filename
            if not path.is_file():
                continue
        else:
            try:
                path = fetch(name, [filename], revision=commit, remedies="").path
            except NotInRepositoryError:
                continue
            except HostError as error:
                unknown = str(error)
                continue
        values = read_processor(path)
        if values is not None:
            return values, f"{filename} of {name!r}"
    trained = getattr(config, "pretrained_cfg", None)  # a timm model inside transformers
    if isinstance(trained, Mapping) and trained.get("mean") and trained.get("std"):
        values = {"image_mean": trained["mean"], "image_std": trained["std"]}
        return values, f"pretrained_cfg in the config of {name!r}"
    if not quiet:
        logger.warning(
            "%s: its image processor is not known (%s): images are normalised as its family usually is, and photos "
            "stretched; where it was trained otherwise, say --image-mean and --image-std, and --preparation",
            name, unknown,
        )  # fmt: skip
    return None


def _declared_size(config: PretrainedConfig) -> tuple[int, int] | None:
    """The (height, width) that a config declares for its tower; None where it declares none."""
    for part in (getattr(config, "vision_config", None), config):
        match getattr(part, "image_size", None):
            case bool():
                continue
            case int(side):
                return side, side
            case [int(height), int(width)]:
                return height, width
    return None
