"""Depth of the frames of a video, through an attachment that keeps depth steady."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_world import head, host
from torch import nn

from spaceclip_plugin import DepthHead, Intrinsics, attach_depth_head
from spaceclip_plugin.evaluation import predict

__all__ = ["head", "host"]  # fixtures

LENS = Intrinsics(50.0, 50.0, 32.0, 24.0, (48, 64))


@pytest.mark.parametrize("cameras", [None, ["front"], ["left", "right"]])
def test_frames_are_one_camera_s(host: nn.Module, head: DepthHead, cameras: list[str] | None) -> None:
    """Of a host with several cameras, too, of which each step shows but this one."""
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    name = None if cameras is None else cameras[0]
    with attach_depth_head(host, head, cameras=cameras) as attachment:
        attachment.keep_steady()
        frames = []
        for _ in range(3):
            attachment.place({name: np.eye(4)})
            frames.append(predict(attachment, [photo], output_hw=(48, 64), intrinsics=LENS, camera=name))
    assert [frame.camera for frame in frames] == [name] * 3
    assert [one.frames for frame in frames for one in frame.steady] == [1, 2, 3]
    assert [frame.intrinsics for frame in frames] == [LENS.resized((32, 32))] * 3  # of the stretched photo
    torch.testing.assert_close(frames[2].depth_m, frames[0].depth_m, rtol=1e-3, atol=1e-3)
