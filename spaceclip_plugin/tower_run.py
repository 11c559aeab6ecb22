"""Running a tower alone, without the rest of its host and without a change to it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from spaceclip_plugin.eval_twin import can_have_twin, eval_twin
from spaceclip_plugin.module_state import in_eval_mode
from spaceclip_plugin.tower import Tower


def run_alone(tower: Tower, pixels: Tensor) -> None:
    """Run the tower on prepared images, in eval mode, on its own device and in its own dtype; its hooks are called.

    A tower in train mode would draw random numbers. Its mode is not touched, for another thread may run the host: what
    runs then is its `eval_twin`. Only a tower whose `forward` someone replaced has none, and is switched and back.

    Args:
        tower: of a live host.
        pixels: (B, 3, H, W).

    Raises:
        CaptureError: a size this tower cannot take. What the tower itself raises passes through.
    """
    # FSDP leaves a sharded module no parameters of its own, offloading leaves them on the meta device.
    weight = next((p for p in tower.module.parameters() if p.is_floating_point()), pixels)
    device = pixels.device if weight.is_meta else weight.device
    if any(part.training for part in tower.module.modules()) and can_have_twin(tower.module):
        tower = _twin(tower)
    with torch.no_grad(), in_eval_mode(tower.module):
        tower.adapter.run(tower, pixels.to(device, weight.dtype))


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
