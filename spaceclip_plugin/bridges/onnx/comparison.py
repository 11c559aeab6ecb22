"""Does an ONNX file give the depth that torch gives? ONNX Runtime and the head, on the same random features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spaceclip_plugin import DepthHead
from spaceclip_plugin.errors import ExportError
from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.towers import TowerFeatures

OUTPUT = "depth_m"
TOLERANCE = 1e-4
"""Of the depth's standard deviation."""
ROUNDING = 16 * torch.finfo(torch.float32).eps
"""Of the largest depth, on top: what float32 itself loses where depth hardly varies, as that of a fresh head does."""


@dataclass(frozen=True)
class Comparison:
    """One batch run through the file and through torch.

    Attributes:
        batch: images in it.
        grid_hw: patch grid of the deepest hidden state that the head reads.
        difference_m: largest difference of a pixel, in metres.
        allowed_m: the largest that would still have passed.
        std_m: standard deviation of torch's depth.

    Example:
        >>> Comparison(batch=1, grid_hw=(14, 14), difference_m=2e-6, allowed_m=1e-4, std_m=0.9).grid_hw
        (14, 14)
    """

    batch: int
    grid_hw: tuple[int, int]
    difference_m: float
    allowed_m: float
    std_m: float


def random_features(
    head: DepthHead, batch: int, grid_hw: tuple[int, int], output_hw: tuple[int, int], *, seed: int
) -> TowerFeatures:
    """Normal features a head can read; of several stages, each grid is twice as fine as that of the next wider map."""
    random = torch.Generator().manual_seed(seed)
    width_of = head.config.width_of
    stages = sorted(set(width_of.values()), reverse=True)
    hidden = {
        tap: torch.randn(batch, width, *(side << stages.index(width) for side in grid_hw), generator=random)
        for tap, width in width_of.items()
    }
    context = torch.randn(batch, head.config.width, generator=random) if head.uses_context else None
    pixels = torch.randn(batch, 3, *output_hw, generator=random) if head.uses_pixels else None
    return TowerFeatures(hidden, context, output_hw, pixels=pixels)


def named_inputs(features: TowerFeatures) -> dict[str, Tensor]:
    """The tensors by the names they have in a file: `hidden_N`, then `context` and `pixels` where there are any."""
    named = {f"hidden_{tap}": value for tap, value in features.hidden.items()}
    others = {"context": features.context, "pixels": features.pixels}
    return named | {name: value for name, value in others.items() if value is not None}


def compare(
    head: DepthHead, path: Path, cases: Sequence[TowerFeatures], onnxruntime: Any, *, scale: float = 1.0
) -> tuple[Comparison, ...]:
    """Every case through the file and through the head, which is on the CPU, in float32 and eval mode.

    The file is to give the head's metres times `scale`.

    ExportError where ONNX Runtime refuses the file, depth differs, or all of it is one value, which compares nothing.
    """
    native = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    raised = (kind for kind in native if isinstance(kind, type) and issubclass(kind, Exception))
    refusals: tuple[type[Exception], ...] = (ValueError, *raised)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        compared = tuple(_compared(head, session, features, scale) for features in cases)
    except refusals as error:
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot run the exported head: {error}") from error
    if all(case.std_m == 0 for case in compared):
        raise ExportError(
            "the head gives one depth everywhere, for every random input: nothing tells a right file from a wrong one. "
            "Was it trained?"
        )
    return compared


def _compared(head: DepthHead, session: Any, features: TowerFeatures, scale: float) -> Comparison:
    with torch.no_grad():
        output: HeadOutput = head(features)
    expected = output.present_m * scale
    inputs = {name: value.numpy() for name, value in named_inputs(features).items()}
    found = torch.from_numpy(session.run([OUTPUT], inputs)[0])
    batch, _, rows, columns = features.hidden[head.taps[-1]].shape
    where = f"for {batch} images on a grid of {rows}x{columns}"
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ExportError(
            f"{where} the file gives {found.dtype} depth of shape {tuple(found.shape)}, torch gives {expected.dtype} "
            f"of {tuple(expected.shape)}; nothing was written"
        )
    std = expected.double().std(correction=0).item()
    allowed = TOLERANCE * std + ROUNDING * expected.abs().max().item()
    if output.empty is not None:  # rounding decides whether something is there where that is as likely as not
        found = found.where((output.empty - 0.5).abs() > ROUNDING, expected)
    difference = (found - expected).abs().max().item()
    if not difference <= allowed:  # NaN included
        raise ExportError(
            f"{where} the file's depth differs from torch's by up to {difference:.3g} m, allowed are {allowed:.3g} m "
            f"at a standard deviation of {std:.3g} m; nothing was written"
        )
    return Comparison(batch, (rows, columns), difference, allowed, std)
