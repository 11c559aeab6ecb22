"""Towers: what a vision tower is, which towers a host has, and how their activations become features.

For who writes an adapter for a family of towers, and for who opens hosts by name; see adapters/README.md.
"""

from spaceclip_plugin.towers.adapter import Adapter, TowerParts
from spaceclip_plugin.towers.hosts import load_host
from spaceclip_plugin.towers.image_geometry import ImageGeometry
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.towers.packed_reader import PackedReader
from spaceclip_plugin.towers.registry import find_towers
from spaceclip_plugin.towers.seen_part import SeenPart
from spaceclip_plugin.towers.spec import ImageCall, RawFrame, Tower, TowerFeatures, TowerSpec
from spaceclip_plugin.towers.token_adapter import TokenAdapter, TokenReader

__all__ = [
    "Adapter",
    "ImageCall",
    "ImageGeometry",
    "ImageStatistics",
    "PackedReader",
    "RawFrame",
    "SeenPart",
    "TokenAdapter",
    "TokenReader",
    "Tower",
    "TowerFeatures",
    "TowerParts",
    "TowerSpec",
    "find_towers",
    "load_host",
]
