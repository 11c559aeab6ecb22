"""Checkpoints of the published SPACE-CLIP code: their names and shapes → a config and weights of ours.

The one place of the project that reads pickle, and only with `weights_only=True`, which builds tensors and plain
containers and calls nothing else.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.config import DepthHeadConfig
from spaceclip_plugin.head.space_clip import SpaceClipOptions
from spaceclip_plugin.tower import ATTENTION_POOL, CLS

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


def read(
    path: Path, *, semantic_taps: Sequence[int] | None = None, structural_taps: Sequence[int] | None = None
) -> tuple[DepthHeadConfig, dict[str, Tensor]]:
    """The head in a published checkpoint, under our names, and the config its shapes imply.

    Args:
        path: a file of `torch.save({"model": state_dict, …})`; names may carry a `module.` prefix.
        semantic_taps: hidden states of the semantic stream, deepest first; the published ones if None.
        structural_taps: the same for the structural stream.

    Raises:
        CheckpointError: not such a file, or without the weights that tell the head's sizes.
        ConfigError: taps that do not fit the number of stages.
    """
    published = _model_state(path)
    tower = {name: value for name, value in published.items() if name.startswith(TOWER_PREFIX)}
    state = {_renamed(name): value for name, value in published.items() if name not in tower}
    options = _options(state, path, semantic_taps, structural_taps)
    try:
        config = DepthHeadConfig(
            options=options,
            width=state["semantic_projections.0.weight"].shape[1],
            blocks=_tower_blocks(tower),
            context=_tower_context(tower),
            trained_on=f"SPACE-CLIP checkpoint {path.name}"[:500],
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config, {f"decoder.{name}": value for name, value in state.items()}


def _model_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {str(path)!r}: expected a file of the published SPACE-CLIP code")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError,
        AssertionError, ImportError, MemoryError, pickle.UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise CheckpointError(f"{path} is not a checkpoint that can be read safely (weights only): {reason}") from error
    model = payload.get("model") if isinstance(payload, Mapping) else None
    if not isinstance(model, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in model.items()
    ):
        raise CheckpointError(
            f'{path} is not a SPACE-CLIP checkpoint: expected {{"model": state_dict, …}} with named tensors'
        )
    return {name.removeprefix("module."): value for name, value in model.items()}


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMES:
        name = re.sub(pattern, ours, name)
    return name


def _options(
    state: Mapping[str, Tensor],
    path: Path,
    semantic_taps: Sequence[int] | None,
    structural_taps: Sequence[int] | None,
) -> SpaceClipOptions:
    semantic = _stacked(state, r"semantic_projections\.(\d+)\.weight", dimensions=4)
    structural = _stacked(state, r"structural_projections\.(\d+)\.weight", dimensions=4)
    film = _stacked(state, r"film\.(\d+)\.0\.weight", dimensions=2)
    if not semantic:
        raise CheckpointError(
            f"{path} holds no SPACE-CLIP decoder: no 4-D 'main_path_projections.0.weight' in its model"
        )
    if semantic_taps is None:
        semantic_taps = _PUBLISHED.semantic_taps[: len(semantic)]
    if structural_taps is None:
        structural_taps = _PUBLISHED.structural_taps[: len(structural)]
    if len(structural_taps) != len(structural):
        raise ConfigError(
            f"{path}: the checkpoint has {len(structural)} structural taps, got {tuple(structural_taps)!r}"
        )
    try:
        return SpaceClipOptions(
            semantic_taps=tuple(semantic_taps),
            structural_taps=tuple(structural_taps),
            channels=tuple(weight.shape[0] for weight in semantic),
            film_hidden=film[0].shape[0] if film else None,
            auxiliary=any(name.startswith("auxiliary.") for name in state),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _stacked(state: Mapping[str, Tensor], pattern: str, *, dimensions: int) -> list[Tensor]:
    """Weights of a numbered list of layers, in order, as long as the numbers run from 0 without a gap."""
    found = {int(m[1]): value for name, value in state.items() if (m := re.fullmatch(pattern, name))}
    ordered = [found[i] for i in range(len(found)) if i in found]
    return ordered if all(weight.ndim == dimensions for weight in ordered) else []


def _tower_blocks(tower: Mapping[str, Tensor]) -> int | None:
    numbers = {int(m[1]) for name in tower if (m := re.search(r"encoder\.layers\.(\d+)\.", name))}
    return max(numbers) + 1 if numbers else None


def _tower_context(tower: Mapping[str, Tensor]) -> str | None:
    if any(name.endswith("head.probe") for name in tower):
        return ATTENTION_POOL
    return CLS if any(name.endswith("class_embedding") for name in tower) else None
