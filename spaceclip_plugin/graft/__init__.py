"""Depth into a frozen policy: blocks of its action expert read a bank of what its own tower sees, where and how far.

No gain is shown beyond the spread of seeds: the guide tells what was measured.
"""

from spaceclip_plugin.graft.attention import Attention, spotlit
from spaceclip_plugin.graft.config import GraftConfig
from spaceclip_plugin.graft.depth_graft import DepthGraft

__all__ = ["Attention", "DepthGraft", "GraftConfig", "spotlit"]
