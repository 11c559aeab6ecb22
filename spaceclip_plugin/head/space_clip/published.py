"""Checkpoints of the published SPACE-CLIP code: their names and shapes → a config and weights of ours.
The one place that reads pickle, with `weights_only=True`, which builds tensors and plain containers alone."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.space_clip.decoder import SpaceClipOptions
from spaceclip_plugin.towers.spec import ATTENTION_POOL, CLS

TOWER_PREFIX = "clip_vision_model."
_PUBLISHED = SpaceClipOptions()
# Published name → ours, applied in order. The numbered children are those of the published nn.Sequentials.
_RENAMES = (
    (r"^film_param_generators\.", "film."),
    (r"^main_path_projections\.", "semantic_projections."),
    (r"^structural_path_projections\.", "structural_projections."),
    (r"^main_decoder_blocks\.", "semantic_stages."),
    (r"^structural_decoder_blocks\.", "structural_stages."),
    (r"^depth_prediction_head\.", "depth."),
    (r"^aux_depth_heads\.", "auxiliary."),
    (r"\.upsample_low\.upsample\.", ".up.transpose."),
    (r"\.upsample_low\.conv\.0\.", ".up.conv."),
    (r"\.upsample_low\.conv\.1\.", ".up.norm."),
    (r"\.skip_clip_gate\.0\.", ".semantic_gate."),
    (r"\.skip_struct_gate\.0\.", ".structural_gate."),
    (r"\.fusion_conv\.0\.", ".fuse."),
    (r"\.fusion_conv\.1\.", ".fuse_norm."),
    (r"\.fusion_conv\.3\.", ".residual."),
)
# What damaged bytes make of torch's unpickler, found by damaging checkpoints of both of its formats at random.
_UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError, pickle.PickleError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def read(
    path: Path, *, semantic_taps: Sequence[int] | None = None, structural_taps: Sequence[int] | None = None
) -> tuple[DepthHeadConfig, dict[str, Tensor]]:
    """The head in a published checkpoint, under our names, and the config its shapes imply; see
    `DepthHead.from_spaceclip_checkpoint`."""
    published = _model_state(path)
    head = {
        name: _whole_tensor(path, name, value) for name, value in published.items() if not name.startswith(TOWER_PREFIX)
    }
    tower = [name for name in published if name not in head]
    try:
        sizes, config = _untapped(head, tower, path)
    except ConfigError as error:
        raise CheckpointError(f"{str(path)!r} has the shapes of no head: {error}") from error
    try:
        options = dataclasses.replace(
            sizes,
            semantic_taps=_taps("semantic_taps", semantic_taps, _PUBLISHED.semantic_taps, len(sizes.semantic_taps)),
            structural_taps=_taps(
                "structural_taps", structural_taps, _PUBLISHED.structural_taps, len(sizes.structural_taps)
            ),
        )
        config = dataclasses.replace(config, options=options)
    except ConfigError as error:
        raise ConfigError(
            f"{str(path)!r}: {error}; a checkpoint does not tell its taps, pass those it was trained with"
        ) from error
    return config, {f"decoder.{_renamed(name)}": value for name, value in head.items()}


def _model_state(path: Path) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise CheckpointError(f"no checkpoint at {str(path)!r}: expected a file of the published SPACE-CLIP code")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is raised
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{str(path)!r} is not a checkpoint that can be read without running code from it ({_reason(error)}); "
            "expected tensors and plain containers as torch.save writes them"
        ) from error
    model = payload.get("model") if isinstance(payload, Mapping) else None
    if not isinstance(model, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in model.items()
    ):
        raise CheckpointError(
            f'{str(path)!r} is not a SPACE-CLIP checkpoint: expected {{"model": state_dict, …}} with named tensors'
        )
    return {name.removeprefix("module."): value for name, value in model.items()}


def _reason(error: BaseException) -> str:
    """What went wrong, in one line, without torch's advice to load the file unsafely."""
    lines = (line.strip() for line in str(error).splitlines())
    told = [line for line in lines if line and "weights_only" not in line and "torch.load" not in line]
    return f"{type(error).__name__}: {told[0][:200]}" if told else type(error).__name__


def _whole_tensor(path: Path, name: str, value: Tensor) -> Tensor:
    # A stride of zero lets a file of a kilobyte hold a tensor of a terabyte; sparse and meta tensors hold none at all.
    plain = value.layout is torch.strided and not value.is_meta and not value.is_quantized
    if not plain or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise CheckpointError(f"{str(path)!r}: {name!r} is not stored in full; expected a dense tensor")
    return value


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def _untapped(head: Mapping[str, Tensor], tower: Sequence[str], path: Path) -> tuple[SpaceClipOptions, DepthHeadConfig]:
    """Everything that names and shapes tell: the options and config of the head, with zeros for its taps."""
    semantic = _layers(head, path, "main_path_projections", "weight", dimensions=4)
    structural = _layers(head, path, "structural_path_projections", "weight", dimensions=4)
    film = _layers(head, path, "film_param_generators", "0.weight", dimensions=2)
    if not semantic:
        raise CheckpointError(f"{str(path)!r} holds no SPACE-CLIP decoder: no 'main_path_projections.0.weight' in it")
    options = SpaceClipOptions(
        semantic_taps=(0,) * len(semantic),
        structural_taps=(0,) * len(structural),
        channels=tuple(weight.shape[0] for weight in semantic),
        film_hidden=film[0].shape[0] if film else None,
        auxiliary=any(name.startswith("aux_depth_heads.") for name in head),
    )
    blocks = {int(m[1]) for name in tower if (m := re.search(r"encoder\.layers\.([0-9]{1,3})\.", name))}
    context = CLS if any(name.endswith("class_embedding") for name in tower) else None
    if any(name.endswith("head.probe") for name in tower):
        context = ATTENTION_POOL
    # A file name may hold bytes of no encoding and control codes; what a config says may not.
    printable = "".join(character if character.isprintable() else "?" for character in path.name)
    config = DepthHeadConfig(
        options=options,
        width=semantic[0].shape[1],
        blocks=max(blocks) + 1 if blocks else None,
        context=context,
        trained_on=f"SPACE-CLIP checkpoint {printable}"[:500],
    )
    return options, config


def _layers(head: Mapping[str, Tensor], path: Path, stack: str, layer: str, *, dimensions: int) -> list[Tensor]:
    """The weights `stack.0.layer`, `stack.1.layer`, … in order; empty where there is none."""
    matches = (re.fullmatch(rf"{stack}\.([0-9]{{1,3}})\.{re.escape(layer)}", name) for name in head)
    count = max((int(match[1]) + 1 for match in matches if match), default=0)
    found = []
    for name in (f"{stack}.{i}.{layer}" for i in range(count)):
        if name not in head:
            raise CheckpointError(f"{str(path)!r}: {name!r} is missing")
        if head[name].ndim != dimensions:
            raise CheckpointError(
                f"{str(path)!r}: {name!r} has shape {tuple(head[name].shape)}, expected {dimensions} dimensions"
            )
        found.append(head[name])
    return found


def _taps(name: str, given: Sequence[int] | None, published: tuple[int, ...], count: int) -> tuple[int, ...]:
    if given is not None:
        return _checks.wholes(name, given, 0, 512, length=count)
    if count not in (0, len(published)):
        raise ConfigError(f"{name}: the published {published} are for {len(published)} stages, this head has {count}")
    return published[:count]
