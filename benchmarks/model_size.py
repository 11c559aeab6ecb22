"""How large a model is: parameters, operations, and the memory that a run of it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


def size_of(model: nn.Module, given: Any) -> dict[str, float]:
    """Parameters, operations, extra memory. Operations are 2 per multiplication of convolutions, matrix products and
    attention; others are not counted.
    """
    with torch.no_grad():
        in_place = dict.fromkeys((torch.ops.aten.addmm_, torch.ops.aten.baddbmm_), product_flop)
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            model(given)
        peak = peak_bytes(lambda: model(given), next(model.parameters()).device)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflop": round(counter.get_total_flops() / 1e9, 3),
        "peak_mb": round(peak / 1e6, 2),
    }


def product_flop(_sum: Sequence[int], left: Sequence[int], _right: Sequence[int], *, out_shape: Sequence[int]) -> int:
    """Of a product that is added in place, by shapes, which torch does not count."""
    return 2 * math.prod(out_shape) * left[-1]


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most memory that was held at a time beyond what was before, the result included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # The allocator's own log also has what lives and dies inside one operator.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        run()
    held = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
