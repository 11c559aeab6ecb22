"""Running a watched tower alone, without the rest of its host and without a change to it."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from spaceclip_plugin.attach.eval_twin import can_have_twin, eval_twin
from spaceclip_plugin.attach.taps import FrameRecorder
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.towers.module_state import in_eval_mode
from spaceclip_plugin.towers.spec import Tower


def run_alone(
    recorder: FrameRecorder, pixels: Tensor, *, view: str | None, mapping: ImageMapping | Literal["host"] | None
) -> None:
    """Run the tower on images in eval mode, so that its recorder has a frame of them.

    A tower in train mode would draw random numbers. Its mode is not touched, for another thread may run the host: what
    runs then is its `eval_twin`. Only a tower whose `forward` someone replaced has none, and is switched and back.

    Args:
        recorder: started.
        pixels: (B, 3, H, W), as the tower takes them; moved to its device and dtype.
        view, mapping: what the frame shall say of them; see `RawFrame`.

    Raises:
        ConfigError: not such a tensor, an empty batch, or something else than a mapping.
        CaptureError: the tower does not take images of that size.
    """
    if not (mapping is None or isinstance(mapping, ImageMapping) or (isinstance(mapping, str) and mapping == "host")):
        raise ConfigError(f'mapping of refresh is one ImageMapping, None or "host", got {mapping!r}')
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ConfigError(f"refresh takes a non-empty batch of images (B, 3, H, W), got {shape}")
    tower = recorder.tower
    # FSDP leaves a sharded module no parameters of its own, offloading leaves them on the meta device.
    weight = next((p for p in tower.module.parameters() if p.is_floating_point()), pixels)
    device = pixels.device if weight.is_meta else weight.device
    if any(part.training for part in tower.module.modules()) and can_have_twin(tower.module):
        tower = _twin(tower)
    before = recorder.newest()
    try:
        with torch.no_grad(), in_eval_mode(tower.module):
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
        frame.camera, frame.mapping = view, mapping


def _twin(tower: Tower) -> Tower:
    twins: dict[nn.Module, nn.Module] = {}
    module = eval_twin(tower.module, twins)
    return dataclasses.replace(
        tower,
        module=module,
        entry=twins.get(tower.entry, tower.entry),
        blocks=tuple(twins.get(block, block) for block in tower.blocks),
        context_source=None if tower.context_source is None else twins.get(tower.context_source, tower.context_source),
    )
