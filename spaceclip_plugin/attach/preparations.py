"""How photos are prepared for a host's tower: as a user says, else as the policy or the host's own files do it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from spaceclip_plugin.attach.declared import PolicyCameras, declared_cameras
from spaceclip_plugin.data.preparation import DeclaredPreparation, ImagePreparation
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import ImageGeometry, TowerSpec
from spaceclip_plugin.towers.adapter import lineage
from spaceclip_plugin.towers.image_geometry import WAYS, UnknownGeometry, said_by_host, said_by_user

_logger = logging.getLogger(__name__)


def preparation_of(host: nn.Module, spec: TowerSpec) -> ImagePreparation:
    """What makes images of the tower of that spec out of photos; where nothing is declared, they are stretched.

    Raises:
        HostError: the host says how it does it, in a way that is not understood.
    """
    holders = [*lineage(host, spec.path)]
    declared = declared_cameras(holders)
    told = told_preparation(holders, spec, declared)
    if told is not None:
        return told
    if declared is not None:
        _logger.warning(
            "how %s prepares photos is not known%s: they are stretched to its tower's image; say otherwise with "
            "--preparation %s", declared.policy, declared.lacking and f" ({declared.lacking})", WAYS,
        )  # fmt: skip
    return DeclaredPreparation(ImageGeometry.STRETCH, spec)


def told_preparation(
    holders: Sequence[nn.Module], spec: TowerSpec, declared: PolicyCameras | None
) -> ImagePreparation | None:
    """What a user, the policy or the host's own files tell of a tower with these holders; None where none does.

    Raises:
        HostError: see `preparation_of`.
    """
    said = said_by_user(holders)
    if said is not None:
        return DeclaredPreparation(said, spec)
    if declared is not None and declared.preparation is not None:
        return declared.preparation
    found = said_by_host(holders)
    if isinstance(found, UnknownGeometry):
        raise HostError(
            f"how the host prepares photos is not understood: {found.reason}. Say how they shall be: --preparation "
            f"{WAYS} (in Python ImageGeometry.parse(…).declare(host)); what is meant for its own images is not changed"
        )
    return None if found is None else DeclaredPreparation(found, spec)
