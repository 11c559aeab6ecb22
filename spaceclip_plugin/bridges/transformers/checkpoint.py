"""A saved tower with its head in transformers' layout: the config, the tower it builds, and weights that must match.

What a file says is never executed: it names one of a few model types, and fills that type's own config with values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spaceclip_plugin import DepthHead, DepthHeadConfig
from spaceclip_plugin._checks import shown
from spaceclip_plugin._files import atomic_path, read_json_object, write_json
from spaceclip_plugin.errors import CheckpointError, ConfigError, nearest
from spaceclip_plugin.head import weights
from spaceclip_plugin.head.folder import CONFIG_NAME, WEIGHTS_NAME, check_replaceable
from spaceclip_plugin.towers import ImageStatistics, Tower, registry

TOWER_TYPES = ("clip_vision_model", "siglip_vision_model", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
"""Model types a saved tower may have; another one in a file is refused before its class is looked up."""

_HINT = (
    ". A tower that was changed (adapters, a pooling layer left out) or a fused head cannot be saved; between versions "
    "transformers renames weights of some types"
)
# Settings that have transformers load something from elsewhere, or that depend on the machine.
_NEVER_IN_A_TOWER = frozenset({"auto_map", "attn_implementation", "experts_implementation", "quantization_config"})


class SpaceClipDepthConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """What a saved model is made of, as plain values; transformers asks for the keyword arguments of any config.

    Attributes:
        tower: the tower's own config with its model type, one of `TOWER_TYPES`; None where the tower is of no such
            type, and the model cannot be saved.
        head: the head's config, as `DepthHeadConfig.to_dict` gives it.
        adapter: name of the adapter that reads the tower; None for the one that finds it.
        statistics: "mean" and "std", three numbers each, that images in [0, 1] are normalised with, where the host
            declared them; None: those of the tower's family.

    Example:
        >>> config = SpaceClipDepthConfig(tower={"model_type": "clip_vision_model"}, adapter="clip")
        >>> config.parts["adapter"]
        'clip'
    """

    model_type = "spaceclip_depth"

    def __init__(
        self,
        tower: Mapping[str, Any] | None = None,
        head: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        statistics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.tower, self.head, self.adapter, self.statistics = tower, head, adapter, statistics
        super().__init__(**kwargs)

    @property
    def parts(self) -> dict[str, Any]:
        """These attributes alone, as JSON gives them back; files without statistics stay as they always were."""
        parts = {"tower": self.tower, "head": self.head, "adapter": self.adapter}
        if self.statistics is not None:
            parts["statistics"] = self.statistics
        plain: dict[str, Any] = json.loads(json.dumps(parts))
        return plain


def tower_config(module: nn.Module) -> dict[str, Any] | None:
    """The config that builds this tower again, without what every config has; None for a tower of another kind."""
    config = getattr(module, "config", None)
    if not isinstance(config, PretrainedConfig) or config.model_type not in TOWER_TYPES:
        return None
    common = PretrainedConfig().to_dict().keys() | _NEVER_IN_A_TOWER
    own = {key: value for key, value in config.to_dict().items() if key not in common and not key.startswith("_")}
    return {**own, "model_type": config.model_type}


def build_tower(config: SpaceClipDepthConfig) -> Tower:
    """The tower that a config describes, with random weights; CheckpointError where none can be built.

    HostError where the adapter is not installed or finds no tower in it.
    """
    values = config.tower
    if not isinstance(values, Mapping) or not isinstance(config.adapter, str | None):
        raise CheckpointError(
            f"the config must name a tower and an adapter, got {shown(values)}, {shown(config.adapter)}; towers of "
            f"these types can be saved: {', '.join(TOWER_TYPES)}"
        )
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in TOWER_TYPES:
        hint = f"{nearest(str(kind), TOWER_TYPES)}, expected one of {', '.join(TOWER_TYPES)}"
        raise CheckpointError(f"the tower is of type {shown(kind)}{hint}")
    for key in values:
        if key in _NEVER_IN_A_TOWER or key.startswith("_"):
            raise CheckpointError(f"the tower's config holds {shown(key)}, which no saved tower has; save it again")
    if kind not in CONFIG_MAPPING:
        raise CheckpointError(f"this transformers knows no {kind!r} tower; use the version the model was saved with")
    try:
        own = CONFIG_MAPPING[kind](**{key: value for key, value in values.items() if key != "model_type"})
        model = AutoModel.from_config(own)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a foreign class raises on sizes that cannot be
        raise CheckpointError(
            f"transformers cannot build the {kind!r} tower of the config: {type(error).__name__}: {error}"
        ) from error
    if config.statistics is not None:
        try:
            ImageStatistics(**config.statistics).declare(model)
        except (TypeError, ConfigError) as error:
            given = shown(config.statistics)
            raise CheckpointError(f"the config's statistics must be mean and std, got {given}: {error}") from error
    return registry.find_tower(model, adapter=config.adapter)


def head_config(config: SpaceClipDepthConfig) -> DepthHeadConfig:
    """The config of the head; CheckpointError where it is none."""
    try:
        return DepthHeadConfig.from_dict(config.head or {})
    except ConfigError as error:
        raise CheckpointError(f"the head's config: {error}") from error


def image_processor_class() -> Any:
    """DPT's: it resizes depth back to the photo (from transformers 4.46), and its PIL form resizes photos as we do."""
    return getattr(transformers, "DPTImageProcessorPil", None) or transformers.DPTImageProcessor


