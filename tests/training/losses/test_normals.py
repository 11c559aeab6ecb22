"""The angle between surfaces: against a loop over pixels, and on planes of known normals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from depth_maps import batch, gradient_of
from torch import Tensor

from spaceclip_plugin.training.losses.normals import normals_loss


def slow_normals(prediction: Tensor, target: Tensor, valid: Tensor, stride: int) -> float:
    """Three points in space, their cross product, and the angle: pixel by pixel."""
    batch_size, height, width = target.shape

    def point(depth: Tensor, b: int, y: int, x: int) -> np.ndarray:
        ray = np.array([(x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5, 1.0])
        return depth[b, y, x].item() * ray

    def normal(depth: Tensor, b: int, y: int, x: int) -> np.ndarray:
        here = point(depth, b, y, x)
        across = np.cross(point(depth, b, y, x + stride) - here, point(depth, b, y + stride, x) - here)
        return across / np.linalg.norm(across)

    terms = [
        1 - normal(prediction, b, y, x) @ normal(target, b, y, x)
        for b in range(batch_size)
        for y in range(height - stride)
        for x in range(width - stride)
        if valid[b, y, x] and valid[b, y, x + stride] and valid[b, y + stride, x]
    ]
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("size", [(2, 11, 14), (1, 5, 9), (1, 4, 4), (2, 1, 7)])
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("known", [0.7, 0.2])
def test_pixel_by_pixel(size: tuple[int, int, int], stride: int, known: float) -> None:
    prediction, target, _ = batch(*size)
    valid = torch.rand(*size, generator=torch.Generator().manual_seed(2)) < known
    valid[0, 0, 0] = True
    target = torch.where(valid, target.clamp_min(1.0), 0.0)
    expected = slow_normals(prediction, target, valid, stride)
    value = normals_loss(prediction, target, valid=valid, stride=stride)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    single = normals_loss(prediction.float(), target.float(), valid=valid, stride=stride)
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def plane(normal: tuple[float, float, float], hw: tuple[int, int]) -> Tensor:
    """Depth of the points X with normal . X = 3, through a lens one width and one height long."""
    y = (torch.arange(hw[0], dtype=torch.float64) + 0.5)[:, None] / hw[0] - 0.5
    x = (torch.arange(hw[1], dtype=torch.float64) + 0.5) / hw[1] - 0.5
    return (3 / (normal[0] * x + normal[1] * y + normal[2]))[None]


@pytest.mark.parametrize("hw", [(24, 24), (12, 40)])
def test_two_planes_are_as_far_apart_as_their_normals(hw: tuple[int, int]) -> None:
    one, other = plane((0.0, 0.0, 1.0), hw), plane((0.6, 0.0, 0.8), hw)
    value = normals_loss(one, other, valid=one > 0)
    assert value.item() == pytest.approx(1 - 0.8, rel=1e-9)
    tilted = plane((0.0, math.sin(0.3), math.cos(0.3)), hw)
    assert normals_loss(tilted, one, valid=one > 0).item() == pytest.approx(1 - math.cos(0.3), rel=1e-9)


def test_ripples_on_a_plane_cost_and_a_perfect_map_costs_nothing() -> None:
    flat = plane((0.3, -0.2, 0.9), (24, 24))
    ripples = flat * (1 + 0.01 * torch.sin(torch.arange(24, dtype=torch.float64)))
    assert normals_loss(flat, flat, valid=flat > 0).item() == 0.0
    assert normals_loss(ripples, flat, valid=flat > 0).item() > 1e-3
    assert normals_loss(flat.float(), flat.float(), valid=flat > 0).item() == 0.0


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e3, 1e30])
def test_impossible_depth_stays_finite(value: float) -> None:
    _, target, valid = batch(2, 12, 12, dtype=torch.float32)
    depth = target.clamp_min(1.0)
    depth[:, ::2] = value
    depth.requires_grad_()
    loss = normals_loss(depth, target, valid=valid)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient_of(loss, depth)).all()
