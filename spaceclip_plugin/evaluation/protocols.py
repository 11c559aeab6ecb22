"""The evaluation protocols by name: regions of Eigen et al. 2014 and Garg et al. 2016, and the KITTI benchmark crop.

The "spaceclip" protocols are those behind the figures of arXiv 2601.17657 and serve only to compare with them.
"""

from __future__ import annotations

from dataclasses import replace

from spaceclip_plugin import _checks
from spaceclip_plugin.evaluation.protocol import FractionRegion, PixelRegion, Protocol

_KITTI_GARG = FractionRegion(top=0.40810811, bottom=0.99189189, left=0.03594771, right=0.96405229)

_NYU = Protocol(
    name="nyu-eigen",
    description="NYU: Eigen region of 480x640",
    depth_scale=1000.0,
    max_depth_m=10.0,
    region=PixelRegion(top=45, bottom=471, left=41, right=601, image_hw=(480, 640)),
    median_range_m=(0.5, 8.0),
)
_KITTI = Protocol(
    name="kitti-eigen",
    description="KITTI: benchmark crop, Eigen region of the native size after pasting back (BTS variant)",
    depth_scale=256.0,
    max_depth_m=80.0,
    region=FractionRegion(top=0.3324324, bottom=0.91351351, left=0.0359477, right=0.96405229),
    kb_crop=True,
    median_range_m=(4.0, 60.0),
)
_ALL = (
    _NYU,
    replace(
        _NYU,
        name="nyu-eigen-inner",
        description="NYU: Eigen region of 480x640, and the host does not see the photos' white frame of 8 pixels",
        frame_px=8,
    ),
    _KITTI,
    replace(
        _KITTI,
        name="kitti-garg",
        description="KITTI: benchmark crop, Garg region of the native size after pasting back (BTS variant)",
        region=_KITTI_GARG,
    ),
    replace(
        _KITTI,
        name="kitti-eigen-crop",
        description="KITTI: benchmark crop, Eigen region of the 352x1216 crop (AdaBins and ZoeDepth variant)",
        region_within="crop",
    ),
    replace(
        _KITTI,
        name="kitti-garg-crop",
        description="KITTI: benchmark crop, Garg region of the 352x1216 crop (AdaBins and ZoeDepth variant)",
        region=_KITTI_GARG,
        region_within="crop",
    ),
    replace(
        _NYU, name="spaceclip-nyu", description="NYU as SPACE-CLIP scored it: whole image", region=None, frame_px=0
    ),
    replace(
        _KITTI,
        name="spaceclip-kitti",
        description="KITTI as SPACE-CLIP scored it: no crop, target resized to 352x704, Eigen region of that",
        kb_crop=False,
        resized_hw=(352, 704),
    ),
    Protocol(
        name="whole-image",
        description="Data of your own: whole image of any size, depth in millimetres",
        depth_scale=1000.0,
        max_depth_m=10.0,
    ),
)
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ConfigError: there is none of that name; says which there are.

    Example:
        >>> protocol = get_protocol("kitti-garg")
        >>> protocol.max_depth_m, protocol.crop_box((375, 1242))
        (80.0, (23, 13, 352, 1216))
    """
    return PROTOCOLS[_checks.choice("protocol", name, PROTOCOLS)]