def read_config(folder: Path) -> SpaceClipDepthConfig:
    """The config of the model in `folder`; CheckpointError where there is none, or it is another model's."""
    values: dict[str, Any] = read_json_object(folder / CONFIG_NAME)
    if values.get("model_type") != SpaceClipDepthConfig.model_type:
        raise CheckpointError(
            f"{str(folder / CONFIG_NAME)!r} is of model type {shown(values.get('model_type'))}, "
            f"expected {SpaceClipDepthConfig.model_type!r}"
        )
    return SpaceClipDepthConfig(**{name: values.get(name) for name in ("tower", "head", "adapter", "statistics")})


def write_model(folder: Path, config: SpaceClipDepthConfig, parts: Mapping[str, nn.Module]) -> None:
    """Write weights and config, each whole or not at all; the weights carry the config they belong to.

    CheckpointError where the folder holds another kind of model, such as the host that the tower came from.
    """
    tensors = weights.writable(_state(parts))
    check_replaceable(folder, lambda _: read_config(folder), kind=f"a {SpaceClipDepthConfig.model_type!r} model")
    weights.check_kinds(tensors, _expected(config), source="the model", hint=_HINT)
    try:
        with atomic_path(folder / WEIGHTS_NAME) as weights_file:
            weights.write_weights(weights_file, tensors, config.parts)
        write_json(folder / CONFIG_NAME, config.to_diff_dict())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"cannot write a model to {str(folder)!r}: {error}") from error


def read_weights(folder: Path, config: SpaceClipDepthConfig) -> dict[str, Tensor]:
    """The weights in `folder`, in their own dtypes; CheckpointError where they are not what the config builds."""
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{str(folder)!r} has no {WEIGHTS_NAME}: expected a local folder as save_pretrained writes it, with one "
            "safetensors file (pickles are never read); save or download it again"
        )
    found = weights.read_weights(path, _expected(config), hint=_HINT)
    if found.config != config.parts:
        raise CheckpointError(
            f"{str(path)!r} was not saved with the config beside it: a save was interrupted, or {CONFIG_NAME} was "
            "edited; save or download the model again"
        )
    for name, value in found.state.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{str(path)!r}: {name!r} holds NaN or infinity")
    return found.state


def _expected(config: SpaceClipDepthConfig) -> dict[str, Tensor]:
    """Names, shapes and dtypes of what the config builds."""
    with torch.device("meta"):  # a config that asks for gigabytes is refused before any are taken
        return _state({"tower": build_tower(config).module, "head": DepthHead(head_config(config))})


def _state(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
