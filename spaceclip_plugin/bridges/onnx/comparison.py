"""Does an ONNX file give what torch gives? ONNX Runtime and the head, on the same random features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from spaceclip_plugin import DepthHead
from spaceclip_plugin.depth.strangeness import strange_sd
from spaceclip_plugin.errors import ExportError
from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.towers import TowerFeatures

OUTPUT, UNCERTAINTY, FAMILIARITY, CAMERA_SCALE = "depth_m", "uncertainty_m", "familiarity", "camera_scale"
"""What a file may give, by name."""
TOLERANCE = 1e-4
"""Of the standard deviation of what is compared."""
ROUNDING = 16 * torch.finfo(torch.float32).eps
"""Of the largest value, on top: what float32 itself loses where depth hardly varies, as that of a fresh head does."""
_RANKS = 2  # training images that rounding may move an image past, in familiarity


@dataclass(frozen=True)
class Comparison:
    """One batch run through the file and through torch.

    Attributes:
        batch: images in it.
        grid_hw: patch grid of the deepest hidden state that the head reads.
        difference_m: largest difference of a pixel, in metres.
        allowed_m: the largest that would still have passed.
        std_m: standard deviation of torch's depth.
        others: largest difference of every other output that varies, by name.

    Example:
        >>> Comparison(batch=1, grid_hw=(14, 14), difference_m=2e-6, allowed_m=1e-4, std_m=0.9).grid_hw
        (14, 14)
    """

    batch: int
    grid_hw: tuple[int, int]
    difference_m: float
    allowed_m: float
    std_m: float
    others: Mapping[str, float] = field(default_factory=dict)


def random_features(
    head: DepthHead, batch: int, grid_hw: tuple[int, int], output_hw: tuple[int, int], *, seed: int
) -> TowerFeatures:
    """Normal features a head can read; of several stages, each grid is twice as fine as that of the next wider map.

    A head that tells familiar images apart is given some.
    """
    random = torch.Generator().manual_seed(seed)
    width_of = head.config.width_of
    stages = sorted(set(width_of.values()), reverse=True)
    hidden = {
        tap: torch.randn(batch, width, *(side << stages.index(width) for side in grid_hw), generator=random)
        for tap, width in width_of.items()
    }
    if (known := head.familiarity) is not None:
        usual = torch.randn(batch, known.options.directions, generator=random) * known.variances.sqrt().cpu()
        tokens = known.mean.cpu() + known.deviation.cpu() * (usual @ known.directions.cpu())
        patches = hidden[known.options.tap]
        patches += (tokens - patches.mean(dim=(2, 3)))[:, :, None, None]
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


def outputs(head: DepthHead, output: HeadOutput, features: TowerFeatures, scale: float) -> dict[str, Tensor]:
    """What a file makes of that output of the head's decoder, by name; metres times `scale`.

    The uncertainty is as `DepthAttachment.read` gives it: wider where an image is not familiar.
    """
    found = {OUTPUT: _times(output.present_m, scale)}
    familiarity = None if head.familiarity is None else head.familiarity(features.hidden[head.familiarity.options.tap])
    if output.uncertainty_m is not None:
        found[UNCERTAINTY] = _times(_widened(output, familiarity), scale)
    if familiarity is not None:
        found[FAMILIARITY] = familiarity
    return found


def _widened(output: HeadOutput, familiarity: Tensor | None) -> Tensor:
    sd_m = cast(Tensor, output.uncertainty_m)
    if familiarity is None:
        return sd_m
    strange_m = strange_sd(familiarity)[:, None, None] * output.depth_m
    return (sd_m.square() + strange_m.square()).sqrt()  # `widened` without hypot, which is no operator of ONNX


def _times(values: Tensor, scale: float) -> Tensor:
    return values if scale == 1.0 else values * scale


def _compared(head: DepthHead, session: Any, features: TowerFeatures, scale: float) -> Comparison:
    with torch.no_grad():
        output: HeadOutput = head(features)
        expected = outputs(head, output, features, scale) | {CAMERA_SCALE: torch.tensor([scale])}
    inputs = {name: value.numpy() for name, value in named_inputs(features).items()}
    found = dict(zip(expected, map(torch.from_numpy, session.run(list(expected), inputs)), strict=True))
    batch, _, rows, columns = features.hidden[head.taps[-1]].shape
    where = f"for {batch} images on a grid of {rows}x{columns} the file"
    for name, right in expected.items():
        if found[name].shape != right.shape or found[name].dtype != right.dtype:
            raise ExportError(
                f"{where} gives {found[name].dtype} {name} of shape {tuple(found[name].shape)}, torch gives "
                f"{right.dtype} of {tuple(right.shape)}; nothing was written"
            )
    if FAMILIARITY in expected and UNCERTAINTY in expected:  # a rank's difference in that is none in this
        expected[UNCERTAINTY] = _times(_widened(output, found[FAMILIARITY]), scale)
    allowed = {name: _allowed(right) for name, right in expected.items()}
    if head.familiarity is not None:
        allowed[FAMILIARITY] = _RANKS / head.familiarity.options.references
    if output.empty is not None:  # rounding decides whether something is there where that is as likely as not
        found[OUTPUT] = found[OUTPUT].where((output.empty - 0.5).abs() > ROUNDING, expected[OUTPUT])
    differences = {name: (found[name] - right).abs().max().item() for name, right in expected.items()}
    std = expected[OUTPUT].double().std(correction=0).item()
    for name, difference in differences.items():
        if not difference <= allowed[name]:  # NaN included
            told = f" at a standard deviation of {std:.3g} m" if name == OUTPUT else ""
            raise ExportError(
                f"{where}'s {name} differs from torch's by up to {difference:.3g}{_unit(name)}, allowed are "
                f"{allowed[name]:.3g}{_unit(name)}{told}; nothing was written"
            )
    others = {name: difference for name, difference in differences.items() if name not in (OUTPUT, CAMERA_SCALE)}
    return Comparison(batch, (rows, columns), differences[OUTPUT], allowed[OUTPUT], std, others)


def _allowed(values: Tensor) -> float:
    return TOLERANCE * values.double().std(correction=0).item() + ROUNDING * values.abs().max().item()


def _unit(name: str) -> str:
    return " m" if name.endswith("_m") else ""
