"""Depth maps, their cameras, and their ways out: points, pictures, files, and the right scale."""

from spaceclip_plugin.depth.alignment import Alignment, Plane, align_to_contacts, align_to_plane, align_to_ranges
from spaceclip_plugin.depth.arrays import DepthArrays
from spaceclip_plugin.depth.camera import Intrinsics, back_project
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.distortion import DistortedCamera
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.pictures import PanelRow, depth_panel, depth_picture
from spaceclip_plugin.depth.writing import write_png

__all__ = [
    "Alignment",
    "DepthArrays",
    "DepthMap",
    "DistortedCamera",
    "ImageMapping",
    "Intrinsics",
    "PanelRow",
    "Plane",
    "align_to_contacts",
    "align_to_plane",
    "align_to_ranges",
    "back_project",
    "depth_panel",
    "depth_picture",
    "write_png",
]
