"""The live link between a frozen host and a head.

`attaching` checks everything and puts `taps` on the tower; what these hand to the `recorder` is made into depth by
`decoding` once the `attachment` is read, by hand or by a `reader` beside a control loop.
"""

from spaceclip_plugin.attach.attaching import attach_depth_head
from spaceclip_plugin.attach.attachment import DepthAttachment
from spaceclip_plugin.attach.declared import CameraOrder, PolicyCameras
from spaceclip_plugin.attach.reader import DepthReader
from spaceclip_plugin.attach.recorder import UnreadFrames
from spaceclip_plugin.attach.tower_match import TowerMatch
from spaceclip_plugin.attach.verification import VerifyReport
from spaceclip_plugin.data.preparation import ImagePreparation

__all__ = [
    "CameraOrder",
    "DepthAttachment",
    "DepthReader",
    "ImagePreparation",
    "PolicyCameras",
    "TowerMatch",
    "UnreadFrames",
    "VerifyReport",
    "attach_depth_head",
]
