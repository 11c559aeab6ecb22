"""3x3 convolutions in a quarter of the products: Winograd's F(4x4, 3x3) (Lavin and Gray, 2016, section 4).
In float32 the result differs from the direct one by about 1e-5 of its spread."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from spaceclip_plugin.head.space_clip.folding import parameter

TILE = 4  # outputs along a side
# Where polynomials are evaluated, beside infinity: a third of the rounding of 0, ±1, ±2 (Barabasz et al., 2020).
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
WORTH_IT = 128  # fewest channels that pay for evaluating and interpolating: below, direct was as fast or faster
_SPAN = TILE + 2
_ONES = POINTS.index(1.0) * (_SPAN + 1)  # what is added at the point (1, 1) is interpolated to the same everywhere


def worth_it(weight: Tensor) -> bool:
    """Whether kernels (out, in, k, k) are 3x3 and so many that this is faster on a CPU."""
    return weight.shape[2:] == (3, 3) and min(weight.shape[:2]) >= WORTH_IT


class WinogradConvolution(nn.Module):
    """A 3x3 convolution that keeps height and width; direct where that saves nothing (on a GPU, whose library chooses
    for itself; in a map of less than half its tiles) or rounds too coarsely (half precision)."""

    evaluate: Tensor
    interpolate: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Kernels (out, in, 3, 3) and bias (out,), both float64."""
        super().__init__()
        image, kernel, output = _matrices()
        self.weight, self.bias = parameter(weight), parameter(bias)
        points = torch.einsum("pk,oikl,ql->pqio", kernel, weight, kernel)
        self.points = parameter(points.flatten(0, 1))  # (36, in, out)
        self.register_buffer("evaluate", torch.kron(image, image), persistent=False)  # (36, 36)
        self.register_buffer("interpolate", torch.kron(output, output), persistent=False)  # (16, 36)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h, w); both lie channels last."""
        batch, channels, height, width = x.shape
        rows, columns = -(-height // TILE), -(-width // TILE)
        few = height * width < rows * columns * TILE**2 // 2
        if few or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return conv2d(x, self.weight, self.bias, padding=1)
        margin = (0, 0, 1, columns * TILE + 1 - width, 1, rows * TILE + 1 - height)
        tiles = pad(x.permute(0, 2, 3, 1), margin).unfold(1, _SPAN, TILE).unfold(2, _SPAN, TILE)
        image = self.evaluate @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(_SPAN**2, -1)
        products = image.view(_SPAN**2, -1, channels) @ self.points
        products[_ONES] += self.bias
        out = (self.interpolate @ products.flatten(1)).view(TILE, TILE, batch, rows, columns, -1)
        out = out.permute(2, 3, 0, 4, 1, 5).reshape(batch, rows * TILE, columns * TILE, -1)
        return out[:, :height, :width].permute(0, 3, 1, 2)


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """What evaluates six values of an image, (6, 6), and three of a kernel, (6, 3), and what interpolates, (4, 6).
    Toom and Cook's for products of polynomials, transposed: a network's convolutions are correlations."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    count = len(points)
    others = [points[torch.arange(count) != i] for i in range(count)]
    image = points.new_zeros(_SPAN, _SPAN)
    kernel = points.new_zeros(_SPAN, 3)
    output = points.new_zeros(TILE, _SPAN)
    for i, rest in enumerate(others):
        image[i, :count] = _coefficients(rest)
        kernel[i] = points[i] ** torch.arange(3) / (points[i] - rest).prod()
        output[:, i] = points[i] ** torch.arange(TILE)
    image[-1] = _coefficients(points)
    kernel[-1, -1] = output[-1, -1] = 1.0
    return image, kernel, output


def _coefficients(roots: Tensor) -> Tensor:
    """Of the product of (x - root), from the constant up."""
    found = roots.new_ones(1)
    for root in roots:
        found = pad(found, (1, 0)) - root * pad(found, (0, 1))
    return found
