"""A clip as one file, without loss, that shows any damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spaceclip_plugin import Intrinsics
from spaceclip_plugin._files import atomic_path
from spaceclip_plugin._tensor_files import NotedTensors
from spaceclip_plugin.errors import CheckpointError
from spaceclip_worlds.clip import ClipFrame
from spaceclip_worlds.metaworld.packing import (
    packed_depth,
    packed_image,
    packed_mask,
    unpacked_depth,
    unpacked_image,
    unpacked_mask,
)

_FILES = NotedTensors(
    entry="spaceclip_metaworld_clip",
    keys=("shows", "focal_px", "sha256"),
    max_header_bytes=1_000_000,
)


def write_clip(path: Path, frames: Sequence[ClipFrame], *, shows: str) -> None:
    """Keep a clip.

    Args:
        path: of the file, which is whole or absent at any time.
        frames: what to keep; all have the intrinsics of the first, whose principal point is the image's centre.
        shows: what decides its content, for `read_clip`.

    Raises:
        ConfigError: there can be no file.
        OSError: the disk is full, say.
    """
    tensors = {
        "camera_to_world": torch.from_numpy(np.stack([frame.camera_to_world for frame in frames])),
        "time_s": torch.tensor([frame.time_s for frame in frames], dtype=torch.float64),
    }
    for number, frame in enumerate(frames):
        tensors[f"png {number}"] = packed_image(frame.image)
        tensors[f"depth {number}"] = packed_depth(frame.depth_m)
        tensors[f"moved {number}"] = packed_mask(frame.moved)
    with atomic_path(path) as temporary:
        _FILES.write(temporary, tensors, {"shows": shows, "focal_px": frames[0].intrinsics.fy_px})


def read_clip(path: Path, *, shows: str) -> tuple[ClipFrame, ...]:
    """The frames of a file, the same bits as were written.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it shows something else.
    """
    note, tensors = _FILES.read(path)
    if note["shows"] != shows:
        raise CheckpointError(f"{str(path)!r} shows {note['shows']!r}, expected {shows!r}; it was renamed")
    focal_px = float(note["focal_px"])
    poses, times_s = tensors["camera_to_world"].numpy(), tensors["time_s"].tolist()
    frames = []
    for number, (pose, time_s) in enumerate(zip(poses, times_s, strict=True)):
        image = unpacked_image(tensors[f"png {number}"])
        height, width = hw = (image.shape[0], image.shape[1])
        depth_m = unpacked_depth(tensors[f"depth {number}"], hw)
        moved = unpacked_mask(tensors[f"moved {number}"], hw)
        intrinsics = Intrinsics(focal_px, focal_px, 0.5 * width, 0.5 * height, hw)
        frames.append(ClipFrame(image, depth_m, moved, intrinsics, pose, time_s))
    return tuple(frames)
