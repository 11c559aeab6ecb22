"""Synthetic and recorded RGB-D: lists, folders, LeRobot data sets, rendered scenes, and what is done with them."""
