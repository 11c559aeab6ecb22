"""Parts of fused decoders: layers of inference alone, built from weights that were combined in float64."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def exact(value: Tensor | nn.Module | None) -> Tensor:  # as attributes of layers are typed
    """A weight as a float64 copy on the CPU, to be combined without rounding; a fused head shares no memory."""
    return cast(Tensor, value).detach().to("cpu", torch.float64, copy=True)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution without bias and the batch norm after it, in eval mode."""
    scale = exact(norm.weight) / (exact(norm.running_var) + norm.eps).sqrt()
    return exact(conv.weight) * scale[:, None, None, None], exact(norm.bias) - exact(norm.running_mean) * scale


def parameter(value: Tensor) -> nn.Parameter:
    """A frozen parameter; the kernels of a convolution lie channels last."""
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return nn.Parameter(value.contiguous(memory_format=layout), requires_grad=False)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The layer of a weight (out, in) and a bias (out,)."""
    return _with_weights(nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight, bias)


def convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The layer of kernels (out, in, k, k), k odd, that keeps height and width."""
    outgoing, incoming, kernel, _ = weight.shape
    kind = Pointwise if kernel == 1 else nn.Conv2d
    layer = kind(incoming, outgoing, kernel, padding=kernel // 2, device="meta")
    return _with_weights(layer, weight, bias)


def transposed(weight: Tensor, bias: Tensor, *, padding: int) -> nn.ConvTranspose2d:
    """The layer of kernels (in, out, k, k) at stride 2."""
    incoming, outgoing, kernel, _ = weight.shape
    layer = nn.ConvTranspose2d(incoming, outgoing, kernel, stride=2, padding=padding, device="meta")
    return _with_weights(layer, weight, bias)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h, w)."""
        return pointwise(x, self.weight, self.bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve (B, in, h, w) with kernels (out, in, 1, 1)."""
    # Dilation means nothing to a 1x1, but of those PyTorch hands oneDNN only the dilated ones on a single CPU thread in
    # float32, and its own kernel takes twice as long.
    dilated = x.device.type == "cpu" and x.dtype == torch.float32 and _ONEDNN
    return conv2d(x, weight, bias, dilation=2 if dilated else 1)


def _with_weights(layer: _Layer, weight: Tensor, bias: Tensor) -> _Layer:
    layer.weight, layer.bias = parameter(weight), parameter(bias)
    return layer
