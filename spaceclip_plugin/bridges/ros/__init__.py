"""Depth as ROS 2 messages and in MCAP files, without ROS."""

from spaceclip_plugin.bridges.ros.mcap_writer import McapWriter
from spaceclip_plugin.bridges.ros.messages import camera_info, colour_image, depth_image, header, point_cloud

__all__ = ["McapWriter", "camera_info", "colour_image", "depth_image", "header", "point_cloud"]
