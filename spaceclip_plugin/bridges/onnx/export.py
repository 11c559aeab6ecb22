"""A head as an ONNX file: tapped hidden states in, metric depth out, for runtimes without torch.

The file takes its name only when ONNX Runtime has given torch's depth with it, on other batches and grids than traced.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spaceclip_plugin import DepthHead, __version__, _checks
from spaceclip_plugin._files import atomic_path
from spaceclip_plugin.bridges.onnx.comparison import (
    CAMERA_SCALE,
    FAMILIARITY,
    OUTPUT,
    UNCERTAINTY,
    Comparison,
    compare,
    named_inputs,
    outputs,
    random_features,
)
from spaceclip_plugin.bridges.optional import imported
from spaceclip_plugin.depth.camera import FocalLength, checked_focal_length
from spaceclip_plugin.depth.depth_map import ASSUMED, KNOWN, UNKNOWN
from spaceclip_plugin.errors import ConfigError, ExportError
from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.head.decoder import predicts_uncertainty
from spaceclip_plugin.head.depth_head import MAX_OUTPUT_SIDE, checked_size
from spaceclip_plugin.towers import TowerFeatures

OPSET = 18
"""The oldest operator set that torch's exporter writes, and so the one that most runtimes read."""
OLDEST_TORCH = "2.11"
"""Seen to work. 2.9 refuses a fixed output size on a free grid, 2.6 every resize to a size known only at run time."""

