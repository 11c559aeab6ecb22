"""Hosts of transformers by Hub id or local folder: their own weights, their own image processor's statistics."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import Tensor, nn

from spaceclip_adapters.hosts.absent_parts import check_unexpected, drop_absent
from spaceclip_adapters.hosts.declared_processor import declare_processor
from spaceclip_adapters.hosts.hub_files import fetch
from spaceclip_adapters.hosts.weights import (
    differences,
    few,
    first_line,
    fixed_randomness,
    frozen,
    load_fitting,
    not_a_state_dict,
    read_safetensors,
    warn_of_random_weights,
)
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import ImageStatistics

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

_REMEDIES = (
    "Download it beforehand (`huggingface_hub.snapshot_download({name!r})`) or give a local folder of config.json and "
    "safetensors weights; a folder of config.json alone does with `--host-weights FILE`."
)


def load_hf(
    name: str, weights: Path | None = None, *, random: bool = False, statistics: ImageStatistics | None = None
) -> nn.Module:
    """The transformers model of a Hub id or local folder, frozen and in eval mode, with its own weights.

    Its `image_mean` and `image_std` are its image processor's, and so is how photos are prepared for it. Parts that the
    checkpoint has no weights for and that no tower needs (a pooler, a classifier) are left out of it; no weight is ever
    made up.

    Args:
        name: a Hub id, or a folder as `save_pretrained` writes it.
        weights: a safetensors state dict instead of its own weights.
        random: random weights from a fixed seed instead; the config alone is read.
        statistics: what the user says of the images; the processor then need not be understood.

    Raises:
        HostError: the folder or Hub repository cannot be read, has no safetensors weights, needs code of its own, the
            weights are not its own, or its image processor does what no mean and deviation can say.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder, needs_weights=weights is None and not random)
        name = str(folder)
    commit = None if folder.is_dir() else _commit(name)
    config = _hf_config(name, commit)
    if random:
        model = _empty(name, config, {})
        warn_of_random_weights(name)
    else:
        model = _pretrained(name, config, commit) if weights is None else _filled(name, config, weights)
        model._commit_hash = commit if weights is None else None  # type: ignore[assignment]
    declare_processor(model, name, config, commit=commit, said=statistics)
    return frozen(model)


def _check_folder(folder: Path, *, needs_weights: bool) -> None:
    """Refuses a folder that is not a transformers model before transformers turns to the network for it."""
    if not (folder / "config.json").is_file():
        raise HostError(f"{folder} has no config.json; give the folder that `save_pretrained` wrote, or a Hub id.")
    if needs_weights and not any(folder.glob("*.safetensors")):
        pickled = (
            " (its .bin weights are pickle, which can run code and is not read)" if any(folder.glob("*.bin")) else ""
        )
        raise HostError(
            f"{folder} has a config.json but no safetensors weights{pickled}. Give a state dict with "
            "`--host-weights FILE`, or write the folder anew with `save_pretrained(..., safe_serialization=True)`."
        )


def _commit(name: str) -> str | None:
    """The commit that a repository's main branch is at, of which everything is then read; None where it is not had."""
    try:
        return fetch(name, ["config.json"], remedies="").commit
    except HostError:  # said better where transformers is asked for the config
        return None


def _pinned(commit: str | None) -> dict[str, Any]:
    return {} if commit is None else {"revision": commit}


def _hf_config(name: str, commit: str | None) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False, **_pinned(commit))
    except (ValueError, KeyError) as error:  # unknown model_type, code of its own, or no valid Hub id
        raise HostError(
            f"transformers cannot describe {name!r}: {first_line(error)}. Check the name, upgrade transformers, or "
            "build the host yourself and pass `python:module:function`."
        ) from error
    except OSError as error:
        raise HostError(
            f"{name!r} is no local folder, and the Hub did not give it: no network, offline mode, or no such model "
            f"({first_line(error)}). {_REMEDIES.format(name=name)}"
        ) from error
    return config


