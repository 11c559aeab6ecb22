"""The live link between a frozen host and a head.

On the way from an image call to depth: `taps` on the tower's modules hand activations to the `recorder`; `decoding`
makes depth of them; `cameras` says which camera a call was of and `camera_mappings` where its pixels lie; `attachment`
hands out depth maps, and `reader` does so beside a control loop. `attaching` checks everything first (`tower_match`,
`declared`); `verification`, `host_state` and `compiled_code` see to it that the host stays as it is.
"""

from spaceclip_plugin.attach.attaching import attach_depth_head
from spaceclip_plugin.attach.attachment import DepthAttachment
from spaceclip_plugin.attach.declared import CameraOrder, PolicyCameras
from spaceclip_plugin.attach.reader import DepthReader
from spaceclip_plugin.attach.recorder import UnreadFrames
from spaceclip_plugin.attach.tower_match import TowerMatch
from spaceclip_plugin.attach.verification import VerifyReport

__all__ = [
    "CameraOrder",
    "DepthAttachment",
    "DepthReader",
    "PolicyCameras",
    "TowerMatch",
    "UnreadFrames",
    "VerifyReport",
    "attach_depth_head",
]
