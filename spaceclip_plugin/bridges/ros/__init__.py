"""Depth as ROS 2 messages and in MCAP files, without ROS."""
