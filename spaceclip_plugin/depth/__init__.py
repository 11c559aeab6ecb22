"""Depth maps, their cameras, and their ways out: points, pictures, files, and the right scale."""

from spaceclip_plugin.depth.alignment import Alignment, align_to_contacts, align_to_plane, align_to_ranges
from spaceclip_plugin.depth.arrays import DepthArrays
from spaceclip_plugin.depth.camera import Intrinsics, back_project
from spaceclip_plugin.depth.depth_map import DepthMap
from spaceclip_plugin.depth.distortion import DistortedCamera
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.known_depth import Plane
from spaceclip_plugin.depth.pictures import PanelRow, depth_panel, depth_picture
from spaceclip_plugin.depth.scale_evidence import CameraHeight, Contacts, KnownObject, PlaneSeen, Ranges
from spaceclip_plugin.depth.scale_filter import ScaleFilter, Verdict
from spaceclip_plugin.depth.writing import write_png

__all__ = [
    "Alignment",
    "CameraHeight",
    "Contacts",
    "DepthArrays",
    "DepthMap",
    "DistortedCamera",
    "ImageMapping",
    "Intrinsics",
    "KnownObject",
    "PanelRow",
    "Plane",
    "PlaneSeen",
    "Ranges",
    "ScaleFilter",
    "Verdict",
    "align_to_contacts",
    "align_to_plane",
    "align_to_ranges",
    "back_project",
    "depth_panel",
    "depth_picture",
    "write_png",
]