def _class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class the weights were saved from: the bare `AutoModel` has other keys, and for some hosts none at all."""
    import transformers

    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return None


def _empty(name: str, config: PretrainedConfig, options: Mapping[str, Any]) -> nn.Module:
    """The model of a config, its weights yet to come."""
    import transformers

    auto: Any = transformers.AutoModel
    build = _class(config) or auto.from_config
    try:
        with fixed_randomness():
            model: nn.Module = build(config, **options)
    except ValueError as error:
        raise HostError(f"transformers has no model for the config of {name!r}: {first_line(error)}") from error
    return model


def _filled(name: str, config: PretrainedConfig, weights: Path) -> nn.Module:
    """The model with the state dict in a file, without the parts that the file lacks and no tower needs."""
    given, source = read_safetensors(weights), str(weights)
    model, missing, unexpected = _filled_with(given, name, config, {}, source)
    if missing and not unexpected:
        leaner, options = _leaner(model, config, missing)
        if leaner is not None:
            model, missing, unexpected = _filled_with(given, name, leaner, options, source)
    if unexpected or len(missing) == len(model.state_dict()):
        raise not_a_state_dict(source, name, missing, unexpected)
    drop_absent(model, missing, source=source)
    return model


def _filled_with(
    given: Mapping[str, Tensor], name: str, config: PretrainedConfig, options: Mapping[str, Any], source: str
) -> tuple[nn.Module, list[str], list[str]]:
    """The model with those weights that it has, and what was missing and unexpected."""
    model = _empty(name, config, options)
    missing, unexpected = differences(model, given)
    if not unexpected:
        load_fitting(model, name, given, source=source)
        return model, missing, unexpected
    # Saved under names of another version of transformers, which knows how to convert them.
    converted, report = _from_pretrained(None, config, {**options, "state_dict": dict(given)}, shown=source)
    if report["unexpected_keys"]:
        return model, missing, unexpected
    return converted, list(report["missing_keys"]), []


def _pretrained(name: str, config: PretrainedConfig, commit: str | None) -> nn.Module:
    """The model with its own weights: transformers would fill what is missing with random ones."""
    own: dict[str, Any] = {"use_safetensors": True, **_pinned(commit)}
    model, report = _from_pretrained(name, config, own, shown=name)
    missing = list(report["missing_keys"])
    if missing:
        leaner, options = _leaner(model, config, missing)
        if leaner is not None:
            model, report = _from_pretrained(name, leaner, {**own, **options}, shown=name)
            missing = list(report["missing_keys"])
    source = f"the checkpoint of {name!r}"
    check_unexpected(model, list(report["unexpected_keys"]), source=source)
    drop_absent(model, missing, source=source)
    return model


def _from_pretrained(
    name: str | None, config: PretrainedConfig, options: Mapping[str, Any], *, shown: str
) -> tuple[nn.Module, dict[str, Iterable[str]]]:
    """What transformers makes of a config and weights, and its report of what was missing and unexpected."""
    import transformers

    model: nn.Module
    report: dict[str, Iterable[str]]
    model_class: Any = _class(config) or transformers.AutoModel
    try:
        with fixed_randomness():
            model, report = model_class.from_pretrained(
                name, config=config, trust_remote_code=False, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        remedies = _REMEDIES.format(name=shown)
        raise HostError(
            f"no safetensors weights could be loaded for {shown!r}: {first_line(error)}. {remedies}"
        ) from error
    except (AttributeError, KeyError, TypeError) as error:  # a class that does not take such a config
        raise HostError(
            f"transformers cannot build a {model_class.__name__} of the config of {shown!r}: {first_line(error)}. Name "
            "the class the weights were saved from in `architectures` of config.json."
        ) from error
    return model, report


def _leaner(
    model: nn.Module, config: PretrainedConfig, missing: Iterable[str]
) -> tuple[PretrainedConfig | None, dict[str, Any]]:
    """Config and options that build the model without a pooler or pooling head, as its own library leaves them out."""
    steps = {step for key in missing for step in key.split(".")}
    leaner, options = deepcopy(config), {}
    if "pooler" in steps and "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
        options["add_pooling_layer"] = False
    headless = False
    for part in (leaner, getattr(leaner, "vision_config", None)) if "head" in steps else ():
        if str(getattr(part, "model_type", "")).startswith("siglip"):
            part.vision_use_head = False  # type: ignore[union-attr]
            headless = True
        if isinstance(getattr(part, "use_head", None), bool):
            part.use_head = False  # type: ignore[union-attr]
            headless = True
    if not options and not headless:
        return None, {}
    logger.warning(
        "the weights of a %s lack a pooler or pooling head (%s): it is built without",
        type(model).__name__,
        few(missing),
    )
    return leaner, options
