"""Running a watched tower alone, without the rest of its host."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.image_geometry import ImageMapping
from spaceclip_plugin.module_state import in_eval_mode
from spaceclip_plugin.taps import FrameRecorder


def run_alone(
    recorder: FrameRecorder, pixels: Tensor, *, view: str | None, mapping: ImageMapping | Literal["host"] | None
) -> None:
    """Run the tower on images, so that its recorder has a frame of them.

    Args:
        recorder: started.
        pixels: (B, 3, H, W), as the tower takes them; moved to its device and dtype.
        view, mapping: what the frame shall say of them; see `RawFrame`.

    Raises:
        ConfigError: not such a tensor, or an empty batch.
        CaptureError: the tower does not take images of that size.
    """
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ConfigError(f"refresh takes a non-empty batch of images (B, 3, H, W), got {shape}")
    tower = recorder.tower
    # FSDP leaves a sharded module no parameters of its own, offloading leaves them on the meta device.
    weight = next((p for p in tower.module.parameters() if p.is_floating_point()), pixels)
    device = pixels.device if weight.is_meta else weight.device
    before = recorder.newest()
    try:
        with torch.no_grad(), in_eval_mode(tower.module):  # in train mode it would draw random numbers
            tower.adapter.run(tower, pixels.to(device, weight.dtype))
    except CaptureError:
        raise
    except (ValueError, RuntimeError, AssertionError) as error:  # how the libraries refuse a size
        recorder.abandon()
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        height, width = tower.spec.image_hw
        raise CaptureError(
            f"the {tower.spec} refused images of shape {tuple(pixels.shape)}: {error}. "
            f"It was built for {height}x{width}; prepare images with data.preparation.prepare"
        ) from error
    frame = recorder.newest()
    if frame is not None and frame is not before:
        frame.view, frame.mapping = view, mapping
