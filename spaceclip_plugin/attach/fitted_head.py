"""The head that a user names, checked against the tower that it is to read: before anything touches the host."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from spaceclip_plugin.errors import ConfigError, HeadMismatchError
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.spec import Tower, TowerSpec

_logger = logging.getLogger(__name__)


def fitted_head(head: DepthHead | str | Path | None, tower: Tower) -> DepthHead:
    """The head itself, read from where it lies, or a fresh one; it fits the tower.

    Args:
        head: a `DepthHead`, taken as it is; the folder or Hub repository of a saved one; None for a fresh one to train.
        tower: what it is to read. Other image statistics than those it was trained with are warned of.

    Raises:
        ConfigError: no head, and nothing that names one.
        CheckpointError: the folder or repository holds no head.
        HeadMismatchError: it does not fit the tower, or reads a context that this one does not give.
    """
    with torch.inference_mode(False):  # a head made in inference mode could never be trained
        if head is None:
            with torch.random.fork_rng(devices=[]):  # attaching draws nothing from the host's random numbers
                head = DepthHead.for_tower(tower).eval().to(tower_device(tower))
        elif isinstance(head, (str, Path)):
            head = DepthHead.from_pretrained(head).to(tower_device(tower))
        elif not isinstance(head, DepthHead):
            raise ConfigError(f"head must be a DepthHead, a folder or None, got {type(head).__name__}")
    head.check_fits(tower.spec)
    if head.uses_context and tower.context_source is None:
        raise HeadMismatchError(
            f"the head reads a {head.config.context!r} context, the {tower.spec} has no module that gives one; "
            "use one that reads none, as DepthHead.for_tower(host) makes"
        )
    _warn_of_other_statistics(head, tower.spec)
    return head


def tower_device(tower: Tower) -> torch.device:
    """Where a tower's weights are.

    Offloaded hosts rest on the meta device; a head then starts on the CPU and moves with .to() like any module.
    """
    for parameter in tower.module.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return torch.device("cpu")


def _warn_of_other_statistics(head: DepthHead, spec: TowerSpec) -> None:
    config, taken = head.config, ImageStatistics.of(spec)
    trained = ImageStatistics(config.image_mean or taken.mean, config.image_std or taken.std)  # None: unknown
    if not trained.agrees(taken):
        _logger.warning(
            "the head was trained on images normalised with %s; the %s takes %s, and depth will be off; where the host "
            "takes the head's after all, say so: --image-mean and --image-std", trained, spec, taken,
        )  # fmt: skip
