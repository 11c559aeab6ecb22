"""A tower with its head as a model of transformers."""

from spaceclip_plugin.bridges.transformers.checkpoint import SpaceClipDepthConfig
from spaceclip_plugin.bridges.transformers.model import SpaceClipForDepthEstimation, register

__all__ = ["SpaceClipDepthConfig", "SpaceClipForDepthEstimation", "register"]
