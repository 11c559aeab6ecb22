"""Which family a LeRobot policy is of, by its class.

Sources: LeRobot 0.4.4 and 0.6.1, of which nothing is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from spaceclip_plugin.bridges.lerobot.families.clip_crops import MultiTaskDiT
from spaceclip_plugin.bridges.lerobot.families.family import Family
from spaceclip_plugin.bridges.lerobot.families.internvl import Evo1
from spaceclip_plugin.bridges.lerobot.families.molmo import MolmoAct2
from spaceclip_plugin.bridges.lerobot.families.padded import PI0, SMOLVLA, XVLA
from spaceclip_plugin.bridges.lerobot.families.qwen import EO1, VLAJEPA, Groot, WallX

_FAMILIES: Mapping[str, Family] = {
    "PI0Policy": PI0,
    "PI05Policy": PI0,
    "PI0FastPolicy": PI0,
    "SmolVLAPolicy": SMOLVLA,
    "XVLAPolicy": XVLA,
    "MultiTaskDiTPolicy": MultiTaskDiT(),
    "Evo1Policy": Evo1(),
    "VLAJEPAPolicy": VLAJEPA(),
    "WallXPolicy": WallX(),
    "EO1Policy": EO1(),
    "GrootPolicy": Groot(),
    "MolmoAct2Policy": MolmoAct2(),
}


def family_of(policy: nn.Module) -> Family | None:
    """By class name along the MRO; None for another policy, whose methods of these names may do something else."""
    return next((found for cls in type(policy).__mro__ if (found := _FAMILIES.get(cls.__name__))), None)