_FOCAL_LENGTH_MEANS = (
    "(fx / width, fy / height) of the image the tower sees, of the camera whose metres depth_m is in; for another "
    "camera, multiply depth_m by sqrt(fx' / fx * fy' / fy)"
)
_MEANINGS = {
    OUTPUT: "depth in metres along the optical axis, of the part of the image that the patches cover",
    UNCERTAINTY: "standard deviation of depth_m in metres; wider where an image is not familiar",
    FAMILIARITY: "in [0, 1], near 0 for images unlike those the head was trained on: below 0.05 do not use their depth",
    CAMERA_SCALE: "what the head's own metres were multiplied by, for the camera of focal_length",
}
_MAX_BYTES = 2**31 - 2**24  # protobuf ends at 2 GiB; the rest is room for the graph
_TRACED_BATCH, _TRACED_GRID = 2, (5, 7)  # neither 1, which the exporter takes for a constant, nor two alike


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    Attributes:
        path: where.
        inputs: shape by name, dynamic sizes as names: `hidden_N` (batch, C, h, w), then `context` (batch, C) and
            `pixels` (batch, 3, height, width) where the head reads them.
        output: shape of `depth_m`, (batch, H, W).
        opset: version of the operator set.
        file_bytes: size of the file.
        comparisons: what ONNX Runtime was seen to give.
        focal_length: of the camera that the metres hold for, over the width and height of the image the tower sees;
            None where the head does not tell.
        lens: "known" where that camera was given, "assumed" where it is the head's own, else "unknown".
        beside: shapes of the other outputs by name: `uncertainty_m` (batch, H, W) and `familiarity` (batch) where the
            head tells them, `camera_scale` (1).

    Example:
        >>> from pathlib import Path
        >>> shapes = {"hidden_5": ("batch", 768, "h", "w")}
        >>> OnnxFile(Path("head.onnx"), shapes, ("batch", "14*h", "14*w"), 18, 4096, ()).inputs["hidden_5"]
        ('batch', 768, 'h', 'w')
    """

    path: Path
    inputs: dict[str, tuple[int | str, ...]]
    output: tuple[int | str, ...]
    opset: int
    file_bytes: int
    comparisons: tuple[Comparison, ...]
    focal_length: FocalLength | None = None
    lens: str = UNKNOWN
    beside: dict[str, tuple[int | str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputSize:
    """Size of the depth: a multiple of the grid of the deepest tap, or fixed."""

    patch_size: int | None
    output_hw: tuple[int, int] | None

    def __post_init__(self) -> None:
        if (self.patch_size is None) == (self.output_hw is None):
            raise ConfigError(
                "give patch_size, for depth at a multiple of the grid, or output_hw, for one size: not both"
            )
        if self.patch_size is not None:
            _checks.whole("patch_size", self.patch_size, 1, 1024)
        else:
            object.__setattr__(self, "output_hw", checked_size(self.output_hw))

    def of(self, grid_hw: tuple[int, int]) -> tuple[int, int]:
        """(H, W) in pixels; while tracing, the sides of the grid are symbols."""
        patch = self.patch_size or 1
        return self.output_hw or (patch * grid_hw[0], patch * grid_hw[1])


@dataclass(frozen=True)
class _Camera:
    """Whose metres a file gives."""

    focal_length: FocalLength | None
    lens: str
    scale: float  # of the head's own metres

    @classmethod
    def of(cls, head: DepthHead, given: FocalLength | None) -> _Camera:
        """The camera that is given, or the one the head assumes."""
        own = head.config.focal_length
        if given is None:
            return cls(own, UNKNOWN if own is None else ASSUMED, 1.0)
        return cls(checked_focal_length(given), KNOWN, head.config.scale_for(given))


def export_onnx(
    head: DepthHead,
    path: str | Path,
    *,
    patch_size: int | None = None,
    output_hw: tuple[int, int] | None = None,
    grid_hw: tuple[int, int] = (14, 14),
    focal_length: FocalLength | None = None,
) -> OnnxFile:
    """Write a head as one ONNX file with a dynamic batch and a dynamic grid, float32 throughout.

    Inputs are `hidden_N` (B, C, h, w) for every tap N, patch maps as in `TowerFeatures`, and `context` (B, C) where the
    head reads one. The output is `depth_m` (B, H, W) in metres along the optical axis, 0 where a head that tells
    it says that nothing is there (`HeadOutput.empty`). The file's metadata has the
    head's config and says whose metres they are; how familiar an image is, the file does not tell. The head itself
    stays as it is, its mode, dtype and device too.

    The depth covers the patches, and no more: of a tower whose patches do not divide its image (384 pixels, 27 patches
    of 14) it is depth of the upper left 378x378 pixels, at whatever size, and must not be stretched over 384. A
    `DepthMap` sees to that by itself (`TowerFeatures.seen`); who runs the file does it: `patch_size=14` gives those 378
    pixels one by one.

    Args:
        head: any `DepthHead` but a fused one.
        path: the file; an older one is replaced if the new one is right.
        patch_size: H and W are this multiple of the grid of the deepest tap: pixels per patch, for depth of the pixels
            that the tower reads. Either this or `output_hw`.
        output_hw: (H, W) in pixels, whatever the grid: for depth at another size.
        grid_hw: grid to compare at; a second comparison has one row more.
        focal_length: (fx, fy) over the width and height of the image the tower sees, of the camera whose metres the
            file is to give, see `Intrinsics.focal_length`; the factor becomes part of the graph. None: the metres of
            the camera that the head assumes.

    Returns:
        What was written, and what ONNX Runtime was seen to give.

    Raises:
        ConfigError: not just one of `patch_size` and `output_hw`, an impossible size, a path that cannot be written, a
            fused head, or a `focal_length` that no camera has or for a head that does not tell its own.
        ExportError: torch is too old, a package is missing, the head cannot be converted, or the file does not give
            torch's depth. What was at `path` before is still there.

    Example:
        >>> head = DepthHead.from_pretrained("head")  # doctest: +SKIP
        >>> export_onnx(head, "head.onnx", patch_size=14).output  # doctest: +SKIP
        ('batch', '14*h', '14*w')
    """
    if head.fused:  # ONNX Runtime took 1.9 times as long for one as for the head it was made from
        raise ConfigError(
            "a fused head is arranged for torch; export the head it was made from: runtimes fuse operations themselves"
        )
    size = OutputSize(patch_size, output_hw)
    rows, columns = _checks.wholes("grid_hw", grid_hw, 1, 256, length=2)
    camera = _Camera.of(head, focal_length)
    if torch.__version__ < OLDEST_TORCH:
        raise ExportError(
            f"writing ONNX needs torch {OLDEST_TORCH} or newer, this is {torch.__version__}; update torch"
        )
    packages = ("onnx", "onnxscript", "onnxruntime")
    onnx, _, onnxruntime = imported(*packages, needed_for="writing ONNX", extra="export", error=ExportError)
    plain = copy.deepcopy(head).to("cpu", torch.float32).eval().requires_grad_(False)
    if sum(4 * value.numel() for value in plain.state_dict().values()) > _MAX_BYTES:
        raise ExportError("the weights of the head are more than one ONNX file can hold (2 GiB)")
    cases = [
        random_features(plain, batch, grid, size.of(grid), seed=batch)
        for batch, grid in ((1, (rows, columns)), (3, (rows + 1, columns)))
    ]
    with atomic_path(path) as temporary:
        model = _converted(plain, size, camera.scale)
        _tell(camera.scale, model, onnx)
        _describe(model, plain, size, camera)
        temporary.write_bytes(model.SerializeToString())
        comparisons = compare(plain, temporary, cases, onnxruntime, scale=camera.scale)
        file_bytes = temporary.stat().st_size
    inputs = {value.name: _shape(value) for value in model.graph.input}
    shapes = {value.name: _shape(value) for value in model.graph.output}
    output = shapes.pop(OUTPUT)
    lens = camera.lens
    return OnnxFile(
        Path(path), inputs, output, OPSET, file_bytes, comparisons, camera.focal_length, lens, beside=shapes
    )


class _Graph(nn.Module):
    """A head from tensors to those of `outputs`; the checks of `DepthHead.forward` need values, not symbols."""

    def __init__(self, head: DepthHead, size: OutputSize, scale: float) -> None:
        super().__init__()
        self.head, self.size, self.scale = head, size, scale

    def forward(
        self, maps: tuple[Tensor, ...], context: Tensor | None = None, pixels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        output_hw = self.size.of((maps[-1].shape[-2], maps[-1].shape[-1]))
        if pixels is not None:  # to the size that the decoder takes them at: asking it there would fix the image's
            finest = self.head.config.options.pixels_per_patch
            height, width = maps[len(maps) // 2].shape[-2:]
            size = (finest * height, finest * width)
            pixels = interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        features = TowerFeatures(dict(zip(self.head.taps, maps, strict=True)), context, output_hw, pixels=pixels)
        output: HeadOutput = self.head.decoder(features, output_hw, auxiliary=False)
        return tuple(outputs(self.head, output, features, self.scale).values())


def _converted(head: DepthHead, size: OutputSize, scale: float) -> Any:
    """The ONNX model, whose metres are the head's times `scale`."""
    example = random_features(head, _TRACED_BATCH, _TRACED_GRID, size.of(_TRACED_GRID), seed=0)
    batch = torch.export.Dim("batch", max=2**16)
    # Taps of one grid share its two names; in a tower of several stages every tap has a grid of its own.
    ends = [f"_{tap}" if head.config.tap_widths is not None else "" for tap in head.taps]
    sides = {name: torch.export.Dim(name, max=MAX_OUTPUT_SIDE) for end in ends for name in (f"h{end}", f"w{end}")}
    dynamic: dict[str, Any] = {"maps": tuple({0: batch, 2: sides[f"h{end}"], 3: sides[f"w{end}"]} for end in ends)}
    arguments: tuple[Any, ...] = (tuple(example.hidden.values()),)
    named: dict[str, Any] = {}  # a None among the arguments would cost the sizes their names
    if example.context is not None:
        dynamic["context"], named["context"] = {0: batch}, example.context
    if example.pixels is not None:
        height, width = (torch.export.Dim(name, max=MAX_OUTPUT_SIDE) for name in ("height", "width"))
        dynamic["pixels"], named["pixels"] = {0: batch, 2: height, 3: width}, example.pixels
    try:
        with warnings.catch_warnings():  # about what is meant (taps share one grid), and about torch's own code
            warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            program = torch.onnx.export(
                _Graph(head, size, scale).eval(),
                arguments,
                kwargs=named,
                input_names=list(named_inputs(example)),
                output_names=_output_names(head),
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n", maxsplit=1)[0]
        raise ExportError(
            f"torch {torch.__version__} cannot convert a {head.config.architecture!r} head to ONNX: {reason}"
        ) from error
    model: Any = cast(Any, program).model_proto
    for value in model.graph.input:
        shape = _shape(value)
        if not all(isinstance(side, str) for side in (shape[0], *shape[2:])):
            raise ExportError(
                f"torch {torch.__version__} fixed sizes of {value.name!r} that must stay free: {shape}; "
                f"the {head.config.architecture!r} decoder decides something by them"
            )
    return model


def _output_names(head: DepthHead) -> list[str]:
    told = {UNCERTAINTY: predicts_uncertainty(head.decoder), FAMILIARITY: head.familiarity is not None}
    return [OUTPUT, *(name for name, there in told.items() if there)]


def _tell(scale: float, model: Any, onnx: Any) -> None:
    """Make that an output."""
    model.graph.node.append(onnx.helper.make_node("Constant", [], [CAMERA_SCALE], value_floats=[scale]))
    model.graph.output.append(onnx.helper.make_tensor_value_info(CAMERA_SCALE, onnx.TensorProto.FLOAT, [1]))


def _describe(model: Any, head: DepthHead, size: OutputSize, camera: _Camera) -> None:
    """Say in the file what it is; take out where the Python files lie that it came from."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    metadata = {
        "spaceclip_config": json.dumps(head.config.to_dict()),
        "spaceclip_version": __version__,
        "opset": str(OPSET),
        "units": "metres along the optical axis",
        "covers": "the patches: the part of the image that the tower reads",
        "trained": json.dumps(head.trained),
        "patch_size": json.dumps(size.patch_size),
        "output_hw": json.dumps(size.output_hw),
        "lens": camera.lens,
        "focal_length": json.dumps(camera.focal_length),
        "focal_length_means": _FOCAL_LENGTH_MEANS,
    }
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    for given in model.graph.input:
        given.doc_string = "patch map of a hidden state: prefix tokens dropped, rows as in the image"
        if given.name == "pixels":
            given.doc_string = "the tower's images, normalised for it, of the part that the patches cover"
        if given.name == "context":
            given.doc_string = f"global vector of the tower: {head.config.context}"
    for given in model.graph.output:
        given.doc_string = _MEANINGS[given.name]


def _shape(value: Any) -> tuple[int | str, ...]:
    return tuple(side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim)
