"""Heads as training leaves them, features for them, and whether two forms of one head say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin.towers.spec import TowerFeatures

WIDTH = 12
SMALL: dict[str, dict[str, Any]] = {  # hidden states 0, 1, 3 and 5
    "space-clip": {"channels": (8, 4), "semantic_taps": (5, 3), "structural_taps": (1, 0), "film_hidden": 7},
    "tap-mixer": {"channels": (48, 8), "taps": (0, 1, 3, 5), "convolutions": (1, 1), "attention": 1, "pixels": 4},
}
Grids = dict[int, tuple[int, int]]


def lively(head: DepthHead, seed: int = 0) -> DepthHead:
    """The head with norms and biases as training leaves them: at their defaults much of folding is invisible."""
    random = torch.Generator().manual_seed(seed)
    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm2d)]
    published = head.config.architecture == "space-clip"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=random)
            elif not published:
                parameter += 0.1 * torch.randn(parameter.shape, generator=random)
        for norm in norms:
            norm.weight.copy_(torch.rand(norm.weight.shape, generator=random) + 0.5)
            norm.momentum = 1.0
        torch.manual_seed(seed)
        head.train()(features(head, 0, batch=4, grid_hw=(3, 4)))
        for norm in norms:
            norm.momentum = 0.1
        if published:
            head.decoder.depth[-1].bias += 3  # depth ends in a ReLU: far from it, every weight shows
    return head.eval()


def lively_head(
    name: str = "space-clip", /, *, seed: int = 0, tap_widths: tuple[int, ...] | None = None, **options: Any
) -> DepthHead:
    config = DepthHeadConfig(name, {**SMALL[name], **options}, WIDTH, tap_widths, blocks=6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return lively(DepthHead(config), seed)


def features(
    head: DepthHead, seed: int, *, batch: int = 2, grid_hw: tuple[int, int] = (2, 3), grids: Grids | None = None
) -> TowerFeatures:
    """Random features as a tower with a class token leaves them: views of token sequences."""
    random = torch.Generator().manual_seed(seed)
    hidden = {}
    for tap, width in head.config.width_of.items():
        h, w = (grids or {}).get(tap, grid_hw)
        hidden[tap] = torch.randn(batch, 1 + h * w, width, generator=random)[:, 1:].unflatten(1, (h, w)).movedim(3, 1)
    context = torch.randn(batch, head.config.width, generator=random) if head.uses_context else None
    image_hw = (16 * grid_hw[0], 16 * grid_hw[1])
    pixels = torch.randn(batch, 3, *image_hw, generator=random) if head.uses_pixels else None
    return TowerFeatures(hidden, context, image_hw, pixels=pixels)


def assert_same_output(
    fused: Callable[..., Any], plain: DepthHead, output_hw: tuple[int, int] | None = None, **shape: Any
) -> None:
    """The same depth and the same uncertainty, if any, up to rounding."""
    for seed in (1, 2):  # a second input shows a form that froze the first
        given = features(plain, seed, **shape)
        with torch.no_grad():
            expected, got = plain(given, output_hw), fused(given, output_hw)
        pairs = [(got.depth_m, expected.depth_m)]
        assert (got.uncertainty_m is None) == (expected.uncertainty_m is None)
        if expected.uncertainty_m is not None:
            pairs.append((got.uncertainty_m, expected.uncertainty_m))
        for values, truth in pairs:
            assert values.shape == truth.shape
            error, spread = (values - truth).abs().max(), truth.std()
            # Where every unit before the last layer is off, depth is one value, and has its rounding alone.
            assert error <= 1e-4 * spread + 1e-6 * truth.max(), f"error {error:.1e}, spread {spread:.1e}"
