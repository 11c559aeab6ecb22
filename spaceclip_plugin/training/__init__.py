"""Train a head for a frozen host: the data's way from samples to features, the loop, and the folder of a run.
README.md beside this file is the guide."""

from spaceclip_plugin.training.auxiliary import AuxiliaryDepth
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.config.run_config import RunConfig
from spaceclip_plugin.training.losses import LOSSES, DepthLoss
from spaceclip_plugin.training.result import TrainingResult
from spaceclip_plugin.training.run.options import RunOptions
from spaceclip_plugin.training.trainer import DepthTrainer

__all__ = [
    "LOSSES",
    "AuxiliaryDepth",
    "DepthLoss",
    "DepthTrainer",
    "Recipe",
    "RunConfig",
    "RunOptions",
    "TrainingResult",
]
