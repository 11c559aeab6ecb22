"""How photos are prepared for a host's tower: as a user says, else as the policy or the host's own files do it."""

from __future__ import annotations

import logging

from torch import nn

from spaceclip_plugin.attach.declared import declared_cameras
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
    said = said_by_user(holders)
    if said is not None:
        return DeclaredPreparation(said, spec)
    declared = declared_cameras(holders)
    if declared is not None and declared.preparation is not None:
        return declared.preparation
    found = said_by_host(holders)
    if isinstance(found, UnknownGeometry):
        raise HostError(
            f"how the host prepares photos is not understood: {found.reason}. Say how they shall be: --preparation "
            f"{WAYS} (in Python ImageGeometry.parse(…).declare(host)); what is meant for its own images is not changed"
        )
    if declared is not None and found is None:
        _logger.warning(
            "how %s prepares photos is not known: they are stretched to its tower's image; say otherwise with "
            "--preparation %s", declared.policy, WAYS,
        )  # fmt: skip
    return DeclaredPreparation(ImageGeometry.STRETCH if found is None else found, spec)
