"""Synthetic and recorded RGB-D: lists, image files, rendered scenes."""
