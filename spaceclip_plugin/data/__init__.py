"""RGB-D data: samples and their sources, photos as a tower wants them, augmented versions, and the check of units."""

from spaceclip_plugin.data.augmentation import Augmentation
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.data.sample import DepthSample, DepthSource
from spaceclip_plugin.data.sources.depth_list import DepthList
from spaceclip_plugin.data.sources.image_folder import ImageFolder
from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.data.sources.registry import parse_source
from spaceclip_plugin.data.sources.selective import SelectiveSource
from spaceclip_plugin.data.sources.spec import SourceSpec
from spaceclip_plugin.data.units import check_depth_units
from spaceclip_plugin.data.version import Version

__all__ = [
    "Augmentation",
    "DepthList",
    "DepthSample",
    "DepthSource",
    "ImageFolder",
    "Mixture",
    "SelectiveSource",
    "SourceSpec",
    "Version",
    "check_depth_units",
    "parse_source",
    "prepare",
]
